"""Pictures to try a CRF on, and pydensecrf's marginals of small ones: `python tests/ops/crf_references.py`.

This writes references/crf.npz. It holds for each NAME the arrays NAME.image (uint8 H x W x 3), NAME.unary (uint8
3 x H x W; divided by their sum they are the probabilities) and NAME.irn, NAME.psa (float32 2 x H x W, the marginals of
the first two labels after 10 iterations).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from wsss.ops.crf import DenseCrf, installed_backends

FILE = Path(__file__).parents[1] / "references" / "crf.npz"
KERNELS = {
    "irn": {"bilateral_sxy": 50, "bilateral_srgb": 5},
    "psa": {"bilateral_sxy": 80, "bilateral_srgb": 13},
}
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name: str, height: int, width: int) -> np.ndarray:
    """One of scikit-image's photographs, resized: uint8 H x W x 3."""
    whole = Image.fromarray(getattr(data, name)())
    return np.array(whole.resize((width, height), Image.Resampling.BICUBIC))


def scene(height: int, width: int, rng: int = 0) -> np.ndarray:
    """Discs of colour over a gradient, with a little noise: uint8 H x W x 3."""
    draw = np.random.default_rng(rng)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 100 / height, columns * 100 / width, 60 + 0 * rows], axis=-1)
    for _ in range(4):
        centre, radius = draw.random(2) * (height, width), (0.1 + 0.2 * draw.random()) * max(height, width)
        image[np.hypot(rows - centre[0], columns - centre[1]) < radius] = draw.random(3) * 255
    return np.clip(image + draw.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def pictures(scale: int) -> dict[str, np.ndarray]:
    """Images of the kinds that go wrong: grey, flat, odd-sized, tiny, noise; most are 12 x 16 px times the scale."""
    height, width = 12 * scale, 16 * scale
    left = np.arange(width)[None, :, None] < width // 2
    return {
        "photograph": photograph("astronaut", height, width),
        "scene": scene(height, width),
        "odd": scene(height - 3, width - 1),
        "grey": np.repeat(scene(height, width)[..., :1], 3, axis=2),
        "constant": np.full((height - 1, width, 3), 128, np.uint8),
        "black": np.zeros((height, width - 1, 3), np.uint8),
        "half": np.where(left, 0, 255).repeat(height, 0).repeat(3, 2).astype(np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width + 1, 3), dtype=np.uint8),
        "tiny": scene(5, 7),
        "row": scene(1, 4 * width),
        "column": scene(4 * width, 1),
        "pixel": scene(1, 1),
    }


def beliefs(image: np.ndarray, labels: int, rng: int = 0) -> np.ndarray:
    """Smooth probabilities that lean on the colours: float32 K x H x W."""
    draw = np.random.default_rng(rng)
    coarse = torch.from_numpy(draw.normal(size=(1, labels, 4, 5)))
    smooth = torch.nn.functional.interpolate(coarse, image.shape[:2], mode="bicubic")[0].numpy()
    scores = 1.5 * smooth + np.einsum("kc,hwc->khw", draw.normal(size=(labels, 3)), image / 255 - 0.5)
    return torch.from_numpy(scores).softmax(0).numpy().astype(np.float32)


def probabilities(unary: np.ndarray) -> np.ndarray:
    """Unaries of the file, scaled to sum to one: float32 K x H x W."""
    return (unary / unary.sum(0, dtype=np.float64)).astype(np.float32)


def references() -> dict[str, np.ndarray]:
    """The arrays of the file."""
    arrays = {}
    for name, image in pictures(1).items():
        unary = np.maximum(np.rint(255 * beliefs(image, 3)), 1).astype(np.uint8)
        arrays |= {f"{name}.image": image, f"{name}.unary": unary}
        for kernels, deviations in KERNELS.items():
            crf = DenseCrf(image, **deviations, backend="pydensecrf")
            arrays[f"{name}.{kernels}"] = crf(probabilities(unary))[:2]
    return arrays


if __name__ == "__main__":
    if "pydensecrf" not in installed_backends():
        sys.exit("the references are pydensecrf's; install it: pip install pydensecrf2==1.1")
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **references())
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
