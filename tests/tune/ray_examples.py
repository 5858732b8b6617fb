"""A Ray cluster for tests, without those of Ray's own processes that nothing here asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import forget_variables
from ray.cluster_utils import Cluster

HEAD = {
    "include_dashboard": False,  # a dozen processes
    "include_log_monitor": False,
    "no_monitor": True,  # of the autoscaler
    "object_store_memory": 100 * 2**20,
}
"""How the first node is started."""


@contextmanager
def started(home: Path, cores: int) -> Iterator[str]:
    """A cluster of one machine, begun without the variables that runs need, which this process lacks as well meanwhile.

    Args:
        home: an empty folder that is HOME.
        cores: how many cores it has.

    Yields:
        Its address.
    """
    with pytest.MonkeyPatch.context() as patch:
        forget_variables(patch, home)
        machine = Cluster(True, head_node_args={**HEAD, "num_cpus": cores})
        try:
            yield machine.address
        finally:
            machine.shutdown()
