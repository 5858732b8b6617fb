"""A stack without containers, as a team uses it: real PostgreSQL, real S3 over HTTP, real MLflow with accounts."""

from __future__ import annotations

import io
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import stack_examples
from conftest import SMALL
from stack_examples import call, surroundings

from benchmarks.stack_logging import free_ports, log_from
from infra.stack import postgres, supervise
from infra.stack.layout import Layout, resolved
from infra.stack.processes import Started, session
from wsss import storage
from wsss.errors import UserError

WRITER = """
import sys
import time
from pathlib import Path
from wsss.git import GitState
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.tracking.runs import method_run
data = DatasetInfo("random", "", "0" * 64, {"train": 1})
info = RunInfo("cam", "demo", data, {}, frozenset(), 0, sys.argv[1] * 64, "0" * 64, GitState(None, False), "wsss run")
with method_run(info) as run:
    print(run.id, flush=True)
    for step in range(40):
        run.metrics({"train/loss": float(step)}, step)
        time.sleep(float(Path("pause").read_text()))
"""
"""A run that logs forty losses, as slowly as the file `pause` says."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Layout]:
    with stack_examples.started("mlflow") as layout:
        yield layout


@pytest.fixture
def researcher(stack, monkeypatch):
    """This process works on the stack as a researcher."""
    import boto3

    for name, value in resolved(stack.variables("researcher")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    storage.bucket._client.cache_clear()
    from wsss.tracking.connection import mlflow_client

    return mlflow_client()


def losses(client, run: str) -> list[float]:
    return [each.value for each in client.get_metric_history(run, "train/loss")]


def test_it_says_that_it_is_healthy_and_what_to_export(stack):
    told = call(stack.folder, "status")
    assert told.returncode == 0
    assert [line.split()[:2] for line in told.stdout.splitlines()[:3]] == [
        ["postgres", "healthy"],
        ["objects", "healthy"],
        ["mlflow", "healthy"],
    ]
    printed = call(stack.folder, "env").stdout
    variables = resolved(stack.variables("researcher"))
    done = subprocess.run(["bash", "-c", f"{printed}\nenv"], capture_output=True, text=True, check=True, env={})
    assert variables.items() <= dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line).items()


def test_no_secret_is_printed_logged_or_in_the_process_list_and_files_are_for_their_owner(stack):
    secrets = [word for file in stack.secrets.iterdir() for word in re.findall(r"[0-9a-f]{64}", file.read_text())]
    assert len(secrets) > 10 and stat.S_IMODE(stack.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in stack.secrets.iterdir()} == {0o600}
    shown = [file.read_text() for file in (stack.folder / "logs").iterdir()]
    shown += [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    shown += [
        call(stack.folder, "env", "--role", role).stdout for role in ("reader", "researcher", "promoter", "admin")
    ]
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_it_listens_on_the_loopback_address_alone(stack):
    pids = {pid for name in supervise.NAMES if (leader := Started(stack, name).pid) for pid in session(leader)}
    listening = {
        each.laddr.ip for each in psutil.net_connections() if each.pid in pids and each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_stack_that_runs_already_is_a_sentence(stack):
    again = call(stack.folder, "start", "mlflow")
    assert again.returncode == 2 and "runs already" in again.stderr and "Traceback" not in again.stderr
    clean = call(stack.folder, "clean", "--yes")
    assert clean.returncode == 2 and "end them first" in clean.stderr and stack.there
    moved = call(stack.folder, "start", "--port", f"mlflow={free_ports()['mlflow']}")
    assert moved.returncode == 2 and "stop the stack first" in moved.stderr


def test_a_port_that_is_taken_is_a_sentence(stack, tmp_path):
    ports = [f"--port={name}={port}" for name, port in free_ports().items() if name != "objects"]
    done = call(tmp_path / "stack", "start", "objects", *ports, f"--port=objects={stack.ports['objects']}")
    assert done.returncode == 2 and not done.stdout
    assert f"port {stack.ports['objects']}, which objects is to have, is taken" in done.stderr
    assert f"--port objects={stack.ports['objects'] + 1}" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start", "mysql"], "unknown service 'mysql'; choose from dashboard, mlflow"),
        (["start", "--port", "web=8000"], "unknown port 'web'; choose from"),
        (["start", "--port", "mlflow=80"], "with a number from 1024 to 65535"),
        (["env"], "there is no stack in"),
        (["stop"], "there is no stack in"),
        (["status"], "there is no stack in"),
        (["clean"], "--yes says that you mean it"),
        (["clean", "--yes"], "there is no stack in"),
        (["logs", "mlflow"], "mlflow was never started"),
    ],
)
def test_bad_words_are_sentences(tmp_path, monkeypatch, capsys, words, said):
    from infra.stack.__main__ import main
    from wsss.failures import ended

    monkeypatch.setattr(sys, "argv", ["infra.stack", "--folder", str(tmp_path / "none"), *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert ended("infra.stack", main) == 2
    assert said in capsys.readouterr().err


def test_without_postgresql_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres, "PROGRAMS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="PostgreSQL is not installed; Debian, Ubuntu: apt install postgresql"):
        postgres.programs()


def test_a_database_of_another_version_is_refused(stack):
    postgres.check_schemas(stack)
    known, newest = postgres._schemas("store/db_migrations/versions")
    older = min(known - {newest})
    for schema, said in (("f" * 12, "a newer one made it"), (older, "start --upgrade")):
        with postgres._connect(stack, "mlflow") as database:
            database.execute("UPDATE alembic_version SET version_num = %s", (schema,))
        try:
            with pytest.raises(UserError, match=said):
                postgres.check_schemas(stack)
        finally:
            with postgres._connect(stack, "mlflow") as database:
                database.execute("UPDATE alembic_version SET version_num = %s", (newest,))
    stated = stack.data("postgres") / "PG_VERSION"
    major = stated.read_text()
    stated.write_text("9\n")
    try:
        with pytest.raises(UserError, match="is of PostgreSQL 9, and PostgreSQL"):
            postgres.make_cluster(stack)
    finally:
        stated.write_text(major)


def test_nobody_without_an_account_reads_and_no_researcher_writes_the_ledger(stack, researcher, monkeypatch):
    from mlflow.exceptions import MlflowException

    with pytest.raises(UserError, match="may not do that"):
        storage.write_bytes(f"{stack.variables('researcher')['WSSS_LEDGER']}/x", b"1")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed")
    with pytest.raises(MlflowException, match="401|not authenticated"):
        researcher.search_experiments()


def test_eight_writers_lose_no_run_and_double_none(stack, researcher):
    log_from(stack, 8, 2, "load")
    (experiment,) = researcher.search_experiments(filter_string="name = 'logging'")
    runs = researcher.search_runs([experiment.experiment_id], "tags.fingerprint LIKE 'load-%'", max_results=1000)
    assert Counter(run.data.tags["fingerprint"] for run in runs).most_common(1)[0][1] == 1
    assert len(runs) == 16 and {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.metrics["train/loss"] == 4 and "val/pred/miou" in run.data.metrics for run in runs)
    artifacts = {each.path for each in researcher.list_artifacts(runs[0].info.run_id)}
    assert {"confusion", "settings.json"} <= artifacts
    assert not list((stack.folder / "scratch").rglob("mlruns"))


@pytest.fixture
def writer(stack, tmp_path):
    """A run that goes on, with its id and the folder that it works in."""
    (tmp_path / "pause").write_text("0.25")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, "a"],
        cwd=tmp_path,
        env=surroundings(stack, "researcher"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    run = process.stdout.readline().strip()
    yield process, run, tmp_path
    process.kill()
    process.communicate()


def ends(writer, client, stack) -> None:
    """The run ends, and all forty losses are in MLflow once, at the latest after the next run."""
    process, run, folder = writer
    (folder / "pause").write_text("0")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in said
    if len(losses(client, run)) < 40:
        words = [sys.executable, "-c", WRITER, "b"]
        subprocess.run(words, cwd=folder, env=surroundings(stack, "researcher"), check=True, capture_output=True)
    assert losses(client, run) == list(map(float, range(40)))
    assert client.get_run(run).info.status == "FINISHED"
    assert not {"mlflow.db", "mlruns"} & {path.name for path in folder.iterdir()}


def test_a_database_that_is_restarted_costs_no_logged_result(stack, writer, researcher):
    assert call(stack.folder, "stop", "postgres").returncode == 0
    time.sleep(1)
    assert call(stack.folder, "start", "postgres").returncode == 0
    ends(writer, researcher, stack)


def refuse_for(stack: Layout, seconds: float) -> None:
    """Have the objects' server answer nothing for a while."""
    pid = Started(stack, "objects").pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_a_store_that_answers_nothing_for_a_while_is_waited_for(stack, researcher, seconds):
    refuse_for(stack, seconds)
    began = time.monotonic()
    assert storage.write_bytes("s3://wsss-store/steps/a/b", b"1", if_absent=True) is True
    assert time.monotonic() - began > seconds - 1
    assert storage.read_bytes("s3://wsss-store/steps/a/b") == b"1"
    storage.remove("s3://wsss-store/steps/a")


