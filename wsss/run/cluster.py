"""Work on the machines of a Ray cluster: the way there, what there is, what a worker is given, and shards of work."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import ray
import torch

from wsss.commands import READER_PATH
from wsss.errors import UserError, one_line
from wsss.process import CORES, own_cores

Row = dict[str, Any]
Machine = Mapping[str, float]
"""What a machine has, by Ray's names, such as {"CPU": 16, "GPU": 1}."""

LOCAL = "local"
ADDRESS = "RAY_ADDRESS"
"""The environment variable with the address of a cluster."""
_ANSWER_S = 8
_OBJECT_STORE = 200 * 2**20
_FORWARDED = ("WSSS_", "MLFLOW_", "AWS_", "TORCH_HOME")
WORKER_FOLDER = "WSSS_WORKER_FOLDER"
"""On a machine of a cluster: where its workers keep scratch, cache and datasets, instead of the driver's folder."""
_OF_ONE_PROCESS = (CORES, "MLFLOW_RUN_ID", WORKER_FOLDER, READER_PATH)


@dataclass(frozen=True)
class Slots:
    """Equal parts of a cluster's machines, each for one worker. Every one of them can be had.

    Attributes:
        cores: what a worker asks for; below 1 where a machine has more GPUs than cores.
        gpus: 1, or 0 where the workers use none.
        count: how many workers fit at once.
        machines: what there is, for people.
    """

    cores: float
    gpus: int
    count: int
    machines: str

    def __str__(self) -> str:
        gpu = " and a GPU" if self.gpus else ""
        return f"{self.cores:g} core{'s' if self.cores > 1 else ''}{gpu} each, {self.count} at once on {self.machines}"


@dataclass(frozen=True)
class Share:
    """What a worker is given. Variables hold passwords, so they stay out of every text and of Ray's job metadata.

    Attributes:
        cores: its own, in whole numbers.
        variables: of the environment, by name.
    """

    cores: int
    variables: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, slots: Slots, variables: dict[str, str] | None = None) -> Share:
        """That of a worker in a slot: this process's WSSS_*, MLFLOW_*, AWS_* and TORCH_HOME, and variables besides."""
        return cls(max(1, int(slots.cores)), forwarded() | (variables or {}))

    def take(self) -> None:
        """Make it this process's."""
        os.environ.update({**self.variables, CORES: str(self.cores)})
        torch.set_num_threads(own_cores())


def forwarded() -> dict[str, str]:
    """The variables of this process that work elsewhere needs, passwords among them."""
    return {k: v for k, v in os.environ.items() if k.startswith(_FORWARDED) and k not in _OF_ONE_PROCESS}


class _Worker:
    """What holds a slot while there is work."""

    def __init__(self, work: Callable[[list[str], torch.device], Iterator[Row]], share: Share) -> None:
        share.take()
        self._work = work
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: Mapping[str, Any]) -> list[Row]:
        return list(self._work(list(row["ids"]), self._device))


def spread(
    work: Callable[[list[str], torch.device], Iterator[Row]], shards: Sequence[Sequence[str]], address: str
) -> Iterator[Row]:
    """Do shards of work on all machines of a cluster, by Ray Data: a machine that is lost is replaced by another.

    Args:
        work: from the ids of a shard and the device of the worker to rows of plain values; it and its files must be
            reachable under the same paths on every machine. A worker does one shard at a time.
        shards: of ids.
        address: of the cluster, "auto" for one that this machine belongs to, "local" for one made of this machine.

    Returns:
        The rows, in the order of the shards; without a shard, no cluster is asked.

    Raises:
        UserError: no cluster answers, or none of its machines has a core.
    """
    if not shards:
        return
    import ray.data

    with connected(address):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        slots = slots_of(machines())
        rows = ray.data.from_items([{"ids": list(shard)} for shard in shards], override_num_blocks=len(shards))
        done = rows.flat_map(
            _Worker,
            fn_constructor_args=(work, Share.of(slots)),
            concurrency=min(slots.count, len(shards)),
            num_cpus=slots.cores,
            num_gpus=slots.gpus,
        )
        yield from done.iter_rows()


def slots_of(machines: Sequence[Machine], device: str = "auto", cores: float = float("inf")) -> Slots:
    """Divide machines into equal parts.

    With GPUs a worker has one of them and its share of the cores beside it; machines without a GPU are left out.
    Without, it has as many cores as the smallest machine.

    Args:
        machines: those of a cluster.
        device: "auto" uses GPUs where there are some, "cpu" none, "cuda" has to.
        cores: at most so many for a worker without a GPU.

    Raises:
        UserError: no machine has what a worker needs.
    """
    usable = [machine for machine in machines if machine.get("CPU", 0) > 0]
    with_gpu = [machine for machine in usable if machine.get("GPU", 0) >= 1]
    shown = "; ".join(f"{machine.get('CPU', 0):g} cores, {machine.get('GPU', 0):g} GPUs" for machine in machines)
    shown = f"{len(machines)} machine{'s' if len(machines) != 1 else ''} ({shown})"
    if device == "cuda" and not with_gpu:
        raise UserError(f"device cuda was asked for, but no machine has a GPU with a core beside it: there is {shown}")
    if not usable:
        raise UserError(f"the cluster has no machine with a core: there is {shown}; start one with `ray start`")
    if with_gpu and device != "cpu":
        share = min(machine["CPU"] / int(machine["GPU"]) for machine in with_gpu)
        return Slots(_whole(share), 1, sum(int(machine["GPU"]) for machine in with_gpu), shown)
    share = _whole(min(cores, *(machine["CPU"] for machine in usable)))
    return Slots(share, 0, sum(int(machine["CPU"] / share) for machine in usable), shown)


def machines() -> list[Machine]:
    """Those of the connected cluster that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster at an address, or to one made of this process's cores for the time ("local").

    Raises:
        UserError: no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {
        "num_cpus": own_cores(),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE,
    }
    options = here if address == LOCAL else {}
    if address == LOCAL and not os.access(os.path.expanduser("~"), os.W_OK):
        # Ray would write the token that keeps other users out of its processes into HOME.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ValueError as error:
        raise UserError(
            f"{address!r} is no address of a Ray cluster ({error}); give HOST:PORT, auto or local"
        ) from None
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        if address == LOCAL:
            raise UserError(f"Ray can't start on this machine: {one_line(error)}") from error
        away = "unset RAY_ADDRESS" if os.environ.get(ADDRESS) == address else "leave --ray-address away"
        raise UserError(
            f"no Ray cluster answers at {address} ({one_line(error)}); start it, or {away}: then this machine does it"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Connect once to HOST:PORT, as Ray does, by gRPC; Ray would go on trying for minutes, without a word.

    Raises:
        OSError: nothing answers there within seconds, or something else than Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        if os.environ.get("RAY_USE_TLS", "0") != "1":
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=_ANSWER_S)
                except grpc.FutureTimeoutError:
                    raise OSError("what listens there is not Ray") from None


def _whole(cores: float) -> float:
    return float(int(cores)) if cores >= 1 else cores
