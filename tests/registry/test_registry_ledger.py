"""The gate and its ledger: two promotions at once, one cut short, changed records, entries of an earlier version."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from registry_examples import dataset, runs, with_alias, workspace
from typer.testing import CliRunner

from wsss.cli import app as full
from wsss.errors import UserError
from wsss.registry import gate, models, standing
from wsss.registry.ledger import Ledger
from wsss.tracking import names

_FIXTURES = (dataset, runs, workspace)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(dataset, runs, monkeypatch):
    """While the first is measured a second one is decided."""
    measure = gate.measure

    def interrupted(*arguments):
        monkeypatch.setattr(gate, "measure", measure)
        assert gate.promote(runs[1], "wsss-race", dataset).record.promoted
        return measure(*arguments)

    monkeypatch.setattr(gate, "measure", interrupted)
    with pytest.raises(UserError, match=r"made version 1 champion of wsss-race \(record 1\); nothing was changed"):
        gate.promote(runs[0], "wsss-race", dataset)
    assert with_alias("wsss-race", models.CHAMPION).number == "1"
    assert [(record.number, record.kind, record.to) for record in standing.history("wsss-race")] == [
        (2, "refusal", "1"),
        (1, "promotion", "1"),
    ]


def test_the_next_command_finishes_a_promotion_that_was_cut_short(dataset, runs, monkeypatch):
    """The record is the decision: after it, and never before, the alias moves."""

    class Killed(BaseException):
        pass

    def kill(*arguments):
        raise Killed

    gate.promote(runs[0], "wsss-cut", dataset)
    for command in (["history", "wsss-cut", "--json"], ["evaluate", "models:/wsss-cut@champion", "--data", "little"]):
        champion = standing.settle(Ledger("wsss-cut")).champion
        with monkeypatch.context() as patch:
            patch.setattr(gate, "settle", lambda ledger, **how: kill() if not how else standing.settle(ledger, **how))
            with pytest.raises(Killed):
                gate.promote(runs[champion == "1"], "wsss-cut", dataset, force="to be cut")
        assert with_alias("wsss-cut", models.CHAMPION).number == champion
        result = CliRunner().invoke(full, command)
        assert result.exit_code == 0 and not result.stderr, result.output
        assert with_alias("wsss-cut", models.CHAMPION).number != champion
        assert with_alias("wsss-cut", models.PREVIOUS).number == champion
    MlflowClient().set_registered_model_alias("wsss-cut", models.CHAMPION, "2")
    assert standing.history("wsss-cut") and with_alias("wsss-cut", models.CHAMPION).number == "1"


def test_a_changed_record_and_a_lost_ledger_are_found(dataset, runs, monkeypatch, tmp_path):
    gate.promote(runs[0], "wsss-chain", dataset)
    gate.promote(runs[1], "wsss-chain", dataset)
    first, second = (Path(Ledger("wsss-chain").url, f"00000{n}.json") for n in (1, 2))
    kept = first.read_bytes()
    for content, sentence in [
        (kept.replace(b'"there was no champion"', b'"because I say so"'), "does not follow from the record before it"),
        (kept + b" ", "is not as a ledger writes it"),
        (b"{}", "is damaged"),
        (kept.replace(b'"format": 2', b'"format": 9'), "made by another version of wsss"),
    ]:
        first.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            standing.history("wsss-chain")
    first.write_bytes(kept)
    evaluation_file = Path(Ledger("wsss-chain").evaluation(json.loads(second.read_bytes())["evaluations"]["candidate"]))
    whole = evaluation_file.read_bytes()
    evaluation_file.write_bytes(whole[:-1])
    shown = CliRunner().invoke(full, ["history", "wsss-chain"])
    assert (
        "of record 2, was changed" in str(shown.exception) and "- > 1" in shown.output and "1 > 2" not in shown.output
    )
    evaluation_file.write_bytes(whole)
    (tmp_path / "gap").write_bytes(kept)
    first.unlink()
    with pytest.raises(UserError, match=r"000001.json is missing, though record 2 is there"):
        standing.history("wsss-chain")
    (tmp_path / "gap").rename(first)
    second.rename(tmp_path / "kept")
    with pytest.raises(UserError, match="has 1 records of wsss-chain, the registry knows of 2, in .*from a backup"):
        gate.promote(runs[0], "wsss-chain", dataset)
    (tmp_path / "kept").rename(second)
    monkeypatch.setenv("WSSS_LEDGER", str(tmp_path / "another"))
    with pytest.raises(
        UserError, match="has 0 records of wsss-chain, .* knows of 2, .* use it with: export WSSS_LEDGER=/"
    ):
        gate.promote(runs[0], "wsss-chain", dataset)
    result = CliRunner().invoke(full, ["evaluate", "models:/wsss-chain@champion", "--data", "little"])
    assert result.exit_code == 0 and "the alias is taken as it is" in result.stderr


def test_old_entries_and_an_old_alias_are_taken_over_once(dataset, runs):
    """The version before kept its looks as MLflow runs; one of them was cut short after it said `promoted`."""
    client = MlflowClient()
    for run in runs:
        models.register(models.model_of_run(run), "wsss-before")
    experiment = client.create_experiment("wsss-promotions")
    looks = [("1", "", "true", "", "FINISHED"), ("2", "1", "false", "", "FINISHED"), ("2", "1", "true", "please", None)]
    for when, (candidate, champion, promoted, forced, status) in enumerate(looks):
        about = {"model": "wsss-before", "candidate": candidate, "champion": champion, "promoted": promoted}
        tags = {
            f"promotion.{key}": value
            for key, value in (about | {"forced": forced, "split": "val", "masks": "m"}).items()
        }
        tags |= {names.KIND: "promotion", names.DATASET: "little"}
        run_id = client.create_run(experiment, start_time=1000 * (when + 1), tags=tags).info.run_id
        client.log_metric(run_id, "candidate/miou", 0.25)
        if status:
            client.set_terminated(run_id, status)
    client.set_registered_model_alias("wsss-before", models.CHAMPION, "2")

    assert [(record.number, record.kind) for record in standing.history("wsss-before")] == [
        (0, "refusal"),
        (0, "refusal"),
        (0, "promotion"),
    ]
    assert with_alias("wsss-before", models.CHAMPION).number == "2"
    for _ in range(2):
        with pytest.raises(UserError, match="version 2 is the champion already"):
            gate.promote("2", "wsss-before", dataset)
    assert gate.promote("1", "wsss-before", dataset, dry_run=True).record.from_ == "2"
    kept = standing.history("wsss-before")
    assert [(record.number, record.kind, record.from_, record.to) for record in kept] == [
        (4, "takeover", "1", "2"),
        (3, "refusal", "1", "1"),
        (2, "refusal", "1", "1"),
        (1, "promotion", "", "1"),
    ]
    assert kept[-1].metrics == {"candidate/miou": 0.25}
