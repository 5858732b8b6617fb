"""infra/: our commands with the accounts of a real MLflow server: promoting, and who comes and goes."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from infra_files import INFRA
from infra_server import Server, free_port
from served_examples import save_one_answer
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry.ledger import Ledger
from wsss.registry.lineage import keep_lineage
from wsss.serving.package import log_model
from wsss.tracking import names

pytest_plugins = ("infra_files", "infra_keys", "infra_server")


def wsss(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    said = result.output + str(result.exception if isinstance(result.exception, UserError) else "")
    assert (result.exit_code == status) != isinstance(result.exception, UserError), said
    return said


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("workspace")
    make_shapes(folder / "data" / "shapes", images=4, val_images=4, size=40, classes=2)
    return folder


def test_a_researcher_can_not_promote_and_a_promoter_can(
    workspace: Path, as_: Any, with_keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from wsss.data import open_dataset

    def become(who: str) -> None:
        as_(who)
        with_keys(who)

    monkeypatch.chdir(workspace)
    monkeypatch.setenv("WSSS_LEDGER", "s3://wsss-ledger/ledger")
    become("researcher")
    runs = []
    for answer in (1, 0):
        (tmp_path / str(answer)).mkdir()
        save_one_answer(tmp_path / str(answer), answer)
        tags = {names.DATASET: "shapes", names.SUPERVISION: ""}
        runs.append(MlflowClient().create_run("0", tags=tags).info.run_id)
        log_model(runs[-1], tmp_path / str(answer), open_dataset("shapes").classes, "# card\n")
        keep_lineage(runs[-1], open_dataset("shapes"))
    name = "wsss-shapes-masks"  # nobody else promotes it here
    force = ("--name", name, "--force", "to see who may")

    def told(*arguments: str) -> str:
        said = wsss(*arguments, status=2)
        assert "Traceback" not in said
        return said.splitlines()[-1]

    assert "these keys may not do that here" in told("promote", runs[0], *force)
    with_keys("promoter")  # of S3 alone
    assert "only who may write wsss-shapes-masks promotes" in told("promote", runs[0], *force)
    assert Ledger(name).records() == []
    become("promoter")
    assert "version 1 is champion" in wsss("promote", runs[0], *force)
    assert "version 2 is champion" in wsss("promote", runs[1], *force)
    become("researcher")
    before = MlflowClient().get_registered_model(name).aliases
    assert "these keys may not do that here" in told("rollback", name, "--why", "I prefer mine")
    assert MlflowClient().get_registered_model(name).aliases == before
    become("promoter")
    assert "version 1 is champion again" in wsss("rollback", name, "--why", "it was better")
    assert {k: str(v) for k, v in MlflowClient().get_registered_model(name).aliases.items()} == {"champion": "1"}
    become("reader")
    assert wsss("history", name, "--json").count('"who": "promoter@') == 3


def refused(capsys: pytest.CaptureFixture[str], program: Any, *arguments: str) -> str:
    """The one sentence with which a program ends."""
    with pytest.raises(SystemExit) as end:
        program.main([str(word) for word in arguments])
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


def test_a_person_comes_changes_the_role_and_goes(
    server: Server, accounts: Any, as_: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = accounts.people
    as_("admin")
    file = tmp_path / "credentials"
    people.main(["add", "ada", "reader", str(file)])
    assert capsys.readouterr().out == f"ada is reader; {file} becomes their ~/.mlflow/credentials\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    name, server.passwords["ada"] = accounts.read_credentials(file)
    make = lambda: server.ask("ada", "POST", "experiments/create", {"name": f"of ada {len(server.clients)}"})  # noqa: E731
    assert name == "ada" and make().status_code == 403
    people.main(["role", "ada", "researcher"])
    assert make().status_code == 200
    people.main(["list"])
    listed = capsys.readouterr().out
    assert re.search(r"^reader: reader$", listed, re.M) and re.search(
        r"^researcher: ada, other, researcher$", listed, re.M
    )
    people.main(["password", "ada", str(tmp_path / "new")])
    server.clients.pop("ada").close()
    server.passwords["ada"] = accounts.read_credentials(tmp_path / "new")[1]
    assert server.ask("ada", "GET", "users/current").status_code == 200
    people.main(["remove", "ada"])
    assert server.ask("ada", "GET", "users/current").status_code == 401
    assert "S3 keys" in capsys.readouterr().out


def test_what_can_not_be_done_to_an_account_is_one_sentence(
    server: Server, accounts: Any, as_: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    people, file = accounts.people, str(tmp_path / "file")
    as_("admin")
    assert "there is an account reader already" in refused(capsys, people, "add", "reader", "reader", file)
    assert "there is no role king; there are reader, researcher, promoter" in refused(
        capsys, people, "add", "bob", "king", file
    )
    assert "'b o' is no account's name" in refused(capsys, people, "add", "b o", "reader", file)
    for words in (("role", "nobody", "reader"), ("remove", "nobody"), ("password", "nobody", file)):
        assert "there is no account nobody" in refused(capsys, people, *words)
    assert "another administrator removes" in refused(capsys, people, "remove", "admin")
    assert not Path(file).exists()
    Path(file).write_text("mine")
    assert "is there already" in refused(capsys, people, "add", "bob", "reader", file)
    assert server.ask("admin", "GET", "users/get?username=bob").status_code == 404
    as_("researcher")
    assert refused(capsys, people, "list") == f"researcher is no administrator of {server.url}; log in as one"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-wrong-wrong")
    wrong = refused(capsys, people, "list")
    assert "does not take the password of researcher" in wrong and "wrong-wrong" not in wrong
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in refused(capsys, people, "list")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    assert "infra/secrets.sh makes the password" in refused(capsys, people, "list")


def test_a_wrong_password_is_one_sentence_of_our_commands(as_: Any, monkeypatch: Any, tmp_path: Path) -> None:
    as_("researcher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-wrong-wrong")
    for words in (("history", "wsss-shapes"), ("compare",)):
        said = wsss(*words, status=2)
        assert "MLFLOW_TRACKING_PASSWORD" in said and "wrong-wrong" not in said and "Traceback" not in said


ROLES_FILE = (INFRA / "mlflow" / "roles.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "promoted: READ",
            "promoted: WRITE",
            "the permission 'WRITE' for promoted; choose from READ, USE, EDIT, MANAGE",
        ),
        ("promoted: READ", "champion: READ", "has to say candidates, experiments, promoted"),
        ("kinds:", "kind:", "has to have datasets, kinds and roles"),
        ("roles:", "roles: [", "can't be read as YAML"),
    ],
)
def test_a_file_of_roles_that_is_wrong_changes_nothing(
    accounts: Any, tmp_path: Path, capsys: Any, before: str, after: str, sentence: str
) -> None:
    file = tmp_path / "roles.yaml"
    file.write_text(ROLES_FILE.replace(before, after, 1))
    assert sentence in refused(capsys, accounts, str(file))
    assert "can't be read" in refused(capsys, accounts, str(tmp_path / "none.yaml"))


def test_a_file_that_is_no_account_is_refused_before_anything_is_done(
    accounts: Any, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "credentials"
    roles = str(INFRA / "mlflow" / "roles.yaml")
    for text in ("nothing", "[mlflow]\nmlflow_tracking_username = a\n", "[other]\nsecret-secret = 1\n"):
        file.write_text(text)
        said = refused(capsys, accounts, roles, f"--account=researcher={file}")
        assert said == f"{file} is no MLflow credentials file; infra/secrets.sh makes some"
    assert "there is no role king; there are reader, researcher, promoter" in refused(
        capsys, accounts, roles, f"--account=king={file}"
    )


def test_the_roles_are_brought_to_the_server_once_and_changed_where_the_file_changed(
    server: Server, accounts: Any, as_: Any, tmp_path: Path, capsys: Any
) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    as_("admin")
    auth = AuthServiceClient(server.url)

    def granted() -> dict[str, list[tuple[str, str, str]]]:
        return {
            role.name: sorted(
                (g.resource_type, g.resource_pattern, g.permission) for g in auth.list_role_permissions(role.id)
            )
            for role in auth.list_roles(accounts.WORKSPACE)
            if not role.name.startswith("__")
        }

    before = granted()
    table = accounts.read_roles(INFRA / "mlflow" / "roles.yaml")
    assert before == {role: sorted(accounts.grants(table, role)) for role in table["roles"]}
    other = tmp_path / "roles.yaml"
    other.write_text(ROLES_FILE.replace("    candidates: READ\n    versions: READ\n", "    candidates: EDIT\n"))
    accounts.main([str(other)])
    changed = granted()
    assert changed["researcher"] == before["researcher"]
    assert not [g for g in changed["reader"] if g[0] == "registered_model_version"]
    assert {g[2] for g in changed["reader"] if g[1].endswith("-candidates")} == {"EDIT"}
    accounts.main([str(INFRA / "mlflow" / "roles.yaml")])
    assert granted() == before
    assert capsys.readouterr().out == "roles reader, researcher, promoter; accounts 0\n" * 2
