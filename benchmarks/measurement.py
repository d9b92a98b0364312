"""What measuring costs: the quickstart's wall time with the measurements it makes, against the same build without.

`python benchmarks/measurement.py` alternates whole runs of the command and prints the median share; then it trains the
same lanes in this process and prints what each measurement took of their time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from suite.experiment import Experiment
from suite.lanes import Lane, plan_lanes
from suite.loading import load_experiment
from suite.run import shape_costs
from suite.training.loop import Job, Loop
from suite.trials import expand, missing

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).with_name("stillpoint")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default=ROOT / "experiments" / "quickstart.yaml", type=Path)
    parser.add_argument("--pairs", type=int, default=5, help="alternating runs of the command; 0 for none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    if given.pairs:
        compare_runs(given.file, given.overrides, given.pairs)
    show_parts(load_experiment(given.file, overrides=given.overrides))


def compare_runs(file: Path, overrides: list[str], pairs: int) -> None:
    """Wall seconds of the command, with and without measurements, and the median share."""
    wall_seconds(file, [*overrides, "budget.steps=2"])  # calibration is kept, and files are warm
    shares = []
    for number in range(pairs):
        order = [True, False] if number % 2 else [False, True]
        took = {on: wall_seconds(file, [*overrides, *([] if on else ["measure=none"])]) for on in order}
        shares.append(took[True] / took[False] - 1)
        print(f"pair {number + 1}: {took[True]:.1f} s with, {took[False]:.1f} s without: {shares[-1]:+.1%}", flush=True)
    print(f"measurement costs {statistics.median(shares):.1%} of the sweep's wall time, median of {pairs} pairs")


def wall_seconds(file: Path, overrides: list[str]) -> float:
    """Of one run of the command, from its start to its end, report included."""
    with tempfile.TemporaryDirectory() as folder:
        options = [part for override in overrides for part in ("--set", override)]
        began = time.perf_counter()
        subprocess.run([COMMAND, "run", file, *options, "--results", folder], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def show_parts(experiment: Experiment) -> None:
    """Train the lanes one after another on one core, and print what each measurement took."""
    torch.set_num_threads(experiment.resources.cpus)
    seconds: dict[str, float] = {}
    total = 0.0
    for lane in lanes_of(experiment):
        began = time.perf_counter()
        loop = Loop(
            [Job(trial_id=task.trial_id, settings=task.settings) for task in lane.tasks],
            slots=lane.slots,
            budget=experiment.budget,
            stop_below=experiment.stop_below,
            levels=experiment.levels,
            measure=experiment.measure,
        )
        while not loop.done:
            loop.run_chunk()
        loop.take()
        total += time.perf_counter() - began
        for name, part in loop.recorder.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + part
    training = total - sum(seconds.values())
    print(f"\n{'measurement':<24}{'core seconds':>14}{'of training':>14}")
    for name, part in sorted(seconds.items(), key=lambda item: -item[1]):
        if part:
            print(f"{name:<24}{part:>14.2f}{part / training:>14.2%}")
    print(f"{'all of them':<24}{sum(seconds.values()):>14.2f}{sum(seconds.values()) / training:>14.2%}")
    print(f"{'training without':<24}{training:>14.2f}")


def lanes_of(experiment: Experiment) -> list[Lane]:
    """As a run on this machine would plan them."""
    from suite.calibration import measure

    tasks = missing(expand(experiment).trials, {}, experiment)
    costs = shape_costs(
        tasks,
        experiment,
        earlier={},
        calibrate=lambda requests: {key: measure(**request) for key, request in requests.items()},
    )
    return plan_lanes(tasks, costs, experiment=experiment, num_workers=2)


if __name__ == "__main__":
    main()
