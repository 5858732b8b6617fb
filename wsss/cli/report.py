"""`wsss report`: a comparison of runs as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUNS", help="Ids of 1 to 8 runs, apart by spaces or commas.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    split: Annotated[str, typer.Option(help="The split to compare on; by default the most telling there is.")] = "",
    what: Annotated[str, typer.Option(help="What is scored, such as pred_crf; by default the last there is.")] = "",
    base: Annotated[str, typer.Option(help="The run that the others are compared with; by default the first.")] = "",
    images: Annotated[int, typer.Option(min=0, max=200, help="How many images to look at, the worst ones.")] = 12,
) -> None:
    """Write a comparison of runs, with the mask viewer, into one file that opens without a network."""
    from wsss.dashboard.compare.report import report as compared
    from wsss.dashboard.reading import Reading
    from wsss.storage import write_bytes

    ids = [run for each in runs for run in each.split(",") if run]
    page = compared(Reading(), ids, split=split, what=what, base=base, images=images).encode()
    write_bytes(out, page)
    print(f"{out}: {len(page) / 1e6:.1f} MB; open it with a browser, it needs nothing else")
