"""What a step of a trial costs by how many are stacked: measured, because it depends on caches."""

from __future__ import annotations

import os
import time

import torch

from suite.experiment import Budget, TrialSettings
from suite.failures import is_out_of_memory
from suite.lanes import WORTHWHILE, Limit, Timings
from suite.machine import machine
from suite.training.arithmetic import slot_bytes
from suite.training.lane import Lane
from suite.training.repeated import WARM_UP

MEASURE_SECONDS, FEWEST_STRETCHES = 0.02, 3
"""Time given to each number of slots, and into how many stretches it is cut at least: the fastest one counts."""
LONG_STEP = 0.01
"""Seconds: a stack whose step takes so long gains nothing from company."""
MEMORY_SHARE = 0.5
"""Of what a lane has, that it may plan with."""
MOST_SLOTS = 1024


def measure(
    settings: TrialSettings,
    *,
    num_trials: int,
    threads: int,
    gpus: float,
    memory: float | None = None,
    slots: int | None = None,
) -> Timings:
    """Time one trial of this shape, then two, four and so on, until two in a row gain nothing or there is no room.

    `memory` is what a lane is given, in GiB, if that is said. A number of `slots` given is taken as it is, and only its
    cost is measured.

    Raises:
        ValueError: a GPU is asked for, and there is none here.
    """
    machine("cuda" if gpus else "cpu")
    torch.set_num_threads(threads)
    device = torch.device("cuda" if gpus else "cpu")
    if slots is not None:
        return Timings({slots: _seconds_with_room(settings, slots, device)}, "prescribed")
    room = _memory_bytes(threads, gpus, memory) // slot_bytes(
        settings, itemsize=4 if settings.precision == "float32" else 8
    )
    seconds = {1: _seconds_per_step(settings, 1, device)}
    limit: Limit = "speed"
    while not _is_enough(seconds):
        number = 2 * max(seconds)
        if number > min(num_trials, room):
            limit = "trials" if num_trials < number else "memory"
            break
        try:
            seconds[number] = _seconds_per_step(settings, number, device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            limit = "memory"
            break
    return Timings(seconds, limit)


def _seconds_with_room(settings: TrialSettings, slots: int, device: torch.device) -> float:
    """Of a step of one trial with so many stacked, or half as many and so on where memory does not suffice: a lane that
    runs out of it goes on with half its slots too."""
    try:
        return _seconds_per_step(settings, slots, device)
    except (MemoryError, RuntimeError) as error:
        if slots == 1 or not is_out_of_memory(error):
            raise
    return _seconds_with_room(settings, slots // 2, device)


def _is_enough(seconds: dict[int, float]) -> bool:
    """Whether more slots can gain nothing: a step is long, or of the last two stacks neither was worth its size."""
    most, (*smaller, last_but_one, last) = max(seconds), (float("inf"), *seconds.values())
    vain = len(seconds) > 2 and min(last_but_one, last) > WORTHWHILE * min(smaller)
    return vain or most * last > LONG_STEP or most >= MOST_SLOTS


def _seconds_per_step(settings: TrialSettings, slots: int, device: torch.device) -> float:
    """Wall seconds of one step of one trial when `slots` are stacked: the best of a few short stretches."""
    lane = Lane(settings, slots=slots, budget=Budget(steps=10**9), stop_below=0, device=device)
    lane.fill(0, settings)
    lane.repeat(0)
    _stretch(lane, 1 if device.type == "cpu" else WARM_UP + 2)
    once = min(_stretch(lane, 1) for _ in range(2))
    if once > LONG_STEP:
        return once / slots
    length = min(64, max(1, round(MEASURE_SECONDS / FEWEST_STRETCHES / once)))
    stretches = max(FEWEST_STRETCHES, round(MEASURE_SECONDS / (length * once)))
    return min(_stretch(lane, length) for _ in range(stretches)) / (length * slots)


def _stretch(lane: Lane, length: int) -> float:
    """Seconds of so many steps of a lane; on one core those that it worked, so that a busy machine does not mislead."""
    alone = lane.active.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    began = clock()
    lane.advance(length)
    lane.active.tolist()  # waits for a device that works ahead
    return clock() - began


def _memory_bytes(threads: int, gpus: float, memory: float | None) -> int:
    """What one lane may use: its part of the GPU, or of main memory what it is given, or its part by cores."""
    if gpus:
        return int(MEMORY_SHARE * min(1.0, gpus) * torch.cuda.mem_get_info()[1])
    if memory is not None:
        return int(MEMORY_SHARE * memory * 2**30)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(MEMORY_SHARE * min(1.0, threads / (os.cpu_count() or 1)) * total)
