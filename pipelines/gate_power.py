"""How often the gate promotes, by simulation: equal models, and models that are better by some points.

    python -m pipelines.gate_power                       with two evaluations on 245 photographs of VOC's val, kept here
    python -m pipelines.gate_power ONE.npz OTHER.npz     with others: two records of evaluations of the same images

Two evaluations of the same images, a better one and a worse one, are the material. In each trial images are drawn with
replacement. Of each, candidate and champion take one matrix each, which one is drawn: with even chances they are equal
models, whose mean IoUs over all images are the same whatever the trial shows; with others the candidate is better by
what is asked for.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.errors import UserError
from wsss.failures import ended
from wsss.progress import say
from wsss.registry.rules import GateSettings
from wsss.registry.verdict import is_better
from wsss.scores import Scores
from wsss.scores.bootstrap import Difference, difference
from wsss.scores.evaluation import load
from wsss.storage import write_bytes
from wsss.tables.render import as_markdown

MATERIAL = [Path("benchmarks/measured", f"gate-{which}.npz") for which in ("better", "worse")]
"""Of two runs of preset small on 245 photographs of VOC's val: the bound, and deep clustering."""
POINTS = (0.0, 1.0, 2.0, 3.0, 5.0)
IMAGES = (100, 245, 500, 1000, 2000)
PAGE = Path("docs/registry.md")
FIGURE = Path("docs/gate-power.svg")
_MARKS = re.compile(r"(<!-- gate power -->\n).*?(<!-- end of gate power -->)", re.DOTALL)


@dataclass(frozen=True)
class Pair:
    """Two evaluations of the same images.

    Attributes:
        better, worse: integer N x (C + 1) x (C + 1).
    """

    better: np.ndarray
    worse: np.ndarray

    @property
    def difference(self) -> float:
        """That of the mean IoUs over all images, in points."""
        return 100 * (_miou(self.better) - _miou(self.worse))

    def share(self, points: float) -> float:
        """How likely the candidate takes the better of an image's matrices, to be better by so many points; from 0.5.

        Raises:
            UserError: the evaluations differ by less.
        """
        if points > self.difference:
            raise UserError(
                f"the evaluations differ by {self.difference:.1f} points, so that none can be made that is {points:g} "
                "better; take others"
            )
        low, high = 0.5, 1.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            candidate, champion = (q * self.better + (1 - q) * self.worse for q in (middle, 1 - middle))
            low, high = (middle, high) if 100 * (_miou(candidate) - _miou(champion)) < points else (low, middle)
        return low


def read_pair(paths: Sequence[Path]) -> Pair:
    """Two records of evaluations of the same images.

    Raises:
        UserError: one can't be read, or they are of different images or classes.
    """
    one, other = map(load, paths)
    if (one.ids, one.classes) != (other.ids, other.classes):
        raise UserError(f"{paths[0]} and {paths[1]} are not of the same images and classes")
    pair = Pair(one.matrices, other.matrices)
    return pair if pair.difference > 0 else Pair(other.matrices, one.matrices)


def simulate(
    pair: Pair, points: float, images: int, trials: int, settings: GateSettings, rng: int = 0
) -> list[Difference]:
    """What the gate finds in each trial.

    Args:
        pair: the material.
        points: how much better the candidate is, over all images; 0 for equal models.
        images: of each trial.
        trials: how many.
        settings: of the gate.
        rng: seed.
    """
    draw = np.random.default_rng([rng, images, round(100 * points)])
    share, results = pair.share(points), []
    for trial in range(trials):
        chosen = draw.integers(len(pair.better), size=images)
        better, worse = pair.better[chosen], pair.worse[chosen]
        takes = (draw.random(images) < share)[:, None, None]
        first, second = np.where(takes, better, worse), np.where(takes, worse, better)
        results.append(difference(first, second, samples=settings.samples, confidence=settings.confidence, rng=trial))
    return results


def promoted_share(results: Sequence[Difference], settings: GateSettings) -> float:
    """The share of trials in which the gate finds the candidate better."""
    return sum(is_better(result, settings) for result in results) / len(results)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; with --write also put it into the page, and the figure beside it."""
    return ended("wsss", lambda: _simulate(arguments))


def _simulate(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.gate_power", description="How often the gate promotes.")
    parser.add_argument("evaluations", nargs="*", type=Path, help="two records of evaluations, .npz")
    parser.add_argument("--trials", type=int, default=200, help="for each number of images and points")
    parser.add_argument("--images", type=int, nargs="+", default=list(IMAGES))
    parser.add_argument("--samples", type=int, default=500, help="of the bootstrap in each trial")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE} and the figure into {FIGURE}")
    options = parser.parse_args(arguments)
    if len(options.evaluations) not in (0, 2) or options.trials < 1 or min(options.images) < 1:
        parser.error("give two evaluations or none, and whole numbers above 0")
    settings = GateSettings(samples=options.samples)
    pair = read_pair(options.evaluations or MATERIAL)
    shares, alone = {}, {}
    for images in options.images:
        for points in POINTS:
            results = simulate(pair, points, images, options.trials, settings)
            shares[images, points] = promoted_share(results, settings)
            if not points:
                alone[images] = sum(100 * result.low > settings.margin for result in results) / len(results)
            say(f"{images} images, {points:g} points: promoted in {shares[images, points]:.1%}")
    text = _text(pair, shares, alone, options.trials, settings)
    print(text)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        if not _MARKS.search(page):
            raise UserError(f"{PAGE} has no place for the table: the lines <!-- gate power --> and its end")
        write_bytes(PAGE, _MARKS.sub(lambda found: found[1] + "\n" + text + "\n" + found[2], page).encode())
        _draw(options.images, shares, FIGURE)


def _text(
    pair: Pair, shares: dict[tuple[int, float], float], alone: dict[int, float], trials: int, settings: GateSettings
) -> str:
    better = [f"better by {points:g}" for points in POINTS if points]
    head = ["images", "equal, by the bootstrap alone", "equal", *better]
    rows = [
        (str(n), f"{100 * share:.1f} %", *(f"{100 * shares[n, points]:.1f} %" for points in POINTS))
        for n, share in alone.items()
    ]
    return (
        f"{len(pair.better)} images, {pair.better.shape[1]} classes, mean IoUs {100 * _miou(pair.better):.1f} and "
        f"{100 * _miou(pair.worse):.1f}; {trials} trials for each figure, {settings.samples} draws, confidence "
        f"{settings.confidence:g}, margin {settings.margin:g}:\n\n{as_markdown(head, rows)}\n"
    )


def _draw(images: Sequence[int], shares: dict[tuple[int, float], float], path: Path) -> None:
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wsss"}):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for points in POINTS:
            label = f"better by {points:g}" if points else "equal"
            axes.plot(images, [100 * shares[n, points] for n in images], marker="o", label=label)
        axes.axhline(5, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="images in the evaluation set", ylabel="promoted, % of trials", ylim=(0, 101))
        axes.set_xticks(images, list(map(str, images)))
        axes.minorticks_off()
        axes.legend(title="points of mIoU")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    write_bytes(path, file.getvalue())


def _miou(matrices: np.ndarray) -> float:
    return Scores.of(np.asarray(matrices, np.float64).sum(0)).miou


if __name__ == "__main__":
    sys.exit(main())
