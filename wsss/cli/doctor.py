"""What is installed, which devices, stores and servers can be reached, and how to mend what can't."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from rich.table import Column, Table
from rich.text import Text

from wsss import storage
from wsss.commands import command
from wsss.console import show
from wsss.errors import UserError, one_line
from wsss.process import own_cores

_PACKAGES = ("torch", "torchvision", "mlflow", "ray", "dvc", "boto3")
_PROBE = ".wsss-doctor"


def examine() -> int:
    """Print a line for each part; 1 when something that is needed is missing, else 0."""
    table = Table(*(Column(head, overflow="fold") for head in ("part", "state", "what to do")), box=None)
    broken = 0
    for part, check in _CHECKS:
        try:
            state, advice = check()
            mark = "yellow" if advice else "green"
        except UserError as error:
            state, advice, mark = "missing", str(error), "red"
            broken += 1
        except ModuleNotFoundError as error:
            advice = f"needs {error.name}; without it works: {command('wsss', 'run', '--offline', 'OUT')}"
            state, mark = "missing", "yellow"
        table.add_row(part, Text(state, mark), advice)
    show(table, soft_wrap=True)
    return int(broken > 0)


def _python() -> tuple[str, str]:
    return f"{platform.python_version()}, {own_cores()} cores, {storage.free_bytes('.') / 1e9:.0f} GB free", ""


def _packages() -> tuple[str, str]:
    missing = list(_missing_packages())
    if missing:
        raise UserError(f"{', '.join(missing)} can't be found; install wsss anew (in a clone: make env)")
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES), ""


def _missing_packages() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            yield name


def _gpu() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), ""
    return "none", "runs use the CPU; preset paper needs a GPU to end in reasonable time"


def _crf() -> tuple[str, str]:
    from wsss.ops.crf import choose_backend

    advice = (
        ""
        if importlib.util.find_spec("pydensecrf")
        else "for the peer: pip install pydensecrf2==1.1 (needs a C++ compiler)"
    )
    return f"backend {choose_backend('auto')}", advice


def _tracking() -> tuple[str, str]:
    from wsss.tracking.connection import mlflow_client
    from wsss.tracking.query import experiments

    return f"{mlflow_client().tracking_uri}, {len(experiments(mlflow_client()))} experiments", ""


def _store() -> tuple[str, str]:
    store = storage.store_address()
    storage.write_bytes(storage.join(store, _PROBE), b"written by wsss doctor")
    storage.read_bytes(storage.join(store, _PROBE))
    storage.remove(storage.join(store, _PROBE))
    storage.check_exclusive_writes(store)
    if not storage.is_remote(store):
        return f"{store} can be written", ""
    state = f"{store} can be written, and keeps conditions (proven by writing twice)"
    if storage.keeps_versions(store):
        return f"{state} and versions", ""
    if storage.keeps_versions(store) is None:
        return state, ""
    bucket = store.removeprefix("s3://").partition("/")[0]
    return f"{state}, but no versions", (
        "what is deleted there can't be brought back; whoever administers it turns versions on: "
        f"aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled"
    )


def _versions() -> tuple[str, str]:
    from wsss import git
    from wsss.versions import default_remote

    if not shutil.which("git"):
        return "git is missing", "install git: versions are tied to commits"
    remote = default_remote()
    commit = git.state().commit
    return f"commit {commit[:10] if commit else 'none'}, DVC remote {remote or 'none yet'}", ""


def _ray() -> tuple[str, str]:
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return "local", ""
    from wsss.run.cluster import knock

    try:
        knock(address)
    except OSError as error:
        return f"nothing answers at {address}", f"{one_line(error)}; start the cluster, or unset RAY_ADDRESS"
    return f"cluster {address}", ""


def _datasets() -> tuple[str, str]:
    from wsss.data.workspace import dataset_names

    names = dataset_names()
    if names:
        return ", ".join(names), ""
    return "none yet", f"the built-in shapes are drawn on first use; {command('wsss', 'data', 'add', '--help')}"


_CHECKS: tuple[tuple[str, Callable[[], tuple[str, str]]], ...] = (
    ("python", _python),
    ("packages", _packages),
    ("gpu", _gpu),
    ("dense crf", _crf),
    ("tracking", _tracking),
    ("step store", _store),
    ("versions", _versions),
    ("ray", _ray),
    ("datasets", _datasets),
)
