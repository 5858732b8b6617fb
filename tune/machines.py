"""The machines of a cluster, looked at before the first trial: what would fail there is said now, in one sentence.

A task on each machine says whether it runs the same code, shares the store, sees the search's folder and the files that
settings name, and what it computes with. A machine that does not see the folder gets the datasets from the store.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune.facts import Facts, Named, code_digest, look
from tune.progress import reason
from tune.search import SearchPlan
from tune.trial import Surroundings
from wsss import storage
from wsss.data import open_dataset
from wsss.data.parallel import some
from wsss.data.travel import send_dataset
from wsss.data.workspace import dataset_names
from wsss.errors import UserError
from wsss.process import this_process
from wsss.progress import say
from wsss.run.cluster import LOCAL, WORKER_FOLDER, Machine
from wsss.run.fingerprints import content_settings
from wsss.run.method import WORK
from wsss.settings import settings_of
from wsss.training import BFLOAT16

ANSWER_S = 120.0
_PROBES = ".probes"


@contextmanager
def looked_at(around: Surroundings, address: str, there: list[Machine]) -> Iterator[Surroundings]:
    """Surroundings that hold on all machines of the connected cluster, while the block runs.

    Args:
        around: with the GPUs that a trial asks for.
        address: of the cluster; one that is made of this process's own cores is not asked.
        there: its machines.

    Raises:
        UserError: a machine whose trials would fail (says which and why), or networks were to run on GPUs and can't.
    """
    store = storage.store_address(WORK / "store")
    store = store if storage.is_remote(store) else str(Path(store).absolute())
    if address == LOCAL and not os.environ.get(WORKER_FOLDER):
        yield _with(around, store, {}, _device(around, [Facts("", "", gpu=torch.cuda.is_available())]))
        return
    before = os.environ.get(BFLOAT16)
    marker = (WORK / "search" / f".{uuid.uuid4().hex}.{this_process()}.part").absolute()
    storage.remove_unfinished(marker.parent)
    storage.write_bytes(marker, b"")
    try:
        around = replace(_with(around, store, {}), marker=str(marker))
        named = _named(around.search)
        facts = _ask(around, store, [each for each in named if not _travels(each)], there)
        _refuse(facts, store)
        _tell(facts)
        device = _device(around, facts)
        variables = {BFLOAT16: ",".join(sorted(frozenset.intersection(*(each.bfloat16 for each in facts))))}
        os.environ.update(variables)
        travels = {}
        if not all(each.here for each in facts):
            extra = [str(getattr(each.planned.settings, each.key)) for each in named if _travels(each)]
            for name in dict.fromkeys([around.search.data, *extra]):
                travels[name] = send_dataset(open_dataset(name), store, around.masked)
        yield replace(_with(around, store, variables, device), travels=travels)
    finally:
        marker.unlink(missing_ok=True)
        os.environ.pop(BFLOAT16, None)
        if before is not None:
            os.environ[BFLOAT16] = before


def _with(around: Surroundings, store: str, variables: Mapping[str, str], device: str = "auto") -> Surroundings:
    known = {**around.share.variables, "WSSS_STORE": store, **variables}
    return replace(around, share=replace(around.share, variables=known), device=device)


def _named(search: SearchPlan) -> list[Named]:
    """The settings of all steps that name something beside the search's dataset."""
    found = {}
    for each in search.methods:
        for planned in search.plan(each.default).steps:
            values = content_settings(planned)
            for spec in settings_of(planned.step.settings):
                value = getattr(planned.settings, spec.key)
                if (spec.file or spec.folder or spec.dataset) and value is not None and value not in spec.words:
                    found[planned.name, spec.key] = Named(planned, spec.key, values[spec.key])
    return list(found.values())


def _travels(named: Named) -> bool:
    """Whether it is a dataset of the workspace, which is sent where it is not."""
    specs = settings_of(named.planned.step.settings)
    value = getattr(named.planned.settings, named.key)
    return any(spec.dataset and spec.key == named.key for spec in specs) and value in dataset_names()


