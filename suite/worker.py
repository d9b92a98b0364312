"""One attempt at one lane: train its trials, and commit what is new from time to time. Knows nothing of Ray."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import torch

from suite.commits import Address, Commit, decode, decode_state, encode
from suite.failures import StorageError
from suite.load import Load
from suite.machine import machine
from suite.orders import Order, Progress
from suite.storage import DamagedError, storage_at
from suite.tables import OUTCOMES, PASSAGES, RECORDS, Row, table
from suite.training.arithmetic import num_parameters
from suite.training.loop import Job, Loop, Outcome
from suite.trials import Task

COMMIT_SECONDS = 20.0
"""Least time between two commits; also at least 20 times what the last one took."""
HELD_BYTES = 64 * 2**20
"""Weights of ended trials that a lane keeps in memory, at most, before it commits them."""
PROGRESS_SECONDS = 0.5
STORAGE_SECONDS, STORAGE_SECONDS_WHEN_STOPPING = 60.0, 2.0
"""How long a write that fails is tried again, as where a disk is full or a file server is away."""


class Attempt:
    """Runs one order. `stopping` is asked between chunks; once true, what is there is committed and the run ends."""

    def __init__(self, order: Order, *, report: Callable[[Progress], None], stopping: Callable[[], bool]) -> None:
        torch.set_num_threads(order.threads)
        _claim_buffers()
        self._order, self._report, self._stopping = order, report, stopping
        self._folder = storage_at(order.root)
        self._unreadable: list[str] = []
        self._load = Load(order.device)
        self._num_parameters = num_parameters(order.tasks[0].settings)  # of one shape, they have the same
        self._loop = Loop(
            [self._job(task) for task in order.tasks],
            slots=order.slots,
            budget=order.budget,
            stop_below=order.stop_below,
            stop_share=order.stop_share,
            levels=order.levels,
            measure=order.measure,
            device=order.device,
        )
        self._commits: list[str] = []
        self._next_commit = time.monotonic() + COMMIT_SECONDS
        self._next_progress = 0.0

    def run(self) -> Progress:
        """Train to the end or until told to stop; returns how far it came, with the names of the commits written."""
        while not self._loop.done and not self._stopping():
            self._loop.run_chunk()
            now = time.monotonic()
            if now >= self._next_commit or self._held_bytes > HELD_BYTES:
                self._commit()
                took = time.monotonic() - now
                self._next_commit = time.monotonic() + max(COMMIT_SECONDS, 20 * took)
            if now >= self._next_progress:
                self._report(self._progress())
                self._next_progress = now + PROGRESS_SECONDS
        self._commit(stopping=not self._loop.done)
        return self._progress()

    @property
    def _held_bytes(self) -> int:
        """About: weights are nearly all of a state."""
        return 4 * self._num_parameters * len(self._loop.outcomes)

    def _job(self, task: Task) -> Job:
        """From its checkpoint; from an earlier one if that is damaged, or else from its start."""
        fresh = Job(trial_id=task.trial_id, settings=task.settings)
        if task.checkpoint is None:
            return fresh
        try:
            state = decode_state(self._folder, task.checkpoint, task.trial_id)
        except DamagedError:
            self._unreadable.append(task.checkpoint)
            return self._earlier_job(fresh, task, task.checkpoint)
        return replace(fresh, state=state, seconds=task.seconds)

    def _earlier_job(self, fresh: Job, task: Task, damaged: str) -> Job:
        """From the last state before the damaged one. Steps in between are recorded again, with the same numbers."""
        for name in self._before(damaged):
            try:
                state = decode_state(self._folder, name, task.trial_id)
                seconds = decode(self._folder, name).seconds(task.trial_id)
            except DamagedError:
                continue
            if int(state["step"]) <= task.step:  # beyond it, records may be missing: a node cut off wrote that state
                return replace(fresh, state=state, seconds=seconds)
        return fresh

    def _before(self, commit: str) -> list[str]:
        """Names of the commits that are older than this one, the newest first."""
        found = {name: Address.parse(name).order for name in self._folder.names("lanes") if name.endswith(".zip")}
        older = [name for name, order in found.items() if order < Address.parse(commit).order]
        return sorted(older, key=lambda name: found[name], reverse=True)

    def _progress(self) -> Progress:
        loop, order = self._loop, self._order
        running, commits = loop.running_steps(), list(self._commits)
        return Progress(
            order.lane,
            order.attempt,
            loop.steps_done,
            running,
            commits,
            self._unreadable,
            host=socket.gethostname(),
            load=self._load.now(),
        )

    def _commit(self, *, stopping: bool = False) -> None:
        """All rows since the last commit, and every state needed to go on, as one object."""
        loop, order = self._loop, self._order
        outcomes, records = loop.take(stopping=stopping)
        states = loop.states()
        if not (outcomes or records or states):
            return
        kept = {trial_id: state for trial_id, (state, _) in states.items()}
        goes_on = [o for o in outcomes if order.keep_states or o.row["status"] == "timeout"]
        kept |= {o.trial_id: o.state for o in goes_on if o.state is not None}
        commit = Commit(
            records=table(records, RECORDS),
            outcomes=table((self._outcome_row(outcome) for outcome in outcomes), OUTCOMES),
            passages=table((row for outcome in outcomes for row in outcome.passages), PASSAGES),
            running={trial_id: (int(state["step"]), seconds) for trial_id, (state, seconds) in states.items()},
            accepted=order.accepted,
            predecessor=order.predecessor,
        )
        number = len(self._commits)
        name = Address(epoch=order.epoch, lane=order.lane, attempt=order.attempt, number=number).name
        self._write(name, encode(commit, kept))
        self._commits.append(name)

    def _write(self, name: str, content: bytes) -> None:
        """Write, and try again for a while if that fails: training waits meanwhile.

        Raises:
            StorageError: it keeps failing.
        """
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                return self._folder.write(name, content)
            except OSError as error:
                most = STORAGE_SECONDS_WHEN_STOPPING if self._stopping() else STORAGE_SECONDS
                if time.monotonic() - began + pause > most:
                    raise StorageError(f"{self._folder.where(name)} cannot be written: {error}") from None
            time.sleep(pause)
            pause = min(2 * pause, 8.0)

    def _outcome_row(self, outcome: Outcome) -> Row:
        order, row = self._order, dict(outcome.row)
        derived = {
            "num_parameters": self._num_parameters,
            "started_at": _utc(row.pop("started_ms", None)),
            "ended_at": _utc(row.pop("ended_ms", None)),
        }
        ran = {"slots": order.slots, "epoch": order.epoch, "attempt": order.attempt, "lane": order.lane}
        return {"trial_id": outcome.trial_id, **row, **derived, **ran, **order.versions, **machine(order.device)}


@lru_cache(maxsize=1)
def _claim_buffers() -> None:
    """Have NumPy's BLAS take its buffer while there is memory: where there is none it ends the process, and a lane that
    asks for too much shall raise an error instead."""
    square = np.ones((256, 256))
    square @ square


def _utc(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
