"""Progress on the console: one line that is written over on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

TERMINAL_S = 0.1
LOG_S = 10.0


class ConsoleReporter:
    """Shows how far a step is, how fast, and how long it still takes; a `wsss.interface.Reporter`.

    Attributes:
        name: what the line begins with, such as "refine.walk".
        stream: where to; the standard error by default.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name = name
        self.stream = stream or sys.stderr
        self._terminal = self.stream.isatty()
        self._started = self._shown = time.monotonic()
        self._first = self._last = 0
        self._width = 0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing: the console shows the note of `progress`."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Show the state, unless the last line is younger than a line's time; the end is always shown.

        The rate counts from the first call, so that work found done by a continued step does not raise it.
        """
        now = time.monotonic()
        if done < self._last:
            self._started, self._first = self._shown, 0
        elif self._last == 0 and done > 1:
            self._started, self._first = now, done
        self._last = done
        if done < total and now - self._shown < (TERMINAL_S if self._terminal else LOG_S):
            return
        self._shown = now
        elapsed = now - self._started
        line = tqdm.format_meter(
            done,
            total,
            elapsed,
            prefix=self.name,
            unit=f" {unit}",
            rate=(done - self._first) / elapsed if elapsed > 0 and done > self._first else None,
            postfix=note or None,
            bar_format="{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}",
        )
        self._write(line, last=done >= total)

    def _write(self, line: str, last: bool) -> None:
        if not self._terminal:
            self.stream.write(line + "\n")
        else:
            self.stream.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            self._width = 0 if last else len(line)
        self.stream.flush()


def say(sentence: str) -> None:
    """One sentence on the standard error, for what a person should know though nothing went wrong."""
    print(f"wsss: {sentence}", file=sys.stderr, flush=True)