def _ask(around: Surroundings, store: str, named: list[Named], there: list[Machine]) -> list[Facts]:
    """What each machine with a core says.

    Raises:
        UserError: one does not answer, or can't run the question; the store can't be written here; Ray has no room.
    """
    probe = storage.join(store, _PROBES, uuid.uuid4().hex)
    storage.write_bytes(storage.join(probe, "driver"), b"driver")
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0)}
    try:
        room = ray.put(np.zeros(2**20, np.uint8))
        tasks = {
            look.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(
                around, probe, id, named, bool(node["Resources"].get("GPU")), room
            ): id
            for id, node in nodes.items()
        }
        done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER_S)
        if late:
            hosts = [nodes[tasks[task]]["NodeManagerHostname"] for task in late]
            raise UserError(f"of the cluster {some(hosts)} did not answer within {ANSWER_S:.0f} s; look there")
        found = []
        for task in done:
            facts = _answer(task, nodes[tasks[task]]["NodeManagerHostname"])
            if facts is None:
                continue
            if not facts.store and not storage.exists(storage.join(probe, tasks[task])):
                facts = replace(facts, store="what it writes is not seen here")
            found.append(facts)
        if not found:
            raise UserError("the cluster's machines went away while they were looked at; start it and try again")
        return found
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError):
        raise UserError(
            "the cluster's object store is full; wait until other work on it ends, or start Ray with more "
            "--object-store-memory"
        ) from None
    finally:
        storage.remove(probe)


def _answer(task: Any, host: str) -> Facts | None:
    """What a machine says; None of one that is no more: Ray lists a dead one for a while.

    Raises:
        UserError: it can't run the question.
    """
    try:
        facts: Facts = ray.get(task)
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
        say(f"machine {host} of the cluster is gone")
        return None
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError):
        raise
    except ray.exceptions.RayTaskError as error:
        raise UserError(f"machine {host} of the cluster can't run trials: {reason(str(error))}") from None
    except ray.exceptions.RayError as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"machine {host} of the cluster can't run trials: {words[:300]}; install the same version there"
        ) from None
    return facts


def _refuse(facts: list[Facts], store: str) -> None:
    own = code_digest()
    if others := sorted({f"{each.host} ({each.code})" for each in facts if each.code != own}):
        raise UserError(
            f"the code on {some(others)} is not that of this process ({own}); install the same version on all machines"
        )
    if wrong := sorted({f"{each.host}: {each.store}" for each in facts if each.store}):
        raise UserError(
            f"the store {store} is not shared by all machines of the cluster ({some(wrong)}); set WSSS_STORE to an "
            "s3:// address, or to a folder that is the same on all of them"
        )
    if lacking := sorted({f"{each.host}: {what}" for each in facts for what in each.lacks}):
        raise UserError(
            f"settings name what machines of the cluster can't reach ({some(lacking)}); put it under the same "
            "absolute path on all of them"
        )


def _tell(facts: list[Facts]) -> None:
    """Say where machines differ in what decides fingerprints."""
    if len({each.crf for each in facts}) > 1:
        shown = ", ".join(sorted(f"{each.host} {each.crf}" for each in facts))
        say(f"the machines' CRF backends differ ({shown}), so a CRF may be computed once with each")
    if len({each.bfloat16 for each in facts}) > 1:
        say("not all machines gain by bfloat16, so precision auto is float32 on all of them where one does not")


def _device(around: Surroundings, facts: list[Facts]) -> str:
    """Where all machines' networks run.

    Raises:
        UserError: on GPUs, which there are none of.
    """
    search = around.search
    if any(each.gpu for each in facts) and around.gpus and search.device != "cpu":
        return "cuda"
    if search.device == "cuda":
        raise UserError(
            "device cuda was asked for, but no trial gets a GPU that torch can use; use --device cpu or auto"
        )
    if around.gpus:
        say("torch can use none of the GPUs that the cluster offers, so all is computed on CPUs")
    return "cpu"
