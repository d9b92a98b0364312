"""How wall time grows with the number of trials, width, depth and samples, each with a fitted exponent.

`python -m benchmarks.growth`: for trials, the wall of the command (calibration known, no report); for the shape of a
trial, a lane in this process on one core, measurements included. The exponent is the slope of a line through the
logarithms of the larger half of the sizes, where what is fixed weighs least.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import run_sweep, setting
from benchmarks.lane import lanes_of, train_lane
from benchmarks.saved import NARROW, asked_quick, save
from suite.loading import load_experiment

SIZES = {
    "encoder.width": [64, 128, 256, 512, 1024, 2048],
    "encoder.depth": [1, 2, 4, 8, 16, 32],
    "data.samples": [32, 64, 128, 256, 512, 1024],
}
TRIALS = [64, 128, 256, 512]
FIXED = {"encoder.width": 256, "encoder.depth": 2, "data.samples": 64}
"""The other two, where one of these grows."""
LANE_STEPS = 40


def main() -> None:
    """Seconds by size, and exponents."""
    quick = asked_quick(__doc__)
    figures = {"trials": by_trials([8, 16, 32] if quick else TRIALS)}
    for name, sizes in SIZES.items():
        figures[name] = by_shape(name, sizes[:3] if quick else sizes, steps=10 if quick else LANE_STEPS)
    save("growth", figures, quick=quick)


def by_trials(sizes: list[int]) -> dict[str, Any]:
    """Wall of the command for so many trials of width 32 and depth 1, 100 steps each."""
    shape = {"encoder__width": 32, "encoder__depth": 1, "budget__steps": 100}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def wall(number: int) -> float:
            words = setting(**shape, seed=f"{{range: {number}}}")
            return run_sweep(NARROW, scratch, "--no-report", *words, home=scratch / "home").wall

        wall(min(sizes))  # calibrates
        seconds = [wall(number) for number in sizes]
    return fitted(sizes, seconds)


def by_shape(name: str, sizes: list[int], *, steps: int) -> dict[str, Any]:
    """Seconds per trial of a lane as full as calibration makes it, on one core."""
    torch.set_num_threads(1)
    return fitted(sizes, [seconds_per_trial({**FIXED, name: size}, steps) for size in sizes])


def seconds_per_trial(shape: dict[str, int], steps: int) -> float:
    """Of trials of one shape, the better of two lanes."""
    words = [*(f"{name}={size}" for name, size in shape.items()), "seed={range: 8}", f"budget.steps={steps}"]
    experiment = load_experiment(NARROW, overrides=words)
    lane = lanes_of(experiment, workers=1)[0]
    settings = [task.settings for task in lane.tasks[: lane.slots]]
    times = [train_lane(settings, slots=lane.slots, experiment=experiment, as_if=1000) for _ in range(2)]
    return min(time.total for time in times) / len(settings)


def fitted(sizes: list[int], seconds: list[float]) -> dict[str, Any]:
    """Seconds by size, and the exponent over the larger half."""
    kept = math.ceil(len(sizes) / 2)
    slope, _ = np.polyfit(np.log(sizes[-kept:]), np.log(seconds[-kept:]), 1)
    return {"sizes": sizes, "seconds": seconds, "exponent": float(slope)}


if __name__ == "__main__":
    main()
