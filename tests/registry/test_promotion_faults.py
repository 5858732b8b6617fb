"""What faults leave behind of promotions: damaged packages, kills, two at once, a ledger that is away."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import forks
import pytest
import torch
from mlflow import MlflowClient
from promotion_examples import aliases, dataset, runs, without_ledger, workspace, wsss

from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.registry import gate, models, standing
from wsss.registry.ledger import Ledger
from wsss.registry.rollback import roll_back

_FIXTURES = (dataset, runs, workspace)
STEPS = ("candidate", "evaluations", "copy", "record", "previous", "champion", "tag")


def test_a_damaged_or_lost_package_is_refused_and_the_old_model_stays(workspace, dataset, runs) -> None:
    name = "wsss-damaged"
    gate.promote(runs[1], name, dataset)
    gate.promote(runs[0], name, dataset, force="to be rolled back")
    client = MlflowClient()
    weights = Path(client.get_model_version_download_uri(name, "1").removeprefix("file://"), "model.safetensors")
    whole = weights.read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 1
    for content, sentence in [(bytes(changed), "are not those that were promoted"), (whole[:-50], "does not hold")]:
        weights.write_bytes(content)
        with pytest.raises(UserError, match=f"is not rolled back to version 1, version 2 stays champion: .*{sentence}"):
            roll_back(name)
        assert aliases(name)["champion"] == "2"
    with pytest.raises(UserError, match="no model can be loaded"):
        gate.promote(f"models:/{name}/1", name, dataset, force="whatever")
    assert aliases(name) == {"champion": "2", "previous": "1"} and len(Ledger(name).records()) == 2
    weights.write_bytes(whole)
    assert roll_back(name).to == "1"


def _promote_until(step: str, name: str, candidate: str) -> None:
    """In a process of its own: begin a promotion, and die as by kill -9 just before a step of it."""

    def die(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "candidate":
        models.register = die
    elif step == "evaluations":
        Ledger.keep = die
    elif step == "copy":
        gate._entered = die
    elif step == "record":
        Ledger.append = die
    else:
        setting = "set_registered_model_tag" if step == "tag" else "set_registered_model_alias"
        plain = getattr(MlflowClient, setting)

        def until(self, model, key, value):
            return die() if key in (step, standing.HEAD) else plain(self, model, key, value)

        setattr(MlflowClient, setting, until)
    torch.set_num_threads(1)
    gate.promote(candidate, name, open_dataset("shapes"), force="to be killed")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_ledger_decides_and_the_next_command_repairs(step: str, dataset, runs) -> None:
    name = f"wsss-killed-{step}"
    gate.promote(runs[0], name, dataset)
    before = aliases(name)
    process = forks.CONTEXT.Process(target=_promote_until, args=(step, name, runs[1]))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    decided = step in STEPS[4:]
    assert len(Ledger(name).records()) == 1 + decided
    if step in ("previous", "copy", "record"):
        assert aliases(name) == before
    wsss("history", name)
    assert aliases(name) == ({"champion": "2", "previous": "1"} if decided else {"champion": "1"})
    if not decided:
        assert gate.promote(runs[1], name, dataset).record.to == "2"
        assert aliases(name) == {"champion": "2", "previous": "1"}


def test_two_promoters_at_once_fifty_times(dataset, runs, monkeypatch) -> None:
    """One wins, the other is told; no record is lost and the aliases are those of the last."""
    name = "wsss-fifty"
    gate.promote(runs[2], name, dataset)

    def unmeasured(*about):
        raise UserError("not measured")

    for slow in ("find_version", "load_package", "package_files"):
        monkeypatch.setattr(gate, slow, cache(getattr(gate, slow)))
    for module in (models, standing):
        monkeypatch.setattr(module, "mlflow_client", cache(module.mlflow_client))
    monkeypatch.setattr(gate, "_conditions", lambda *about: ([], []))
    monkeypatch.setattr(gate, "_measure", unmeasured)

    def ask(run: str) -> str:
        try:
            return gate.promote(run, name, dataset, force="at once").record.to
        except UserError as error:
            told.append(str(error))
            return ""

    told: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(50):
            present = Ledger(name).records()[-1].to
            pair = [run for run in runs if _number(name, run) != present][:2]
            assert any(list(pool.map(ask, pair)))
            acts = [record for record in Ledger(name).records() if record.promoted]
            assert aliases(name)["champion"] == acts[-1].to
    assert told and all("meanwhile" in text and "nothing was changed" in text for text in told)
    assert all(later.from_ == earlier.to for earlier, later in pairwise(acts))
    assert len(acts) + len(told) == len(standing.history(name)) == 101


def _number(name: str, run: str) -> str:
    found = models.promoted_copy(models.find_version(run, name), name, enter=False)
    return found.number if found else ""


def test_where_the_ledger_is_away_nothing_moves(dataset, runs, monkeypatch) -> None:
    name = "wsss-away"
    gate.promote(runs[0], name, dataset)
    with monkeypatch.context() as patch:
        without_ledger(patch)
        with pytest.raises(UserError, match="s3://bucket/ledger.* can't be used"):
            gate.promote(runs[1], name, dataset)
        with pytest.raises(UserError, match="can't be used"):
            roll_back(name)
    assert aliases(name) == {"champion": "1"} and len(Ledger(name).records()) == 1


def test_a_second_person_is_told_where_the_ledger_is(dataset, runs, tmp_path, monkeypatch) -> None:
    name = "wsss-team"
    gate.promote(runs[0], name, dataset)
    monkeypatch.setenv("WSSS_LEDGER", str(tmp_path / "mine"))
    with pytest.raises(UserError, match=r"use it with: export WSSS_LEDGER=/.*/ledger$"):
        gate.promote(runs[1], name, dataset)
    monkeypatch.setattr(standing.platform, "node", lambda: "another-machine")
    with pytest.raises(UserError, match="copy it to a bucket or a folder that all .*set WSSS_LEDGER to it on both"):
        gate.promote(runs[1], name, dataset)
