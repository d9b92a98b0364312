"""What a run tells the person at the terminal; silent where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from suite.redaction import redacted


class Observer:
    """Hears from a run, and by default says nothing."""

    def notice(self, words: str) -> None:
        """Something the user should know, in a sentence."""

    @contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """A part of the run that may take more than two seconds."""
        yield

    def training(self, *, done: int, total: int, failed: int, share: float, steps_per_second: float) -> None:
        """Trials done of total, failures, the share of all work done, and trial-steps per second of late."""

    def trained(self) -> None:
        """Training is over."""


class TerminalObserver(Observer):
    """Shows stages and a progress bar with the time left; on something that is not a terminal, notices only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._began = 0.0

    def notice(self, words: str) -> None:
        """Print the sentence, in one line however long: a path in it can be copied."""
        self._console.print(redacted(words), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """A spinner while it lasts."""
        if self._console.is_terminal:
            with self._console.status(words):
                yield
        else:
            yield

    def training(self, *, done: int, total: int, failed: int, share: float, steps_per_second: float) -> None:
        """One line that is renewed."""
        if not self._console.is_terminal:
            return
        if self._bar is None:
            self._began = time.monotonic()
            columns = (TextColumn("training"), BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.description}"))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        elapsed = time.monotonic() - self._began
        left = f"{duration(elapsed * (1 - share) / share)} left" if share > 0.005 else "…"
        failures = f", {failed} failed" if failed else ""
        words = f"{done}/{total} trials{failures}, {steps_per_second:,.0f} steps/s, {left}"
        self._bar.update(self._bar.task_ids[0], completed=share, description=words)

    def trained(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """A duration for people: 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
