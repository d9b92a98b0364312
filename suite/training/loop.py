"""Training a queue of trials in one lane: slots are refilled as trials end, records and outcomes come out."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from suite.experiment import Budget, TrialSettings
from suite.measurement.catalog import Measure
from suite.measurement.certificate import Levels
from suite.measurement.registry import Measurement
from suite.measurement.stationarity import NEVER
from suite.training.lane import LONGEST_CHUNK, Lane, State
from suite.training.recorder import Place, Recorder
from suite.training.records import is_record_step, next_record_step

Row = dict[str, Any]
CHUNK_SECONDS = 1.0
"""A chunk is made to take no longer, so that a lane that is told to stop hears of it."""
_PEAK = "lambda_max_met"
"""What a trial's state calls the largest curvature met so far."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial to train, from its start or from a state."""

    trial_id: str
    settings: TrialSettings
    state: State | None = None
    seconds: float = 0.0
    """Wall seconds it has already taken."""


@dataclass(frozen=True)
class Outcome:
    """A trial that ended: its part of the trial table, its passages, and the state it can be continued from."""

    trial_id: str
    row: Row
    passages: list[Row]
    state: State | None


@dataclass
class Running:
    """What the host knows of the trial in a slot. `step` is the last one evaluated."""

    job: Job
    eta: float
    step: int
    last_step: int
    seconds: float
    started_ms: int

    def time(self, step: int) -> float:
        """Time of gradient flow at a step: the sum of the rates before it."""
        return self.eta * self.job.settings.optimizer.schedule.elapsed(step)

    @property
    def resumed_step(self) -> int:
        """The step at which its state was taken, already recorded; -1 for a fresh trial."""
        return -1 if self.job.state is None else int(self.job.state["step"])


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Loop:
    """Runs jobs of equal shape to their end. After each `run_chunk`, take what is in `records` and `outcomes`."""

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        slots: int,
        budget: Budget,
        stop_below: float,
        stop_share: float = math.inf,
        levels: Levels = Levels(),  # noqa: B008
        measure: Measure | None = None,
        device: str = "cpu",
    ) -> None:
        self._waiting = deque(jobs)
        example = self._waiting[0].settings
        self._per_decade, self._epsilons = example.records_per_decade, example.epsilons
        self._budget, self._stop_below, self._levels = budget, stop_below, levels
        stops = {"stop_below": stop_below, "stop_share": stop_share}
        self.lane = Lane(example, slots=slots, budget=budget, device=torch.device(device), **stops)
        self.recorder = Recorder(self.lane, measure or {}, levels)
        self._running: dict[int, Running] = {}
        self._unmeasured: dict[str, tuple[Outcome, float]] = {}
        self.records: list[Row] = []
        self.outcomes: list[Outcome] = []
        self.steps_done = 0
        self._seconds_per_step = math.inf  # of the last chunk, all slots together
        for slot in range(slots):
            self._refill(slot)

    @property
    def done(self) -> bool:
        """No trial is running or waiting."""
        return not self._running

    def states(self) -> dict[str, tuple[State, float]]:
        """Where each running trial is, with its wall seconds so far, so that it can go on elsewhere."""
        running = {r.job.trial_id: (self._state(slot, r), r.seconds) for slot, r in self._running.items()}
        unmeasured = ((self._with_peak(outcome), seconds) for outcome, seconds in self._unmeasured.values())
        ended = {o.trial_id: (o.state, seconds) for o, seconds in unmeasured if o.state is not None}
        return ended | running

    def _state(self, slot: int, running: Running) -> State:
        return {**self.lane.state(slot), _PEAK: self._peak(running.job.trial_id)}

    def _peak(self, trial_id: str) -> np.ndarray:
        return np.asarray(self.recorder.peaks.get(trial_id, math.nan))

    def _with_peak(self, outcome: Outcome) -> Outcome:
        """With the largest curvature as known now: points from before its end may have waited until after it."""
        if outcome.state is None:
            return outcome
        return replace(outcome, state={**outcome.state, _PEAK: self._peak(outcome.trial_id)})

    def running_steps(self) -> dict[str, int]:
        """The step each running trial is at."""
        return {running.job.trial_id: max(running.step, 0) for running in self._running.values()}

    def take(self, *, stopping: bool = False) -> tuple[list[Outcome], list[Row]]:
        """Outcomes and records since the last call, with all that was waiting to be measured.

        When `stopping`, trials that have ended but wait for what is measured at the end stay running: their state is
        that of their last step, and going on from there measures it.
        """
        if stopping:
            self.recorder.send_back()
        self._measure_waiting(keep=stopping)
        taken = self.outcomes, self.records
        self.outcomes, self.records = [], []
        return taken

    def _measure_waiting(self, *, keep: bool = False) -> None:
        for place in self.recorder.measure_waiting():
            if place.trial is not None and not keep:
                self._end(self._unmeasured.pop(place.trial_id)[0])

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(self._with_peak(outcome))
        self.recorder.peaks.pop(outcome.trial_id, None)

    def run_chunk(self) -> None:
        """Train up to the next record of any slot, or for CHUNK_SECONDS; note what is due, and refill the slots whose
        trial ended or ran out of time."""
        began = time.perf_counter()
        within = max(1, int(min(LONGEST_CHUNK, CHUNK_SECONDS / self._seconds_per_step)))
        length = min(within, *(self._steps_to_record(r) for r in self._running.values()))
        self.lane.advance(length)
        active, steps = self.lane.active.tolist(), self.lane.step.tolist()
        took = time.perf_counter() - began
        self._seconds_per_step = max(took, 1e-9) / length
        for slot, running in self._running.items():
            self.steps_done += steps[slot] - max(running.step, 0)
            running.step, running.seconds = steps[slot], running.seconds + took / len(self._running)
        ended = [slot for slot in self._running if not active[slot]]
        self._record(ended)
        late = [slot for slot, running in self._running.items() if active[slot] and self._is_late(running)]
        for slot in late:
            self._time_out(slot, self._running[slot])
        for slot in [*ended, *late]:
            self._refill(slot)

    def _is_late(self, running: Running) -> bool:
        minutes = self._budget.minutes
        return minutes is not None and running.seconds >= 60 * minutes

    def _time_out(self, slot: int, running: Running) -> None:
        """End a trial whose minutes are used up, with the state from which more of them continue it."""
        row = {
            "status": "timeout",
            "ended_by": "minutes",
            "error": f"budget.minutes: {self._budget.minutes:g} are used up at step {running.step} of "
            f"{running.last_step}; more minutes continue it",
            "steps": running.step,
            "learning_rate": running.eta,
            "wall_seconds": running.seconds,
            "started_ms": running.started_ms,
            "ended_ms": now_ms(),
        }
        outcome = Outcome(running.job.trial_id, row, [], self._state(slot, running))
        if not self.recorder.holds(outcome.trial_id):
            self._end(outcome)
            return
        self._unmeasured[outcome.trial_id] = outcome, running.seconds
        here = {"trial_id": outcome.trial_id, "step": running.step}
        self._wait(slot, Place(outcome.trial_id, running.job.settings, [], here, row))

    def _steps_to_record(self, running: Running) -> int:
        due = min(next_record_step(running.step, self._per_decade), running.last_step)
        return max(1, due - running.step)

    def _record(self, ended: list[int]) -> None:
        on_grid = [slot for slot, r in self._running.items() if is_record_step(r.step, self._per_decade)]
        if not ended and not on_grid:
            return
        slots = sorted({*ended, *on_grid})
        due = {slot: self._due(self._running[slot], final=slot in ended) for slot in slots}
        values = self.recorder.measure(due)
        for slot in slots:
            running, final = self._running[slot], slot in ended
            record = _record_row(running, values[slot], final=final)
            if not final and running.step == running.resumed_step:
                continue
            self.records.append(record)
            outcome = self._outcome(slot, running, record, due[slot]) if final else None
            later = [] if outcome is not None and outcome.state is None else [m for m in due[slot] if m.waits]
            if later or (outcome is not None and outcome.state and self.recorder.holds(outcome.trial_id)):
                if outcome is not None:
                    self._unmeasured[outcome.trial_id] = outcome, running.seconds
                trial = None if outcome is None else outcome.row
                self._wait(slot, Place(running.job.trial_id, running.job.settings, later, record, trial))
            elif outcome is not None:
                self._end(outcome)

    def _due(self, running: Running, *, final: bool) -> list[Measurement]:
        return self.recorder.due(running.step, self._per_decade, final=final)

    def _wait(self, slot: int, place: Place) -> None:
        self.recorder.wait(slot, place)
        if self.recorder.is_full:
            self._measure_waiting()

    def _refill(self, slot: int) -> None:
        """The next waiting trial into the slot; one that cannot start is an outcome with its error."""
        self._running.pop(slot, None)
        while self._waiting:
            job = self._waiting.popleft()
            if job.state is not None and not self.lane.accepts(job.state):
                job = replace(job, state=None)  # kept by a version that knew other things: train from the start
            try:
                eta, step, last = self.lane.fill(slot, job.settings, job.state)
            except ValueError as error:
                row = {"status": "failed", "ended_by": None, "error": str(error), "wall_seconds": job.seconds}
                self.outcomes.append(Outcome(job.trial_id, row, [], None))
                continue
            if job.state is not None and (peak := float(job.state.get(_PEAK, math.nan))) == peak:
                self.recorder.peaks[job.trial_id] = peak
            self._running[slot] = Running(job, eta, step - 1, last, job.seconds, now_ms())
            return
        self.lane.free(slot)

    def _outcome(self, slot: int, running: Running, record: Row, due: list[Measurement]) -> Outcome:
        state = self._state(slot, running)
        ended_by = self._ended_by(running, record)
        first_loss, first_scaled = float(state["first_loss"]), float(state["first_scaled"])
        passages = self._passages(running, state)
        known = {"trial_id", "step", "timestamp_ms", "final"}
        measured = {k: v for k, v in record.items() if k not in known and not isinstance(v, list)}
        row = {
            **measured,
            "status": "diverged" if ended_by == "diverged" else "finished",
            "ended_by": ended_by,
            "error": None,
            "steps": running.step,
            "learning_rate": running.eta,
            "loss_init": first_loss,
            "scaled_grad_norm_sq_init": first_scaled,
            "unstable": _unstable(passages),
            "measured": ",".join(sorted(m.name for m in due if m.can_be_left_out)),
            "certified_at": str(self._levels) if any(m.of_trial for m in due) else None,
            "wall_seconds": running.seconds,
            "started_ms": running.started_ms,
            "ended_ms": record["timestamp_ms"],
        }
        return Outcome(running.job.trial_id, row, passages, None if ended_by == "diverged" else state)

    def _ended_by(self, running: Running, record: Row) -> str:
        if not (_finite(record["loss"]) and _finite(record["scaled_grad_norm_sq"])):
            return "diverged"
        if running.step < running.last_step:
            return "stop_below"
        return "steps" if running.step >= self._budget.steps else "time"

    def _passages(self, running: Running, state: State) -> list[Row]:
        rows = []
        for relative, suffix in ((False, ""), (True, "_relative")):
            for index, epsilon in enumerate(self._epsilons):
                first = int(state[f"first_below{suffix}"][index])
                last = int(state[f"last_above{suffix}"][index])
                reached = first != NEVER
                watched = reached and (relative or epsilon >= 10 * self._stop_below)
                rows.append(
                    {
                        "trial_id": running.job.trial_id,
                        "epsilon": epsilon,
                        "relative": relative,
                        "at_init": first == 0,
                        "reached": reached,
                        "steps_to_stationarity": first if reached else None,
                        "time_to_stationarity": running.time(first) if reached else None,
                        "stay_steps": last + 1 if watched else None,
                        "unstable": last + 1 > 2 * first if watched else None,
                    }
                )
        return rows


def _finite(value: float) -> bool:
    return value - value == 0


def _unstable(passages: list[Row]) -> bool | None:
    """Whether G rose again long after the lowest threshold it reached; None where that cannot be told of any."""
    told = [p["unstable"] for p in passages if not p["relative"] and not p["at_init"] and p["unstable"] is not None]
    return told[-1] if told else None


def _record_row(running: Running, values: Row, *, final: bool) -> Row:
    return {
        "trial_id": running.job.trial_id,
        "step": running.step,
        "time": running.time(running.step),
        "timestamp_ms": now_ms(),
        **values,
        "final": final,
    }
