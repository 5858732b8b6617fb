"""Random scaling, cropping, mirroring and colour jitter of training images, and ImageNet normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss.classes import IGNORE
from wsss.ops.tiles import is_large

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

    Of a large image (`wsss.ops.tiles`) the crop alone is resized and jittered: its contrast is that of the crop.

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

        rows, columns = (slice(max(start, 0), start + self.crop) for start in (top, left))
        window: tuple[EllipsisType | slice, ...] = (..., rows, columns)
        if is_large(*image.shape[:2]):
            cut = torch.from_numpy(_part(image, (height, width), rows, columns, Image.Resampling.BILINEAR))
            tensor, window = cut.permute(2, 0, 1), (...,)
        else:
            picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        cut = _jitter(tensor, window, self.jitter, draw) if self.jitter else tensor[window]
        pixels = _crop(normalise(cut.permute(1, 2, 0)), self.crop, min(top, 0), min(left, 0), 0.0)
        if labels is None:
            return (pixels.flip(2) if flip else pixels).contiguous(), None
        resized = _part(labels, (height, width), rows, columns, Image.Resampling.NEAREST)
        target = torch.from_numpy(resized).long()[None]
        target = _crop(target, self.crop, min(top, 0), min(left, 0), IGNORE)[0]
        if flip:
            pixels, target = pixels.flip(2), target.flip(1)
        return pixels.contiguous(), target.contiguous()


def _offset(side: int, crop: int, draw: np.random.Generator) -> int:
    """Where the crop starts; negative where a smaller image is padded."""
    slack = side - crop
    return int(draw.integers(min(slack, 0), max(slack, 0) + 1))


def _part(image: np.ndarray, size: tuple[int, int], rows: slice, columns: slice, how: Image.Resampling) -> np.ndarray:
    """The rows and columns of an image, or of its labels, resized to a size; of a large one no more is resized."""
    if not is_large(*image.shape[:2]):
        return np.array(Image.fromarray(image).resize(size[::-1], how))[rows, columns]
    seen, box = [], []
    spans = [slice(span.start, min(span.stop, side)) for span, side in zip((rows, columns), size, strict=True)]
    for span, side, length in zip(spans, size, image.shape[:2], strict=True):
        step = length / side
        begin, end = span.start * step, span.stop * step
        first, last = max(int(begin - step) - 1, 0), min(int(end + step) + 2, length)
        seen.append(slice(first, last))
        box.append((begin - first, min(end, length) - first))
    (top, bottom), (left, right) = box
    wanted = (spans[1].stop - spans[1].start, spans[0].stop - spans[0].start)
    return np.array(Image.fromarray(image[tuple(seen)]).resize(wanted, how, box=(left, top, right, bottom)))


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
    """The window of a jittered image; only the contrast looks at all that is given of it, at its mean."""
    brightness, contrast, saturation = draw.uniform(1 - amount, 1 + amount, 3)
    from torchvision.transforms.v2 import functional as tvf  # takes seconds to import, and not every step trains

    image = tvf.adjust_brightness(image, brightness)
    image = tvf.adjust_contrast(image, contrast)[window]
    image = tvf.adjust_saturation(image, saturation)
    return tvf.adjust_hue(image, draw.uniform(-amount / 3, amount / 3))
