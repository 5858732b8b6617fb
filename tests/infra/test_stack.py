"""A stack without containers, as a team uses it: real PostgreSQL, real S3 over HTTP, real MLflow with accounts."""

from __future__ import annotations

import io
import re
import stat
import subprocess
import sys

import psutil
import pytest
from stack_examples import call, researcher

from benchmarks.stack_logging import free_ports
from infra.stack import postgres, supervise
from infra.stack.__main__ import main
from infra.stack.layout import ROLES, resolved
from infra.stack.processes import Started, session
from wsss import storage
from wsss.errors import UserError
from wsss.failures import ended

_FIXTURES = (researcher,)


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


def test_no_secret_is_printed_logged_or_in_the_process_list_and_files_are_for_their_owner(stack, capsys):
    secrets = [word for file in stack.secrets.iterdir() for word in re.findall(r"[0-9a-f]{64}", file.read_text())]
    assert len(secrets) > 10 and stat.S_IMODE(stack.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in stack.secrets.iterdir()} == {0o600}
    shown = [file.read_text() for file in (stack.folder / "logs").iterdir()]
    shown += [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    for role in ROLES:
        assert main(["--folder", str(stack.folder), "env", "--role", role]) == 0
        shown.append(capsys.readouterr().out)
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_it_listens_on_the_loopback_address_alone(stack):
    pids = {pid for name in supervise.NAMES if (leader := Started(stack, name).pid) for pid in session(leader)}
    listening = {
        each.laddr.ip for each in psutil.net_connections() if each.pid in pids and each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_stack_that_runs_already_is_a_sentence(stack):
    again = call(stack.folder, "start", "mlflow")
    assert (
        again.returncode == 2
        and "runs already" in again.stderr
        and f"infra.stack --folder {stack.folder} status" in again.stderr
        and "Traceback" not in again.stderr
    )
    clean = call(stack.folder, "clean", "--yes")
    assert clean.returncode == 2 and "end them first" in clean.stderr and stack.there
    moved = call(stack.folder, "start", "--port", f"mlflow={free_ports()['mlflow']}")
    assert moved.returncode == 2 and "stop the stack first" in moved.stderr


def test_the_server_can_be_asked_for_beside_what_runs(stack):
    asked = call(stack.folder, "start", "serve")
    assert asked.returncode == 0 and "serve       waits for a champion" in asked.stdout


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
