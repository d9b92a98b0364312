"""On a GPU: the narrow sweep against its trials one at a time, and the float32 fraction of the GEMM ceiling.

Where there is no GPU, `python -m benchmarks.gpu` says so and measures nothing; earlier figures stay.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import pair
from benchmarks.command import run_sweep, setting
from benchmarks.lane import train_lane
from benchmarks.saved import FULL, NARROW, asked_quick, read, save
from benchmarks.starts import start_of, trials_of
from suite.loading import load_experiment
from suite.training.arithmetic import flops_per_step

WIDTHS = (2048, 4096)
STEPS = 1000
SHARE = 0.25
"""Of the GPU for each lane of the narrow sweep, whose kernels are too small to fill it."""


def main() -> None:
    """What there is to measure."""
    quick = asked_quick(__doc__)
    if not torch.cuda.is_available():
        if quick or not read(FULL).get("gpu", {}).get("device"):
            save("gpu", {"device": None}, quick=quick)
        print("gpu: torch sees none on this machine", flush=True)
        return
    shrunk = {"seed": "{range: 2}", "budget__steps": 50} if quick else {}
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "narrow": narrow(shrunk, 50 if quick else STEPS)}
    figures["ceiling"] = [fraction(width) for width in (WIDTHS[:1] if quick else WIDTHS)]
    save("gpu", figures, quick=quick)


def narrow(shrunk: dict[str, Any], steps: int) -> dict[str, float]:
    """Seconds per trial of the narrow sweep on the GPU, whole and of training alone, and of one trial at a time."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = run_sweep(NARROW, Path(folder), "--no-report", *setting(**shrunk, resources__gpus=SHARE))
        number = len(sweep.table("trials", "trial_id"))
        whole, training = sweep.wall / number, sweep.training / number
    starts = [start_of(trial) for trial in trials_of(NARROW, **shrunk | {"seed": 0})]
    pair.train(starts[0], 10, device="cuda")
    began = time.perf_counter()
    for start in starts:
        pair.train(start, steps, device="cuda")
    torch.cuda.synchronize()
    alone = (time.perf_counter() - began) / len(starts)
    return {"suite": whole, "suite_training": training, "one_at_a_time": alone}


def fraction(width: int, *, device: str = "cuda", seconds: float = 1.0) -> dict[str, float]:
    """FLOP/s of a lane of one wide trial, with the default measurements and without, and of a square product of its
    width in full float32."""
    settings = trials_of(NARROW, encoder__width=width, encoder__depth=2, data__samples=width, seed=0)[0].settings
    experiment = load_experiment(NARROW, overrides=["budget.steps=20"])
    train_lane([settings], slots=1, experiment=experiment, device=device)  # loads what a worker keeps for all its lanes
    lane = train_lane([settings], slots=1, experiment=experiment, as_if=STEPS, device=device)
    work = flops_per_step(settings) * (STEPS + 1)
    a, b = torch.randn(2, width, width, device=device).unbind()
    ceiling = max(2.0 * width**3 * per_second(lambda: a @ b, seconds, device) for _ in range(3))
    return {"width": width, "suite": work / lane.total, "training": work / lane.training, "ceiling": ceiling}


def per_second(work: Callable[[], Any], seconds: float, device: str) -> float:
    """How often this is done in a second, after a warm-up; the device may work ahead, so it is waited for."""
    work()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        done += 4
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
