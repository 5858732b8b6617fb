"""What a machine of a cluster says of itself, asked in a task before the first trial."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import tune
import wsss
from tune.trial import Surroundings, own_folder, sees_workspace
from wsss import storage
from wsss.errors import UserError
from wsss.git import VERSION
from wsss.ops.crf import choose_backend
from wsss.run.fingerprints import content_settings
from wsss.run.plan import PlannedStep
from wsss.training import gains_by_bfloat16

_GPU = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"


@dataclass(frozen=True)
class Named:
    """A setting that names a file, a folder or a dataset: its step, its key and what it is by content."""

    planned: PlannedStep
    key: str
    content: Any

    def __str__(self) -> str:
        return f"{self.planned.key}.{self.key} = {getattr(self.planned.settings, self.key)}"


@dataclass(frozen=True)
class Facts:
    """What a machine says of itself.

    Attributes:
        host: its name.
        code: a hash of the sources of what it would run.
        here: it sees the search's folder.
        lacks: settings whose files it has not.
        store: what is wrong with the store there; empty where nothing is.
        gpu: it has a GPU that torch can use.
        bfloat16: the kinds of device that gain by it there.
        crf: the CRF backend.
    """

    host: str
    code: str
    here: bool = True
    lacks: tuple[str, ...] = ()
    store: str = ""
    gpu: bool = False
    bfloat16: frozenset[str] = field(default_factory=frozenset)
    crf: str = ""


def code_digest() -> str:
    """The version of this package, and a hash of the sources that are installed here."""
    total = hashlib.sha256()
    for package in (wsss, tune):
        folder = Path(str(package.__file__)).parent
        for path in sorted(path for suffix in ("py", "cpp", "h") for path in folder.rglob(f"*.{suffix}")):
            total.update(f"{path.relative_to(folder.parent).as_posix()} ".encode() + path.read_bytes())
    return f"{VERSION}-{total.hexdigest()[:12]}"


@ray.remote(max_retries=1)
def look(around: Surroundings, probe: str, node: str, named: list[Named], gpu: bool, room: np.ndarray) -> Facts:
    """What the machine says on which this task runs.

    Args:
        around: the search.
        probe: where in the store "driver" was written, and `node` is to be.
        node: Ray's id of the machine.
        named: what settings name.
        gpu: Ray counts a GPU there; whether torch can use it is tried.
        room: takes some of Ray's object store.
    """
    around.share.take()
    here = sees_workspace(around)
    os.chdir(around.workspace if here else own_folder(around))
    facts = own_facts(
        gpu and subprocess.run([sys.executable, "-c", _GPU], env=_all_gpus(), check=False).returncode == 0
    )
    return replace(
        facts,
        here=here,
        lacks=tuple(str(each) for each in named if not _has(each)),
        store=_store_problem(probe, node),
    )


def own_facts(gpu: bool) -> Facts:
    """Those of this process, which has a GPU that torch can use or not."""
    kinds = ["cpu", "cuda"] if gpu else ["cpu"]
    gains = {kind for kind in kinds if gains_by_bfloat16(torch.device(kind))} | ({"cuda"} if not gpu else set())
    return Facts(socket.gethostname(), code_digest(), gpu=gpu, bfloat16=frozenset(gains), crf=choose_backend("auto"))


def _all_gpus() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}


def _store_problem(probe: str, node: str) -> str:
    try:
        storage.read_bytes(storage.join(probe, "driver"))
        storage.write_bytes(storage.join(probe, node), b"")
    except FileNotFoundError:
        return "what this process wrote is not there"
    except (UserError, OSError) as error:
        return str(error)
    return ""


def _has(named: Named) -> bool:
    """Whether what a setting names is here, and is the same."""
    try:
        here = content_settings(named.planned)[named.key]
    except (UserError, OSError):
        return False
    return bool(json.dumps(here, sort_keys=True) == json.dumps(named.content, sort_keys=True))
