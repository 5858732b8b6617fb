"""What a search asks of the machines, and what is said of those whose trials would fail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tune import machines, measure, shared
from tune.budget import Budget, surroundings_of
from tune.facts import Facts, code_digest
from tune.measure import Place, facts_of
from tune.search import SearchPlan, plan_search
from tune.trial import Surroundings, own_folder, prepare, sees_workspace
from wsss.data import Dataset
from wsss.data.travel import send_dataset
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run.cluster import WORKER_FOLDER, Share
from wsss.stages.cam import CamSettings
from wsss.training import BFLOAT16, TrainingSettings

pytestmark = pytest.mark.usefixtures("surroundings")

OWN = Facts("here", code_digest(), bfloat16=frozenset({"cuda"}), crf="native")
GPU = replace(OWN, host="fast", gpu=True)
FIX = {"localize.train.epochs": "1", "localize.train.crop": "33"}


def plan(dataset: Dataset, method: str = "cam", keys: str = "refine.crf", **more: str) -> SearchPlan:
    return plan_search(method, "demo", str(dataset.root), keys=(keys,), fixed=FIX | more)


def surroundings(dataset: Dataset, **more: object) -> Surroundings:
    return replace(Surroundings(plan(dataset), os.getcwd(), Share(1, {}), ("", 0)), **more)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (replace(OWN, host="old", code="0.0.9-x"), r"the code on old \(0.0.9-x\) is not that of this process"),
        (replace(OWN, store="refused"), r"the store s3://b is not shared by all .*here: refused.*set WSSS_STORE to"),
        (
            replace(OWN, lacks=("mcis.x = w.pt",)),
            r"can't reach \(here: mcis.x = w.pt\); put it under the same absolute",
        ),
    ],
)
def test_a_machine_whose_trials_would_fail_is_named_with_the_way_out(facts: Facts, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        machines._refuse([OWN, facts], "s3://b")
    machines._refuse([OWN, GPU], "s3://b")


def test_one_decision_says_where_all_networks_run(tiny_shapes: Dataset, capfd: pytest.CaptureFixture[str]) -> None:
    around = surroundings(tiny_shapes, gpus=0.5)
    assert machines._device(around, [OWN, GPU]) == "cuda"
    assert machines._device(replace(around, gpus=0.0), [OWN, GPU]) == "cpu"
    assert machines._device(replace(around, search=replace(around.search, device="cpu")), [OWN, GPU]) == "cpu"
    capfd.readouterr()
    assert machines._device(around, [OWN]) == "cpu"
    assert "none of the GPUs that the cluster offers" in capfd.readouterr().err
    with pytest.raises(UserError, match="device cuda was asked for, but no trial gets a GPU that torch can use"):
        machines._device(replace(around, search=replace(around.search, device="cuda")), [OWN])


def test_machines_that_differ_in_what_fingerprints_hold_are_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    machines._tell([OWN, GPU])
    assert capfd.readouterr().err == ""
    machines._tell([OWN, replace(OWN, host="other", crf="torch", bfloat16=frozenset({"cpu", "cuda"}))])
    said = capfd.readouterr().err
    assert "CRF backends differ (here native, other torch)" in said and "not all machines gain by bfloat16" in said


def test_machines_that_must_agree_take_the_number_format_that_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = [
        (told, device, settings(precision="auto").number_format(torch.device(device)))
        for told in ("", "cuda", "cpu,cuda")
        for device in ("cpu", "cuda")
        for settings in (TrainingSettings, CamSettings)
        if monkeypatch.setenv(BFLOAT16, told) is None
    ]
    half = [(told, device) for told, device, number in formats if number == torch.bfloat16]
    assert half == [("cuda", "cuda")] * 2 + [("cpu,cuda", "cpu")] + [("cpu,cuda", "cuda")] * 2


@pytest.mark.parametrize(
    ("method", "keys", "network"),
    [
        ("cam", "refine.crf", False),
        ("cam", "localize", True),
        ("affinity", "refine.crf", False),
        ("affinity", "refine.walk", True),
        ("wildcat", "refine", False),
    ],
)
def test_trials_that_run_no_network_of_their_own_ask_for_no_gpu(
    tiny_shapes: Dataset, method: str, keys: str, network: bool
) -> None:
    search = plan(tiny_shapes, method, keys)
    assert shared.needs_network(search, search.methods[0]) == network


MIXED = [{"CPU": 64.0}, {"CPU": 4.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("keys", "budget", "asked"),
    [
        ("localize", Budget(cpus=8), "8 cores and 1 GPUs"),
        ("localize", Budget(cpus=8, gpus=0.5), "8 cores and 0.5 GPUs"),
        ("refine.crf", Budget(cpus=65), "65 cores and 0 GPUs"),
        ("refine.crf", Budget(gpus=3), "1 cores and 3 GPUs"),
    ],
)
def test_more_than_any_one_machine_has_is_refused_with_what_there_is(
    tiny_shapes: Dataset, keys: str, budget: Budget, asked: str
) -> None:
    sentence = f"{asked}, which no machine has: there is 64 cores, 0 GPUs; 4 cores, 2 GPUs"
    with pytest.raises(UserError, match=sentence), surroundings_of(plan(tiny_shapes, keys=keys), budget, "", MIXED):
        pass


def test_every_shared_step_fits_a_machine(tiny_shapes: Dataset) -> None:
    """It asked for all cores of the largest machine and for the GPU of another, and waited for ever."""
    around = surroundings(tiny_shapes)
    assert shared._part(around, MIXED, 1.0, 1)[1] == 4 and shared._part(around, MIXED, 0.0, 2)[1] == 32
    own, cpus = shared._part(around, [{"CPU": 0.5, "GPU": 1.0}], 1.0, 3)
    assert cpus == 0.5 and own.share.cores == 1


def test_a_machine_that_does_not_see_the_folder_works_in_one_of_its_own(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (tmp_path / "driver").mkdir()
    marker = tmp_path / "driver" / "marker"
    store = str(tmp_path / "store")
    around = surroundings(
        tiny_shapes,
        workspace=str(tmp_path / "driver"),
        marker=str(marker),
        share=Share(1, {"WSSS_STORE": store}),
        travels={str(tiny_shapes.root): send_dataset(tiny_shapes, store, ("dev",))},
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = prepare(around)
    assert dataset.digest == tiny_shapes.digest and dataset.root.is_relative_to(tmp_path / "cache" / "wsss")
    assert Path.cwd() == own_folder(around)
    with pytest.raises(UserError, match="does not see .*driver, and came after the others"):
        prepare(replace(around, travels={}))
    marker.touch()
    assert sees_workspace(around) and prepare(around).root == tiny_shapes.root
    assert Path.cwd() == tmp_path / "driver"
    monkeypatch.setenv(WORKER_FOLDER, str(tmp_path / "told"))
    assert not sees_workspace(around) and prepare(around).root.is_relative_to(tmp_path / "told")


def test_a_process_without_the_gpu_takes_what_others_computed_and_says_what_it_lacks(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fingerprints are those of the machines with the GPU, whoever asks for them."""
    monkeypatch.setenv(BFLOAT16, "")
    search = plan(tiny_shapes)
    each = search.methods[0]
    only = replace(tiny_shapes, splits={**tiny_shapes.splits, "dev": tiny_shapes.splits["dev"][:1]})
    place = Place(torch.device("cuda"), tmp_path, str(tmp_path / "store"), gpu=False)
    arguments = (search.plan(each.default), each.objective, only, 0)
    with pytest.raises(UserError, match=r"localize.train runs a network on a GPU, and this process was given none"):
        list(measure.measure(*arguments, place, ConsoleReporter))

    computed = []

    def on_the_gpu(self, planned, report):
        """A processor plays the GPU: a network's step is put where the GPU's would lie."""
        if self.device.type == "cuda" and self._finished(planned, self.fingerprint(planned)) is None:
            computed.append(planned.key)
            scratch = tmp_path / planned.key
            scratch.mkdir()
            replace(self, device=torch.device("cpu"))._work(planned, self.fingerprint(planned), scratch, report)
            self._store.publish(planned.name, self.fingerprint(planned), scratch)
        return run(self, planned, report)

    run = measure.StepRunner.run
    with monkeypatch.context() as patch:
        patch.setattr(measure.StepRunner, "run", on_the_gpu)
        measure.begin(*arguments, replace(place, gpu=True), ConsoleReporter, shared.beginnings(search, each))
    assert computed == ["localize.train", "localize.infer", "refine.background"]
    *_, last = measure.measure(*arguments, place, ConsoleReporter)
    hows = {step.key: step.how for step in last.steps}
    assert hows["localize.infer"] == "reused" and hows["refine.crf"] == "computed" and last.whole


def test_a_step_that_was_run_in_pieces_says_which_it_computed() -> None:
    steps = [measure.StepFact("refine.crf", "x", name, how, 1.0) for name, how in (("a", "computed"), ("b", "reused"))]
    [fact] = facts_of(measure.Measured(0.0, None, 2, 2, steps))
    assert fact["how"] == "computed" and fact["fingerprints"] == ["a", "b"] and fact["computed"] == ["a"]


def test_a_shared_step_without_a_network_runs_without_the_gpu_of_the_one_before(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BFLOAT16, "")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(measure.StepRunner, "run", lambda self, planned, report: ran.append((planned.key, self.device)))
    monkeypatch.setattr(measure.StepStore, "manifest", lambda *_: {"seconds": 1.0})
    monkeypatch.setattr(measure.StepRunner, "fingerprint", lambda *_: "")
    around = surroundings(tiny_shapes, search=plan(tiny_shapes, "affinity"), device="cuda")
    chain = next(s.chain for s in shared.shared_steps(around).values() if s.planned.key == "refine.labels")
    with pytest.raises(AttributeError):  # nothing was really run
        list(shared._compute._function(around, chain[-1:], 0))
    assert ran == [("refine.labels", torch.device("cpu"))]
