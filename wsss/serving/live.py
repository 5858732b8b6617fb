"""The model that answers now, and the thread that watches who should."""

from __future__ import annotations

import logging
import string
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import torch

from wsss.errors import one_line
from wsss.serving.memory import return_memory
from wsss.serving.package import load_package
from wsss.serving.pictures import MEMORY, Limits
from wsss.serving.segmenter import Segmenter

log = logging.getLogger("wsss.serving")
_PLAIN = "".join(set(string.printable) - set(string.whitespace) - {"%"})
_TRIAL = np.zeros((33, 33, 3), np.uint8)
AGAIN_S = 60
"""After which a model that was refused is tried again."""
SETTLE_EVERY = 12
"""Looks at the alias for one at the ledger, which is longer."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model with what its answers need.

    Attributes:
        segmenter: the model.
        limits: what an image may be.
        name: its version as text that UTF-8 can hold, which the name of a folder need not be.
        header: that percent-encoded where it is not plain ASCII.
    """

    segmenter: Segmenter
    limits: Limits
    name: str
    header: str

    @classmethod
    def of(cls, segmenter: Segmenter, memory: int = MEMORY) -> Served:
        """A model as it is served; `memory` as in `Limits`."""
        name = sendable(segmenter.version)
        return cls(segmenter, Limits(segmenter, memory), name, quote(name, safe=_PLAIN))


def sendable(version: str) -> str:
    """A model's version as text that UTF-8 can hold, which the name of a folder need not be."""
    return version.encode(errors="backslashreplace").decode()


def has_alias(address: str) -> bool:
    """Whether what an address (`models:/NAME@ALIAS`) means may change."""
    return address.startswith("models:/") and "@" in address


def version_of_alias(address: str) -> str:
    """The version (`models:/NAME/3`) that an address `models:/NAME@ALIAS` means now; empty if the alias is unset.

    Raises:
        Exception: whatever MLflow raises where it does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name, _, alias = address.removeprefix("models:/").partition("@")
    try:
        return f"models:/{name}/{MlflowClient().get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return ""
        raise


class Watch:
    """Looks in a thread which model an alias means, and hands over each new one when it is loaded and has answered.

    A model that can't be loaded is refused and said so once; what answered before goes on. So it does where MLflow
    does not answer. What was handed over before is let go by who takes the new one.

    Args:
        address: `models:/NAME@ALIAS`.
        known: the version that is there already; empty for none.
        take: gets each new model; None where the alias is unset and `known` is not the champion's.
        every: seconds between two looks.
        device: that models are put on.
        settle: has the alias follow the ledger; called at every twelfth look.
        seen: is told whether the registry answered.
        refused: is told of each model that was refused.
    """

    def __init__(
        self,
        address: str,
        known: str,
        take: Callable[[Segmenter | None], None],
        every: float,
        device: torch.device,
        *,
        settle: Callable[[], object] = lambda: None,
        seen: Callable[[bool], None] = lambda _: None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._address, self._known, self._take, self._every = address, known, take, every
        self._device, self._settle, self._seen, self._refused = device, settle, seen, refused
        self._bad, self._bad_at = "", 0.0
        self._said = ""
        self._looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {address}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End after the look that has begun."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every if self._looks else min(self._every, 0.1)):
            self.look()

    def look(self) -> None:
        """One look; nothing is raised."""
        try:
            if self._looks % SETTLE_EVERY == SETTLE_EVERY - 1:
                self._settle()
            version = version_of_alias(self._address)
            self._seen(True)
        except Exception as error:
            self._seen(False)
            self._say(f"{self._address} can't be looked up ({_brief(error)}); the model that answers goes on")
            return
        finally:
            self._looks += 1
        if version == self._known or (version == self._bad and time.monotonic() < self._bad_at + AGAIN_S):
            return
        if not version:
            self._known = ""
            self._take(None)
            return
        try:
            segmenter = load_package(version)
            segmenter(_TRIAL)
            segmenter.module.to(self._device)
            self._take(segmenter)
        except Exception as error:
            self._bad, self._bad_at = version, time.monotonic()
            self._refused()
            self._say(f"{version} is refused ({_brief(error)}); the model that answers goes on")
            return
        self._known, self._bad, self._said = version, "", ""
        log.info("%s is now %s", self._address, version)
        del segmenter
        return_memory()

    def _say(self, sentence: str) -> None:
        if sentence != self._said:
            log.warning("wsss: %s", sentence)
        self._said = sentence


def _brief(error: Exception) -> str:
    return one_line(error)[:300].rstrip(".")
