"""How a model is served: what the command line, the server and Ray Serve agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from wsss.errors import unknown
from wsss.serving.keys import ApiKeys
from wsss.serving.pictures import MEMORY
from wsss.serving.shadow import ShadowSettings

RUNTIMES = TORCH, FUSED = "torch", "fused"
"""What answers bit for bit as everywhere; what is faster on a CPU, and the same but for rounding."""


@dataclass(frozen=True)
class Options:
    """How a model is served.

    Attributes:
        memory: as in `wsss.serving.pictures.Limits`.
        device: that models are on.
        keys: who may ask; None for everybody.
        shadow: who answers too; None for nobody.
        address: what was asked for; where it has an alias, the alias is watched.
        every: seconds between two looks at an alias; 0 for none.
        settle: has an alias follow the ledger.
        runtime: one of `RUNTIMES`.
    """

    memory: int = MEMORY
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    keys: ApiKeys | None = None
    shadow: ShadowSettings | None = None
    address: str = ""
    every: float = 5.0
    settle: Callable[[], object] = lambda: None
    runtime: str = TORCH

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise unknown("runtime", self.runtime, RUNTIMES)
