"""What the driver and a lane's worker say to each other, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from suite.commits import attempt_folder
from suite.experiment import Budget
from suite.measurement.certificate import Levels
from suite.measurement.moments import Moments
from suite.trials import Task


@dataclass(frozen=True, kw_only=True)
class Order:
    """All a worker needs to know for one attempt at one lane."""

    root: Path | str
    epoch: int
    lane: str
    attempt: int
    tasks: list[Task]
    slots: int
    threads: int
    device: str
    budget: Budget
    stop_below: float
    stop_share: float = math.inf
    levels: Levels
    measure: dict[str, Moments]
    keep_states: bool
    accepted: list[str] = field(default_factory=list)
    predecessor: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Versions that the driver knows: columns of the trial table."""
    expected: dict[str, str] = field(default_factory=dict)
    """Versions that the worker's node must have."""
    mark: str = ""
    """An object that the driver wrote, and that the worker's node must see."""

    @property
    def folder(self) -> str:
        """Where this attempt writes."""
        return attempt_folder(self.epoch, self.lane, self.attempt)


@dataclass(frozen=True)
class Begun:
    """A worker took an attempt up; a hint, which may be lost."""

    lane: str
    attempt: int
    node: str
    """Ray's id of its node."""
    log_path: str | None
    """HOST:FILE that has what the worker prints."""


@dataclass(frozen=True)
class Progress:
    """What a worker tells the driver while it runs; a hint, which may be lost. `work` is in steps times FLOPs."""

    lane: str
    attempt: int
    steps_done: int
    running: dict[str, int]
    commits: list[str]
    unreadable: list[str] = field(default_factory=list)
    """Checkpoints that cannot be read: their trials go on from an earlier one, or begin anew."""
    core_seconds: float = 0.0
    """What the attempt took of its process, once it has ended."""
    host: str = ""
    load: dict[str, float] = field(default_factory=dict)
    """Of the worker's node, by metric."""
