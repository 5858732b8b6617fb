"""The same application on Ray Serve: several replicas behind one address, more of them while many requests wait.

Each replica is the whole of `wsss.serving.server`: it groups images, follows the alias and refuses on its own. Ray
Serve takes the requests and hands each to a replica, which is a hop from process to process.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wsss.errors import UserError, one_line
from wsss.process import own_cores
from wsss.run.cluster import Share, connected, machines, slots_of
from wsss.serving.options import Options
from wsss.serving.package import load_package
from wsss.serving.server import make_app
from wsss.tracking.connection import tracking_uri

NAME = "wsss"
_EACH = 8
"""Requests of a replica beyond which there shall be another;"""
_MOST = 64
"""and those that it holds at most, as the server alone does."""
_TIMEOUT_S = 180


def replicas_of(text: str) -> tuple[int, int]:
    """The least and the largest number of replicas, of texts such as `2` and `1-4`.

    Raises:
        UserError: another text.
    """
    low, dash, high = text.partition("-")
    numbers = [int(part) if part.isdecimal() else 0 for part in ((low, high) if dash else (low, low))]
    if not 1 <= numbers[0] <= numbers[1]:
        raise UserError(f"--replicas {text!r} is neither a number from 1 nor two such as 1-4")
    return numbers[0], numbers[1]


def deployment(address: str, options: Options, replicas: tuple[int, int], device: str) -> Any:
    """The application for `ray.serve.run`, on the connected cluster.

    Args:
        address: of the model, which each replica loads; a folder has to be there on each machine.
        options: as for the server alone; the device is the replica's.
        replicas: the least and the largest number.
        device: cpu, cuda or auto; with GPUs, a replica has one.

    Raises:
        UserError: no machine has what a replica needs.
    """
    from ray import serve
    from ray.serve.config import AutoscalingConfig

    slots = slots_of(machines(), device, cores=max(1, own_cores() // replicas[1]))
    share = Share.of(slots, {"MLFLOW_TRACKING_URI": tracking_uri()})
    here, gpu = os.getcwd(), slots.gpus > 0

    def application() -> Any:
        if Path(here).is_dir():
            os.chdir(here)
        share.take()
        own = torch.device("cuda" if gpu else "cpu")
        return make_app(load_package(address), replace(options, device=own))

    made: Any = serve.deployment(
        serve.ingress(application)(),
        name=NAME,
        max_ongoing_requests=_MOST,
        ray_actor_options={"num_cpus": slots.cores, "num_gpus": slots.gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=replicas[0], max_replicas=replicas[1], target_ongoing_requests=_EACH
        ),
    )
    return made.bind()


def serve_on_ray(
    address: str,
    host: str,
    port: int,
    options: Options,
    replicas: tuple[int, int],
    device: str,
    cluster: str,
    *,
    told: Callable[[str], None] = print,
) -> None:
    """Serve until the process is told to stop; the address is told once a replica answers.

    Args:
        address, options, replicas, device: as in `deployment`.
        host, port: where Ray's proxy listens.
        cluster: the address of a cluster, or "local".
        told: gets the one line.

    Raises:
        UserError: Ray Serve is not installed, no cluster answers, or no replica starts.
    """
    try:
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig
    except ImportError as error:
        raise UserError(f"Ray Serve needs {error.name}; install it with: pip install 'ray[serve]'") from None
    if ":/" not in address:
        address = str(Path(address).absolute())
    load_package(address)  # What is wrong with it is told here, not in a replica's log.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    with connected(cluster):
        try:
            serve.start(
                http_options=HTTPOptions(host=host, port=port, request_timeout_s=_TIMEOUT_S), logging_config=quiet
            )
            serve.run(deployment(address, options, replicas, device), name=NAME, logging_config=quiet)
        except (RuntimeError, ValueError) as error:
            serve.shutdown()
            raise UserError(f"Ray Serve can't serve {address}: {one_line(error)[:400]}") from None
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has put handlers of its own there.
            signal.signal(number, lambda *_: stopped.set())
        low, high = replicas
        told(f"serving {address} on http://{host}:{port}, {low} to {high} replicas on Ray Serve")
        stopped.wait()
        serve.shutdown()
