"""The networks that a package may hold, and what each says of a pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.methods.dcsm import score_map
from wsss.methods.dcsm.network import DcsmNet
from wsss.methods.dcsm.saliency import SaliencySettings, class_difference, cropped, padded
from wsss.methods.dcsm.tiled import saliency_of
from wsss.methods.fcn_mil.network import FcnMil
from wsss.methods.wildcat import Wildcat
from wsss.nets.deeplab import DeepLab
from wsss.nets.folding import folded
from wsss.ops.guided import Guided
from wsss.ops.tiles import TILE, is_large
from wsss.serving.deployed import Deployed, Size, resize
from wsss.stages.inference import node_grid, node_size
from wsss.stages.refine import BackgroundSettings, with_background

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "deeplab": DeepLab,
    "fcn_mil": FcnMil,
    "wildcat": Wildcat,
    "dcsm": DcsmNet,
}
"""By what `model.json` calls them: the segmenter, and the localizers that predict without one, named as their stage."""

SEGMENTER, OF_GRADIENTS = "deeplab", "dcsm"
"""What every method trains on its labels; the network whose maps are gradients, so that it can't be exported."""

_ANSWERS: Mapping[type, Callable[[Any, Tensor], Tensor]] = {
    DeepLab: lambda net, images: net(images).softmax(1),
    FcnMil: FcnMil.maps,
    Wildcat: Wildcat.heatmaps,
}


class Probabilities(nn.Module):
    """A network, folded for inference, and its probabilities or heatmaps: what is exported, and what runs here.

    Its convolutions are PyTorch's own, since those of `wsss.nets.folding.FusedConv` can't be exported and round in
    another way where an image is small.
    """

    def __init__(self, net: nn.Module, *, fuse: bool = False) -> None:
        super().__init__()
        self.net = folded(net, fuse=fuse)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 B x K x h x w, of normalised float32 B x 3 x H x W images whose borders are on nodes.

        K is C + 1 for probabilities, C for WILDCAT's heatmaps.
        """
        return _ANSWERS[type(self.net)](self.net, images)


class Saliency(Deployed):
    """DCSM's network with what makes maps of its gradients; a large image goes through in tiles, others whole."""

    def network_sizes(self, learned: Size) -> list[Size]:
        """Images of one size alone go together."""
        return [learned]

    @torch.inference_mode(False)
    def coarse(self, images: Sequence[Tensor]) -> Tensor:
        """Scores of the background and of the classes that are seen, -1 for the others; see `Deployed.coarse`.

        On the device "meta", where memory is reckoned, every class is seen.
        """
        if images[0].is_meta:
            return self._rehearsed((images[0].shape[2], images[0].shape[3]))
        direct = self.direct
        assert direct is not None and direct.background is not None and isinstance(self.net, DcsmNet)
        settings = SaliencySettings(tuple(self.scales), direct.side, direct.cell)
        exists = direct.background[0] != "none"
        pixels = [(image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy() for image in images]
        with torch.enable_grad():
            found = saliency_of(self.net, pixels, None, settings, self.mean.device, at_least_one=not exists)
        size, background = (images[0].shape[2], images[0].shape[3]), BackgroundSettings(*direct.background)
        scores = []
        for maps, classes in found:
            kept = with_background(score_map(maps, classes, size), background, exists)
            dense = np.full((self.net.head.out_channels + 1, *kept.scores.shape[1:]), -1, np.float32)
            dense[kept.classes] = kept.scores
            scores.append(torch.from_numpy(dense))
        return torch.stack(scores).to(self.mean.device)

    def _rehearsed(self, size: Size) -> Tensor:
        assert self.direct is not None and isinstance(self.net, DcsmNet)
        whole = node_grid(*size, self.direct.cell)
        if is_large(*size):
            size = (TILE, TILE)
        image, corner = padded(self.mean.new_empty(1, 3, *size), self.direct.side)
        canvas, grid = (image.shape[2], image.shape[3]), node_grid(*size, self.direct.cell)
        passes = []
        with torch.enable_grad(), Guided():
            for scale in self.scales:
                passes.append(self.net.scores_and_inputs(resize(image, node_size(*canvas, self.stride, scale))))
        classes = self.net.head.out_channels
        for scores, inputs in passes:
            seeds = scores.new_empty(classes, *scores.shape)
            for gradient in torch.autograd.grad(scores, inputs, seeds, is_grads_batched=True):
                class_difference(cropped(gradient.abs().amax(2), canvas, corner, size, grid)[:, 0])
        return self.mean.new_empty(1, classes + 1, *whole)


def build(kind: str, architecture: Mapping[str, Any], weights: Path) -> nn.Module:
    """A network with its weights, in eval mode, on the CPU.

    Args:
        kind: one of `NETWORKS`.
        architecture: the arguments that rebuild it.
        weights: a file of safetensors.

    Raises:
        UserError: the weights are damaged, or another network's.
    """
    net = NETWORKS[kind](weights="none", **architecture)
    try:
        net.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} does not hold the weights that model.json describes: {reason}") from None
    return net.eval().requires_grad_(False)