def test_labels_go_to_the_bucket_and_come_back(stack, tmp_path):
    def run(*words: str) -> None:
        done = subprocess.run(
            words, cwd=tmp_path, env=surroundings(stack, "researcher"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    dvc = [sys.executable, "-m", "dvc"]
    run("git", "init", "--quiet")
    run(*dvc, "init", "--quiet")
    run(*dvc, "remote", "add", "--default", "team", "s3://wsss-store/dvc")
    (tmp_path / "labels").mkdir()
    for number in range(3):
        (tmp_path / f"labels/{number}.tar").write_bytes(bytes([number]) * 100_000)
    run(*dvc, "add", "--quiet", "labels")
    run(*dvc, "push", "--quiet")
    for folder in ("labels", ".dvc/cache"):
        subprocess.run(["rm", "-r", str(tmp_path / folder)], check=True)
    run(*dvc, "pull", "--quiet")
    assert [(tmp_path / f"labels/{n}.tar").read_bytes()[:1] for n in range(3)] == [b"\0", b"\1", b"\2"]


@pytest.mark.soak
def test_a_tracking_server_that_is_killed_costs_no_logged_result(stack, writer, researcher):
    leader = Started(stack, "mlflow").pid
    assert leader
    for pid in session(leader):
        os.kill(pid, signal.SIGKILL)
    told = call(stack.folder, "status")
    assert told.returncode == 1 and re.search(r"mlflow +died", told.stdout)
    assert call(stack.folder, "start", "mlflow").returncode == 0
    ends(writer, researcher, stack)


@pytest.mark.soak
def test_a_hundred_runs_of_eight_writers_are_all_there_once(stack, researcher):
    log_from(stack, 8, 13, "hundred")
    runs = researcher.search_runs(
        [each.experiment_id for each in researcher.search_experiments()],
        "tags.fingerprint LIKE 'hundred-%'",
        max_results=1000,
    )
    assert len(runs) == len({run.data.tags["fingerprint"] for run in runs}) == 104
    assert {run.info.status for run in runs} == {"FINISHED"}


def wsss(stack: Layout, folder: Path, role: str, *words: str) -> str:
    """Run a command in a role, in a workspace; what it printed."""
    words = (sys.executable, "-m", *words)
    done = subprocess.run(
        words, cwd=folder, env=surroundings(stack, role), capture_output=True, text=True, check=False, timeout=1000
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_from_an_experiment_through_search_and_promotion_to_serving_while_a_worker_is_killed(tiny_shapes, tmp_path):
    """The whole way, on every service; nothing of it falls back to a file of the folder."""
    import shutil
    from urllib.request import Request, urlopen

    with stack_examples.started("mlflow", "ray-worker") as stack:
        shutil.copytree(tiny_shapes.root, tmp_path / "data" / "shapes")
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
        fast = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}") if "refine" not in key]
        said = wsss(stack, tmp_path, "researcher", "wsss.cli", "run", "--method", "cam", "--preset", "demo", *fast)
        run = re.search(r"^run (\w+)", said, re.MULTILINE)
        assert run
        search = [sys.executable, "-m", "tune", "--method", "cam", "--preset", "demo", "--trials", "4", *fast]
        search += [
            "--ray-address",
            str(stack.variables("researcher")["RAY_ADDRESS"]),
            "--keys",
            "refine.crf.iterations",
        ]
        process = subprocess.Popen(
            search,
            cwd=tmp_path,
            env=surroundings(stack, "researcher"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(30)
        worker = Started(stack, "ray-worker").pid
        assert worker
        for pid in session(worker):
            os.kill(pid, signal.SIGKILL)
        assert call(stack.folder, "start", "ray-worker").returncode == 0
        said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said
        wsss(stack, tmp_path, "promoter", "wsss.cli", "promote", run[1], "--force", "a test")
        assert call(stack.folder, "start", "serve", "dashboard", cwd=tmp_path).returncode == 0
        key = (stack.secrets / "serve_keys").read_text().split()[0]
        image = next((tmp_path / "data/shapes/JPEGImages").iterdir()).read_bytes()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        mask = urlopen(Request(f"{stack.address('serve')}/segment", data=image, headers=headers)).read()
        assert mask.startswith(b"\x89PNG")
        assert not {"mlflow.db", "mlruns"} & {path.name for path in tmp_path.iterdir()}
        assert not (tmp_path / "work" / "store").exists() and not (tmp_path / "work" / "ledger").exists()
