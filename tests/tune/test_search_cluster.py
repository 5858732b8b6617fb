"""A search on a cluster of machines that see neither the driver's folder nor its variables, with a store on S3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file
from search_cluster_examples import (
    Driver,
    assert_whole,
    bucket,
    configurations,
    ended,
    server,
    starting,
    states,
    there,
    trial_runs,
    uploads,
    wait_for,
    workspace,
)

from tune.machines import looked_at
from tune.search import plan_search
from tune.trial import Surroundings
from wsss.errors import UserError
from wsss.run.cluster import Share, connected, machines, slots_of

_FIXTURES = (server, starting, there, workspace)
pytestmark = pytest.mark.usefixtures("surroundings")
SEARCH = ("--method", "cam,affinity,wildcat", "--trials", "6", "--device", "cpu")
FIX = ("localize.train.epochs=1", "localize.train.crop=33", "refine.train.epochs=1", "refine.train.crop=41")
TINY = ["--preset", "demo", "--data", "little", "--sampler", "random", *(f"--fix={pair}" for pair in FIX)]


@pytest.fixture(scope="module")
def killed(there, workspace, s3) -> dict[str, str]:
    """A search whose driver was killed three times; the runs that trials had when it was."""
    resume = ("--resume", "killed", "--trials", "6")
    with bucket(s3, "killed"):
        Driver.start(*SEARCH, *TINY, "--name", "killed").kill_when(lambda: "RUNNING" in states("killed"))
        Driver.start(*resume).kill_when(lambda: ended("killed") >= 1)
        first = trial_runs("killed")
        Driver.start(*resume).kill_when(lambda: ended("killed") >= 4)
        runs = trial_runs("killed") | first
        Driver.start(*resume).end()
    return runs


@pytest.fixture(scope="module")
def bereft(there, workspace, s3) -> dict[str, str]:
    """The same search, where a machine was killed; the runs that trials had when it was."""
    with bucket(s3, "bereft"):
        lost = there.add()
        driver = Driver.start(*SEARCH, *TINY, "--name", "bereft", "--retries=2")
        wait_for(lambda: ended("bereft") >= 1, driver)
        there.cluster.remove_node(lost, allow_graceful=False)
        runs = trial_runs("bereft")
        driver.end()
    return runs


def test_a_driver_killed_at_three_moments_goes_on_under_the_same_runs(killed):
    assert killed and killed.items() <= assert_whole("killed").items()


def test_a_machine_that_dies_in_the_middle_loses_no_trial_and_no_step_is_computed_twice(bereft, there, workspace, s3):
    assert bereft.items() <= assert_whole("bereft").items()
    again = {step for step, which in uploads(f"{s3}/bereft").items() if len(which) > 1}
    assert len(again) <= 1, again  # what the machine was in the middle of publishing
    assert not (workspace / "work" / "scratch").exists()
    for folder in there.folders:
        assert len(list(folder.glob("*/data/little/SegmentationClass/*.png"))) == 2, "the masks of dev came along"


def test_what_is_tried_does_not_depend_on_who_was_killed(killed, bereft):
    assert configurations("killed") == configurations("bereft")


def test_a_tracking_server_that_is_away_for_seconds_loses_nothing(there, workspace, s3, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with bucket(s3, "away"):
        driver = Driver.start("--method", "cam", "--trials", "3", "--gpus", "0.5", *TINY[:-2], "--name", "away")
        wait_for(lambda: "RUNNING" in states("away"), driver)
        server.away.set()
        wait_for(lambda: ended("away") >= 1 and "does not answer" in driver.log.read_text(), driver)
        server.away.clear()
        assert "torch can use none of the GPUs" in driver.end()
    assert_whole("away", 3)
    client = MlflowClient()
    for run in trial_runs("away").values():
        assert client.get_run(run).data.metrics.keys() >= {
            "seconds",
            "dev/labels_crf/miou",
            "dev/labels_crf/miou/so_far",
        }


def test_what_would_fail_there_is_said_before_the_first_trial(there, workspace, s3, monkeypatch):
    """Without a trial, in one sentence each, on machines that are what they say."""

    def look(**fixed: str) -> Surroundings:
        search = plan_search("cam", "demo", "little", fixed={"localize.train.crop": "33", **fixed})
        around = Surroundings(search, os.getcwd(), Share.of(slots_of(machines())), ("", 0))
        with looked_at(around, there.cluster.address, machines()) as same:
            return same

    def refuse(_: object) -> None:
        raise ray.exceptions.ObjectStoreFullError

    with bucket(s3, "looked-at") as store, connected(there.cluster.address):
        around = look()
        assert around.device == "cpu" and list(around.travels) == ["little"]
        assert around.share.variables["WSSS_STORE"] == store
        save_file({"weight": torch.zeros(1)}, "mine.safetensors")
        with pytest.raises(UserError, match=r"can't reach \(.*: localize.train.weights = mine.safetensors\); put it"):
            look(**{"localize.train.weights": "mine.safetensors"})
        look(**{"localize.train.weights": str(Path("mine.safetensors").absolute())})
        with monkeypatch.context() as patch:
            patch.setattr(ray, "put", refuse)
            with pytest.raises(UserError, match="the cluster's object store is full; wait until other work"):
                look()
        monkeypatch.setenv("WSSS_STORE", "/proc/self/cwd/store")  # another place for each process
        with pytest.raises(UserError, match="is not shared by all machines .*: what this process wrote is not there"):
            look()
        monkeypatch.setattr("tune.machines.code_digest", lambda: "0.0.9-other")
        with pytest.raises(UserError, match=r"the code on .* is not that of this process \(0.0.9-other\)"):
            look()
