"""How many slots to stack for a shape of trial, and what a step then costs: measured, because it depends on caches."""

from __future__ import annotations

import os
import time

import torch

from suite.experiment import Budget, TrialSettings
from suite.lanes import CANDIDATE_SLOTS, Cost
from suite.training.arithmetic import slot_bytes
from suite.training.lane import Lane

MEASURE_SECONDS = 0.15
"""Time given to each candidate number of slots."""
WORTHWHILE = 0.93
"""A larger stack must bring the time per trial-step below this share of the best so far."""
MEMORY_SHARE = 0.5
"""Share of memory a lane may plan with."""


def measure(settings: TrialSettings, *, num_trials: int, threads: int, device: str, slots: int | None = None) -> Cost:
    """The cheapest number of slots for trials of this shape, at most `num_trials`; stops at the first that is worse.

    A number of `slots` given is taken as it is, and only its cost is measured.
    """
    torch.set_num_threads(threads)
    if slots is not None:
        return Cost(slots, _seconds_per_step(settings, slots=slots, device=device))
    limit = _memory_bytes(device) * MEMORY_SHARE
    each = slot_bytes(settings, itemsize=8)
    best: Cost | None = None
    for number in CANDIDATE_SLOTS:
        if best is not None and (number > num_trials or number * each > limit):
            break
        if best is not None and best.seconds_per_step > MEASURE_SECONDS:
            break  # so long a step gains nothing from company
        seconds = _seconds_per_step(settings, slots=number, device=device)
        if best is not None and seconds > WORTHWHILE * best.seconds_per_step:
            break
        best = Cost(number, seconds)
    assert best is not None
    return best


def _seconds_per_step(settings: TrialSettings, *, slots: int, device: str) -> float:
    """Wall seconds of one step of one trial when `slots` are stacked: the best of a few short stretches."""
    budget = Budget(steps=10**9)
    lane = Lane(settings, slots=slots, budget=budget, stop_below=0, device=torch.device(device))
    for slot in range(slots):
        lane.fill(slot, settings)
    began = time.perf_counter()
    lane.advance(2)
    lane.active.tolist()  # waits for a device that works ahead
    warming = (time.perf_counter() - began) / (2 * slots)
    if warming > MEASURE_SECONDS:
        return warming
    length, best, until = 2, float("inf"), time.perf_counter() + MEASURE_SECONDS
    while True:
        began = time.perf_counter()
        lane.advance(length)
        lane.active.tolist()
        took = time.perf_counter() - began
        best = min(best, took / (length * slots))
        if time.perf_counter() > until:
            return best
        length = min(32, 2 * length)


def _memory_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
