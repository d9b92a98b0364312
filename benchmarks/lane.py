"""Lanes as a run plans them, trained in this process, and what their measurements took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.saved import CORES
from suite.calibration import measure
from suite.experiment import Experiment, TrialSettings
from suite.lanes import Lane, plan_lanes
from suite.run import shape_costs
from suite.training.lane import LONGEST_CHUNK
from suite.training.lane import Lane as Stack
from suite.training.loop import Job, Loop
from suite.training.records import record_steps
from suite.training.repeated import WARM_UP
from suite.trials import expand, missing


@dataclass(frozen=True)
class LaneTime:
    """Wall seconds of a lane: of its steps, and of what its records and ends take."""

    training: float
    measuring: dict[str, float]
    """By measurement; `records` is what the host does for rows and states."""

    @property
    def total(self) -> float:
        """Both together."""
        return self.training + sum(self.measuring.values())


def lanes_of(experiment: Experiment, *, workers: int = CORES) -> list[Lane]:
    """As a run on this machine, or on so many of its cores, would plan them."""
    trials = expand(experiment).trials
    tasks = missing(trials, {}, experiment)
    costs = shape_costs(
        tasks,
        trials,
        experiment,
        earlier={},
        calibrate=lambda requests: {key: measure(**request) for key, request in requests.items()},
        workers=workers,
    )
    return plan_lanes(tasks, costs, experiment=experiment, num_workers=workers)


def train_lane(
    settings: Sequence[TrialSettings],
    *,
    slots: int,
    experiment: Experiment,
    as_if: int | None = None,
    device: str = "cpu",
) -> LaneTime:
    """Train these trials of one shape to their end, without what comes before the first step.

    `as_if` gives the times of trials of so many steps, of which these make only the first: each measurement is taken to
    cost the same, and each step what it takes in a long stretch, because longer trials have fewer records per step,
    after which caches hold other things.
    """
    steps = experiment.budget.steps
    loop = Loop(
        [Job(trial_id=str(number), settings=s) for number, s in enumerate(settings)],
        slots=slots,
        budget=experiment.budget,
        stop_below=experiment.stop_below,
        stop_share=experiment.stop_share,
        levels=experiment.levels,
        measure=experiment.measure,
        device=device,
    )
    began = time.perf_counter()
    while not loop.done:
        loop.run_chunk()
    outcomes, _ = loop.take()
    took = time.perf_counter() - began
    training = sum(outcome.row["wall_seconds"] for outcome in outcomes)
    measuring = {name: part for name, part in loop.recorder.seconds.items() if part}
    measuring["records"] = took - training - sum(measuring.values())
    if as_if is None:
        return LaneTime(training, measuring)
    mine, theirs = _calls(loop, steps), _calls(loop, as_if)
    scaled = {name: part * theirs[name] / mine[name] for name, part in measuring.items()}
    per_step = _seconds_per_step(settings[:slots], experiment, device)
    return LaneTime(per_step * (as_if + 1) * len(settings) / slots, scaled)


def _seconds_per_step(settings: Sequence[TrialSettings], experiment: Experiment, device: str) -> float:
    """Wall seconds of a step of a full lane, from a stretch as long as the host ever leaves it alone."""
    where = torch.device(device)
    lane = Stack(settings[0], slots=len(settings), budget=experiment.budget, stop_below=0, device=where)
    for slot, trial in enumerate(settings):
        lane.fill(slot, trial)
    lane.advance(2 if device == "cpu" else WARM_UP + 2)
    lane.active.tolist()  # waits for a device that works ahead
    began = time.perf_counter()
    lane.advance(LONGEST_CHUNK)
    lane.active.tolist()
    return (time.perf_counter() - began) / LONGEST_CHUNK


def _calls(loop: Loop, steps: int) -> Counter[str]:
    """How often each measurement is made of a trial of so many steps, and how many records it has."""
    per_decade = 16
    at = record_steps(steps, per_decade, ended=True)
    due = [m.name for step in at for m in loop.recorder.due(step, per_decade, final=step == steps)]
    return Counter(due + ["records"] * len(at))
