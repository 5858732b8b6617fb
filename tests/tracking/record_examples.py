"""Records of runs without a server, for tests that damage, bring in and pack them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tracking_examples import INFO

from wsss.errors import UserError
from wsss.registry.records import import_records
from wsss.tracking.record import RUN, RUNS
from wsss.tracking.runs import method_run
from wsss.tracking.unpacking import opened
from wsss.tracking.unsent import DATABASE


def record(out: Path, info=INFO, ends: type[BaseException] | None = None) -> Path:
    """The folder of a record: 3 epochs of a stage, an artifact, and an end."""
    try:
        with method_run(info, offline=out) as run:
            with run.stage("localize") as stage:
                for epoch in range(3):
                    stage.metrics({"train/loss": 1 / (epoch + 1)}, epoch)
            run.metrics({"val/pred/miou": 0.5})
            run.artifacts({"note.txt": b"a note"})
            if ends:
                raise ends("the end")
    except BaseException as error:
        if type(error) is not ends:
            raise
    return out / RUNS / run.id


def brought(out: Path) -> list[str]:
    """What importing says of each record: "new", "old" or what is wrong."""
    with opened([out]) as (folder, left_out):
        results = import_records(folder, left_out)
        return [str(r) if isinstance(r, UserError) else "new" if r.new else "old" for r in results]


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def die(folder: Path) -> None:
    """Leave a record as a killed process does."""
    edit(folder / RUN, status="RUNNING", writes=0)
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("""DELETE FROM writes WHERE write LIKE '%"kind": "status", "run": "%' AND number > 5""")
