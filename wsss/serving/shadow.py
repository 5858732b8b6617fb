"""A challenger that answers a share of the requests too, when nobody waits, and how far it disagrees.

Its answer is never sent. An image is offered to it when the champion's answer has left, and waits until no request is
there; a request that comes meanwhile stops the challenger's network before its next layer. What can't be done in time
is dropped and counted.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wsss.errors import UserError
from wsss.scores import confusion
from wsss.serving.live import Served
from wsss.serving.metrics import Metrics
from wsss.serving.segmenter import Segmenter

log = logging.getLogger("wsss.serving")
MOST_IMAGES = 8
"""Images that wait for the challenger;"""
MOST_PIXELS = 1 << 20
"""larger ones are not compared, as they would hold their memory while they pause."""
PATIENCE_S = 30
"""For which an image pauses in the network before it is dropped."""
_PAUSE_S = 0.005


@dataclass(frozen=True)
class ShadowSettings:
    """Who answers too.

    Attributes:
        address: `models:/NAME@ALIAS`, another address of a model, or a package's folder.
        share: of the requests, above 0 and at most 1.
    """

    address: str
    share: float

    @classmethod
    def parse(cls, text: str, model: str) -> ShadowSettings:
        """Read `ALIAS:SHARE` or `ADDRESS:SHARE`.

        Args:
            text: such as `challenger:0.1`.
            model: the address of the model that answers; its name is an alias's.

        Raises:
            UserError: another form, a share that is none, or an alias where the model that answers has no name.
        """
        who, _, number = text.rpartition(":")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not who or not 0 < share <= 1:
            raise UserError(f"--shadow {text!r} is not ALIAS:SHARE with a share of 0 to 1, such as challenger:0.1")
        if "/" in who:
            return cls(who, share)
        if not model.startswith("models:/") or model.startswith("models:/m-"):
            raise UserError(
                f"--shadow {text!r} names an alias, but {model} is no registered model; serve models:/NAME@champion, "
                "or give the challenger's address"
            )
        name = model.removeprefix("models:/").partition("@")[0].partition("/")[0]
        return cls(f"models:/{name}@{who}", share)


@dataclass(frozen=True, eq=False)
class Offer:
    """An image (uint8 H x W x 3) that the champion has labelled (uint8 H x W)."""

    image: np.ndarray
    labels: np.ndarray
    champion: Served


class _StoppedError(Exception):
    """The image has paused too long."""


class Shadow:
    """Compares a challenger with the champion on a sampled share of what is asked.

    Args:
        share: of the requests.
        busy: whether a request is there.
        metrics: where it is counted.
    """

    def __init__(self, share: float, busy: Callable[[], bool], metrics: Metrics) -> None:
        self._share, self._busy, self._metrics = share, busy, metrics
        self._challenger: Segmenter | None = None
        self._offers: deque[Offer] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._until = 0.0
        self._pair = ("", "")
        self._classes: tuple[str, ...] = ()
        self._matrix = np.zeros((0, 0), np.int64)
        self._images = 0
        threading.Thread(target=self._work, name="shadow", daemon=True).start()

    def take(self, challenger: Segmenter | None) -> None:
        """Compare with this model from now on; None for none."""
        if challenger is not None:
            for module in challenger.module.modules():
                if not list(module.children()):
                    module.register_forward_pre_hook(lambda *_: self._give_way())
        with self._changed:
            self._challenger = challenger
            self._offers.clear()

    def sampled(self, pixels: int) -> bool:
        """Whether a request, of an image of so many pixels, is one of the share."""
        return self._challenger is not None and pixels <= MOST_PIXELS and random.random() < self._share

    def take_offer(self, offer: Offer) -> None:
        """Have an image labelled by the challenger too, when there is time."""
        with self._changed:
            if len(self._offers) >= MOST_IMAGES:
                self._metrics.shadow_dropped.inc()
                return
            self._offers.append(offer)
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def report(self) -> dict[str, Any]:
        """The comparison so far of these two models, for JSON.

        Returns:
            `champion`, `challenger`, `images`, `pixels`, `disagreement` (a share of the pixels, None without any) and
            for each class its `name`, the pixels that each of the two gives it and those that both do.
        """
        with self._changed:
            matrix, (champion, challenger) = self._matrix.copy(), self._pair
            images, classes = self._images, self._classes
        pixels, same = int(matrix.sum()), int(np.trace(matrix))
        return {
            "champion": champion,
            "challenger": challenger,
            "share": self._share,
            "images": images,
            "pixels": pixels,
            "disagreement": 1 - same / pixels if pixels else None,
            "classes": [
                {
                    "name": name,
                    "champion_pixels": int(matrix[i].sum()),
                    "challenger_pixels": int(matrix[:, i].sum()),
                    "both_pixels": int(matrix[i, i]),
                }
                for i, name in enumerate(classes)
            ],
        }

    def _give_way(self) -> None:
        while self._busy():
            if time.monotonic() > self._until:
                raise _StoppedError
            time.sleep(_PAUSE_S)

    def _work(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offers or self._closed)
                if self._closed:
                    return
                offer, challenger = self._offers.popleft(), self._challenger
            if challenger is not None:
                self._compare(offer, challenger)
            del offer, challenger

    def _compare(self, offer: Offer, challenger: Segmenter) -> None:
        champion = offer.champion.segmenter
        try:
            if challenger.classes != champion.classes:
                raise UserError("it has other classes than the champion")
            self._until = time.monotonic() + PATIENCE_S
            self._give_way()
            labels = challenger(offer.image)
        except _StoppedError:
            self._metrics.shadow_dropped.inc()
            return
        except Exception as error:
            self._metrics.shadow_dropped.inc()
            log.warning("wsss: the challenger %s does not answer: %s", challenger.version, error)
            self.take(None)
            return
        matrix = confusion(offer.labels, labels, len(champion.classes))
        self._metrics.shadow_images.inc()
        names = champion.classes.with_background
        for index in np.flatnonzero(matrix.sum(1)).tolist():
            count = int(matrix[index].sum())
            self._metrics.shadow_pixels.labels(names[index]).inc(count)
            self._metrics.shadow_other.labels(names[index]).inc(count - int(matrix[index, index]))
        with self._changed:
            pair = (offer.champion.name, challenger.version)
            if pair != self._pair:
                self._pair, self._classes, self._images = pair, names, 0
                self._matrix = np.zeros_like(matrix)
            self._matrix += matrix
            self._images += 1
