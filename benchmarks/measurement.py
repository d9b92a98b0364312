"""What measuring costs: the wall time of a sweep with the measurements it makes, against the same one without.

`python -m benchmarks.measurement` alternates whole runs of the quickstart and prints the median share; then it trains
the same lanes in this process and prints what each measurement took of their time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from pathlib import Path

import torch

from benchmarks.command import run_sweep
from benchmarks.lane import LaneTime, lanes_of, train_lane
from benchmarks.saved import ROOT
from suite.experiment import Experiment
from suite.loading import load_experiment


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default=ROOT / "experiments" / "quickstart.yaml", type=Path)
    parser.add_argument("--pairs", type=int, default=5, help="alternating runs of the command; 0 for none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    if given.pairs:
        compare_runs(given.file, given.overrides, given.pairs)
    show_parts(in_one_process(load_experiment(given.file, overrides=given.overrides)))


def compare_runs(file: Path, overrides: list[str], pairs: int) -> None:
    """Wall seconds of the command, report included, with and without measurements, and the median share."""
    options = [part for override in overrides for part in ("--set", override)]
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def wall(*more: str) -> float:
            return run_sweep(file, scratch, *options, *more, home=scratch / "home").wall

        wall("--set", "budget.steps=2")  # calibration is kept, and files are warm
        for number in range(pairs):
            order = [True, False] if number % 2 else [False, True]
            took = {on: wall(*([] if on else ["--set", "measure=none"])) for on in order}
            shares.append(took[True] / took[False] - 1)
            print(f"pair {number + 1}: {took[True]:.1f} s with, {took[False]:.1f} s without: {shares[-1]:+.1%}")
    print(f"measurement costs {statistics.median(shares):.1%} of the sweep's wall time, median of {pairs} pairs")


def in_one_process(experiment: Experiment) -> LaneTime:
    """Train the lanes one after another on one core: seconds of training, and of each measurement."""
    torch.set_num_threads(experiment.resources.cpus)
    lanes = [
        train_lane([task.settings for task in lane.tasks], slots=lane.slots, experiment=experiment)
        for lane in lanes_of(experiment)
    ]
    measuring: Counter[str] = Counter()
    for lane in lanes:
        measuring.update(lane.measuring)  # adds what each took
    return LaneTime(sum(lane.training for lane in lanes), dict(measuring))


def show_parts(time: LaneTime) -> None:
    """Print what each measurement took."""
    print(f"\n{'measurement':<24}{'core seconds':>14}{'of training':>14}")
    parts = sorted(time.measuring.items(), key=lambda item: -item[1])
    for name, part in [*parts, ("all of them", time.total - time.training)]:
        print(f"{name:<24}{part:>14.2f}{part / time.training:>14.2%}")
    print(f"{'training without':<24}{time.training:>14.2f}")


if __name__ == "__main__":
    main()
