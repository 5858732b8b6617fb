"""Score maps for tests of pictures in tiles."""

import numpy as np

from wsss.data.score_maps import ScoreMap


def score_map(height, width, classes=(1, 2, 4), cell=8):
    draw = np.random.default_rng(0)
    maps = draw.random((len(classes), height // cell + 1, width // cell + 1)).astype(np.float16)
    return ScoreMap(maps, np.array(classes, np.uint8), (height, width))
