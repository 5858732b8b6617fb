"""Work on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
import torch
from ray.data import DataContext

from wsss.errors import UserError

Row = dict[str, Any]

_OBJECT_STORE = 200 * 2**20


class _Worker:
    """What holds a machine, or a GPU of one, while there is work."""

    def __init__(self, work: Callable[[list[str], torch.device], Iterator[Row]]) -> None:
        self._work = work
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: Mapping[str, Any]) -> list[Row]:
        return list(self._work(list(row["ids"]), self._device))


def spread(
    work: Callable[[list[str], torch.device], Iterator[Row]], shards: Sequence[Sequence[str]], address: str
) -> Iterator[Row]:
    """Do shards of work on all machines of a cluster, by Ray Data: a machine that is lost is replaced by another.

    Args:
        work: from the ids of a shard and the device of the machine to rows of plain values; it and its files must be
            reachable under the same paths on every machine. A machine, or a GPU of it, does one shard at a time.
        shards: of ids.
        address: of the cluster, "auto" for one that this machine belongs to, "local" for one made of this machine.

    Returns:
        The rows, in the order of the shards; without a shard, no cluster is asked.

    Raises:
        UserError: no cluster answers.
    """
    if not shards:
        return
    with _cluster(address):
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
        slots = gpus or len(machines)
        cores = min(machine["CPU"] / max(1, machine.get("GPU", 0)) for machine in machines if machine.get("CPU"))
        rows = ray.data.from_items([{"ids": list(shard)} for shard in shards], override_num_blocks=len(shards))
        done = rows.flat_map(
            _Worker,
            fn_constructor_args=(work,),
            concurrency=min(slots, len(shards)),
            num_cpus=int(cores),
            num_gpus=1 if gpus else 0,
        )
        yield from done.iter_rows()


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    options = here if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); start it or leave --ray-address away"
        ) from None
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
