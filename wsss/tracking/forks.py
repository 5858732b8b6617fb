"""Forks beside threads.

A fork copies every lock as it is, and only the thread that forks: a lock that another thread holds stays closed in the
child for ever. The processes that load images on a GPU are forked in the middle of a run, with what can't be sent to a
process that starts anew. So a thread of tracking is inside a library only while it holds a lock of this module, and a
fork waits for these.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import threading


def fork_lock() -> threading.RLock:
    """A lock that the process takes before it forks, and opens afterwards in both processes; for a module, for good.

    What is done before a fork runs last come, first served. `logging` and `concurrent.futures` close locks of their own
    there, which whoever holds ours may be waiting for: they are imported first, so that their turn comes after ours.
    """
    lock = threading.RLock()
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
