"""Random scaling, cropping, mirroring and colour jitter of training images, and ImageNet normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss.classes import IGNORE

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(image: np.ndarray | Tensor) -> Tensor:
    """A uint8 H x W x 3 RGB image as float32 3 x H x W, ImageNet-normalised; or B of one size, on any device."""
    tensor = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    tensor = tensor.movedim(-1, -3).to(torch.float32).div_(255)
    return tensor.sub_(tensor.new_tensor(MEAN).view(3, 1, 1)).div_(tensor.new_tensor(STD).view(3, 1, 1))


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes:
        crop: side of the square crop, in px; smaller images are padded (mean colour, label 255).
        scale: the image is resized by a factor drawn from this range.
        jitter: brightness, contrast and saturation change by up to this share, hue by a third of it.
    """

    crop: int
    scale: tuple[float, float]
    jitter: float = 0.0

    def __call__(
        self, image: np.ndarray, labels: np.ndarray | None, draw: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Vary one image, and its label map with it.

        Args:
            image: uint8 H x W x 3.
            labels: uint8 H x W, or None.
            draw: the random numbers.

        Returns:
            float32 3 x crop x crop, normalised; int64 crop x crop, or None.
        """
        factor = draw.uniform(*self.scale)
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        flip = draw.random() < 0.5
        top, left = (_offset(side, self.crop, draw) for side in (height, width))

        picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        rows, columns = (slice(max(start, 0), start + self.crop) for start in (top, left))
        window = (..., rows, columns)
        cut = _jitter(tensor, window, self.jitter, draw) if self.jitter else tensor[window]
        pixels = _crop(normalise(cut.permute(1, 2, 0)), self.crop, min(top, 0), min(left, 0), 0.0)
        if labels is None:
            return (pixels.flip(2) if flip else pixels).contiguous(), None
        resized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        target = _crop(torch.from_numpy(np.array(resized)).long()[None], self.crop, top, left, IGNORE)[0]
        if flip:
            pixels, target = pixels.flip(2), target.flip(1)
        return pixels.contiguous(), target.contiguous()


def _offset(side: int, crop: int, draw: np.random.Generator) -> int:
    """Where the crop starts; negative where a smaller image is padded."""
    slack = side - crop
    return int(draw.integers(min(slack, 0), max(slack, 0) + 1))


def _crop(tensor: Tensor, crop: int, top: int, left: int, fill: float) -> Tensor:
    """Cut (or pad) channels x H x W to channels x crop x crop, the window's corner at (top, left)."""
    height, width = tensor.shape[1:]
    out = tensor.new_full((tensor.shape[0], crop, crop), fill)
    source = tensor[:, max(top, 0) : min(top + crop, height), max(left, 0) : min(left + crop, width)]
    y, x = max(-top, 0), max(-left, 0)
    out[:, y : y + source.shape[1], x : x + source.shape[2]] = source
    return out


def _jitter(
    image: Tensor, window: tuple[EllipsisType | slice, ...], amount: float, draw: np.random.Generator
) -> Tensor:
    """The window of a jittered image; only the contrast looks at all of it, at its mean."""
    brightness, contrast, saturation = draw.uniform(1 - amount, 1 + amount, 3)
    from torchvision.transforms.v2 import functional as tvf  # takes seconds to import, and not every step trains

    image = tvf.adjust_brightness(image, brightness)
    image = tvf.adjust_contrast(image, contrast)[window]
    image = tvf.adjust_saturation(image, saturation)
    return tvf.adjust_hue(image, draw.uniform(-amount / 3, amount / 3))
