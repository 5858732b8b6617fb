"""Work that takes longer than a page waits: begun once, done beside the pages, and there for whoever looks again."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wsss.errors import UserError, masked, one_line
from wsss.failures import sentence
from wsss.stream import use_own_cores

_MOST = 64


@dataclass
class Job:
    """A piece of work.

    Attributes:
        what: is done, as people read it.
        told: what whoever began it wants to know of it later.
        began: when.
        ended: when; None while it works.
        result: what came of it; None while it works, and where it failed.
        problem: why it failed, in a sentence; empty where it did not.
    """

    what: str
    told: Any
    began: datetime
    ended: datetime | None = None
    result: Any = None
    problem: str = ""

    @property
    def working(self) -> bool:
        """Whether it is not done yet."""
        return self.ended is None


class Jobs:
    """The work of one application: at most one piece at a time for each key, the last of each is remembered.

    It goes on when the browser that asked for it goes away, and ends with the server.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, key: str, what: str, work: Callable[[], Any], told: Any = None) -> Job:
        """Begin a piece of work.

        Args:
            key: what may be done but once at a time.
            what: is done, as people read it.
            work: does it.
            told: kept with it.

        Raises:
            UserError: one of the same key is being done.
        """
        with self._lock:
            known = self._jobs.get(key)
            if known and known.working:
                raise UserError(f"{known.what} since {known.began:%H:%M:%S} UTC; wait until that has ended")
            job = Job(what, told, datetime.now(UTC))
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            for old in [key for key, each in self._jobs.items() if not each.working][:-_MOST]:
                del self._jobs[old]
        threading.Thread(target=_do, args=(job, work), name=what, daemon=True).start()
        return job

    def of(self, key: str) -> Job | None:
        """The work of a key that is being done, or was done last."""
        with self._lock:
            return self._jobs.get(key)


def _do(job: Job, work: Callable[[], Any]) -> None:
    try:
        use_own_cores()
        job.result = work()
    except Exception as error:
        job.problem = sentence(error) or _unforeseen(error)
    finally:
        job.ended = datetime.now(UTC)


def _unforeseen(error: Exception) -> str:
    print(masked("".join(traceback.format_exception(error))), file=sys.stderr, flush=True)
    said = one_line(error)
    return f"nobody foresaw this error, {type(error).__name__}: {said}; the dashboard's terminal says where"
