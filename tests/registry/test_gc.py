"""`wsss gc` looks: what nothing needs can go, and what anything needs stays."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
from gc_examples import STEP, Place, fingerprint, here, local
from hypothesis import given
from hypothesis import strategies as st

from wsss import storage
from wsss.errors import UserError
from wsss.registry.gc import Collector
from wsss.registry.ledger import Ledger
from wsss.registry.promotion import FORCED, PromotionRecord, signed
from wsss.registry.reach import Thing, chain, reached
from wsss.registry.standing import settle
from wsss.run.lease import held, lease
from wsss.tracking import names

_FIXTURES = (here, local)
THINGS = st.integers(0, 9).map(lambda number: Thing("output", str(number)))


@given(st.sets(THINGS, max_size=3), st.dictionaries(THINGS, st.sets(THINGS)))
def test_nothing_reachable_is_ever_removed(roots, references):
    found = reached(roots, references)
    # By Warshall's closure, another way to the same answer.
    every = [Thing("output", str(number)) for number in range(10)]
    paths = {(one, other) for one, others in references.items() for other in others}
    for middle in every:
        paths |= {(one, other) for one in every for other in every if {(one, middle), (middle, other)} <= paths}
    assert set(found) == roots | {other for one, other in paths if one in roots}
    for thing in found:
        links = chain(thing, found)
        assert links[-1] in roots
        assert all(one in references[other] for one, other in pairwise(links))


def test_what_no_run_needs_goes_and_what_a_kept_run_needs_stays(here: Place) -> None:
    before, behind, other = here.output("a"), here.output("b", "a"), here.output("c")
    kept, forgotten = here.run("b", **{names.KEEP: "for the paper"}), here.run("c")
    assert here.garbage() == {other, forgotten}
    assert here.remove() == {other, forgotten}
    store = here.collector.store
    assert [store.manifest(STEP, fingerprint(word)) is not None for word in "abc"] == [True, True, False]
    assert not storage.exists(storage.join(store.url, other.name))
    assert not (here.collector.work / "cache" / other.name).exists()
    assert here.client.get_run(forgotten.name).info.lifecycle_stage == "deleted"
    assert here.client.list_artifacts(forgotten.name) == []
    assert here.client.list_artifacts(kept.name)
    sentence, *_ = here.collector.find().why(f"work/store/{before.name}")
    assert sentence == f"{before} < {behind} < {kept}: kept: for the paper"
    assert here.garbage() == set()


def test_what_is_young_leased_or_of_a_running_run_stays(here: Place) -> None:
    leased, of_running, rubbish = here.output("a"), here.output("b"), here.output("c")
    here.run("b", status="RUNNING")
    scratch = here.collector.work / "scratch" / STEP / fingerprint("a")
    scratch.mkdir(parents=True)
    (scratch / "half").write_text("")
    with lease(here.collector.store.url, f"{STEP}.{fingerprint('a')}", "step", wait=False):
        assert f"{STEP}.{fingerprint('a')}" in held(here.collector.store.url)
        assert here.garbage() == {rubbish}
    assert here.garbage() == {rubbish, leased, Thing("scratch", leased.name)}
    assert of_running not in here.garbage()
    young = Collector(here.collector.store, here.collector.work, 2, time.time() - 3600)
    assert young.find().things == ()


def test_an_output_that_is_used_is_young_again(local: Place) -> None:
    output = local.output("a")
    manifest = Path("work/store", output.name, "manifest.json")
    for path in manifest.parent.iterdir():
        os.utime(path, (1e9, 1e9))
    old = Collector(local.collector.store, local.collector.work, 2, time.time() - 3600)
    assert old.find().things == (output,)
    assert local.collector.store.find(STEP, fingerprint("a"))
    assert old.find().things == ()


def test_no_model_goes_that_an_alias_of_any_name_or_the_last_of_the_ledger_names(local: Place) -> None:
    runs = [local.run() for _ in range(7)]
    models = [local.model(run) for run in runs]
    named = [local.version("wsss-x", model, run) for model, run in zip(models[:5], runs, strict=False)]
    aliased = local.version("elsewhere-candidates", models[5], runs[5])
    local.client.set_registered_model_alias("elsewhere-candidates", "challenger", "1")
    ledger = Ledger("wsss-x")
    for number in range(1, 6):
        ledger.append(signed(PromotionRecord("wsss-x", FORCED, str(number), str(number - 1 or ""), str(number), "why")))
    settle(ledger)
    # Records 4 and 5 name the versions 3, 4 and 5.
    assert local.remove() == {*named[:2], *models[:2], models[6], *runs[:2], runs[6]}
    for model in (*models[2:6],):
        assert Path(local.client.get_logged_model(model.name).artifact_location, "model.json").exists()
    assert local.client.get_model_version_by_alias("wsss-x", "champion").version == 5
    [sentence] = local.collector.find().why("models:/elsewhere-candidates/1")
    assert sentence == f"{aliased}: elsewhere-candidates@challenger"
    assert local.garbage() == set()


def test_a_version_that_is_promoted_between_the_look_and_the_removal_stays(local: Place, monkeypatch) -> None:
    run = local.run()
    version = local.version("wsss-x", local.model(run), run)
    find = Collector.find

    def find_and_promote(self, *only):
        found = find(self, *only)
        local.client.set_registered_model_alias("wsss-x", "champion", "1")
        return found

    monkeypatch.setattr(Collector, "find", find_and_promote)
    assert version not in local.remove()
    assert local.client.get_model_version("wsss-x", "1").aliases == ["champion"]


def test_a_ledger_that_is_not_here_stops_everything(local: Place, monkeypatch) -> None:
    run = local.run()
    local.version("wsss-x", local.model(run), run)
    ledger = Ledger("wsss-x")
    ledger.append(signed(PromotionRecord("wsss-x", FORCED, "1", "", "1", "why")))
    settle(ledger)
    monkeypatch.setenv("WSSS_LEDGER", "another")
    with pytest.raises(UserError, match="use it with: export WSSS_LEDGER="):
        local.collector.find()


def test_a_running_or_kept_search_keeps_its_trials_and_a_winner_keeps_the_search_alone(local: Place) -> None:
    kept, of_winner, of_trial = local.output("a"), local.output("b"), local.output("c")
    local.run("a", kind=names.SEARCH_RUN, **{names.KEEP: "why"})
    search = local.run("c", kind=names.SEARCH_RUN)
    local.run("b", **{names.KEEP: "the winner", names.MLFLOW_PARENT: search.name})
    assert local.garbage() == {of_trial}
    assert {kept, of_winner} <= set(local.collector.find().held)
