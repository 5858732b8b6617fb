"""Who computes the convolutions on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def of_any_shape(device: torch.device) -> Iterator[None]:
    """On a GPU, convolutions by torch's own kernels, for inputs of a shape that hardly comes again.

    cuDNN has faster ones, but makes a plan for each layer and shape first: seconds for a network whose images differ
    in size, or for the short last batch of an epoch.
    """
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = before and (device.type != "cuda")
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
