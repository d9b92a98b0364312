"""How much of the hardware's ceiling training reaches, by width, for the suite and its peers.

`python -m benchmarks.ceiling` trains narrow.yaml's trials at depth 2 in one process of one thread per core, all at
the same time, as lanes are trained; a plain loop also runs in one process of as many threads. A rate is the matrix
products of a step, each counted once, over the wall time; the ceiling is that of those very products and nothing
else. Ways are measured in turns, and the best of some rounds counts. The suite's times are of trials of 1000 steps
with the default measurements: of wide ones, the first steps are trained and each part is counted as often.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks import ensemble, pair
from benchmarks.cores import Meet, at_once
from benchmarks.lane import lanes_of, train_lane
from benchmarks.products import Products
from benchmarks.saved import CORES, NARROW, asked_quick, save
from benchmarks.starts import start_of, trials_of
from suite.loading import load_experiment
from suite.training.arithmetic import flops_per_step

STEPS = 1000
WAYS = ("suite", "training", "loop", "loop_threads", "ensemble", "ceiling")


def main() -> None:
    """A row per width."""
    quick = asked_quick(__doc__)
    widths = [16, 512] if quick else [2**k for k in range(4, 12)]
    rounds, seconds = (1, 0.2) if quick else (3, 1.0)
    plans = at_once(make_plans, [(widths, seconds)] * CORES)[0]
    parts = [(rank, plans, rounds, seconds) for rank in range(CORES)]
    rows = [
        _row(plan, rates) for plan, rates in zip(plans, zip(*at_once(measure_rates, parts), strict=True), strict=True)
    ]
    save("ceiling", {"rows": rows, "rounds": rounds}, quick=quick)


def make_plans(part: tuple[list[int], float], meet: Meet) -> list[dict[str, int]]:
    """Of each width, calibrated anew while the other cores calibrate too, as in a run."""
    widths, seconds = part
    plans = []
    with tempfile.TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty
        for width in widths:
            meet()
            plans.append(_plan(width, seconds))
    return plans


def _plan(width: int, seconds: float) -> dict[str, int]:
    """Slots, and steps that take about so long, of trials of this width."""
    words = [f"encoder.width={width}", "encoder.depth=2", f"budget.steps={STEPS}"]
    lane = lanes_of(load_experiment(NARROW, overrides=words))[0]
    stack_step = lane.slots * lane.seconds / (len(lane.tasks) * STEPS)
    return {"width": width, "slots": lane.slots, "steps": min(max(round(seconds / stack_step), 20), STEPS)}


def _row(plan: dict[str, int], rates: tuple[list[dict[str, Any]], ...]) -> dict[str, Any]:
    """FLOP/s of all cores together in the best round of each way."""
    best = {way: max(map(sum, zip(*([found[way] for found in core] for core in rates), strict=True))) for way in WAYS}
    return {**plan, **best, "parts": rates[0][-1]["parts"]}


Part = tuple[int, list[dict[str, int]], int, float]


def measure_rates(part: Part, meet: Meet) -> list[list[dict[str, Any]]]:
    """In one process: for each width and round, FLOP/s of each way, and the suite's wall by part."""
    rank, plans, rounds, seconds = part
    return [list(_rounds(plan, rank, rounds, seconds, meet)) for plan in plans]


def _rounds(plan: dict[str, int], rank: int, rounds: int, seconds: float, meet: Meet) -> Iterator[dict[str, Any]]:
    width, slots, steps = plan["width"], plan["slots"], plan["steps"]
    experiment = load_experiment(NARROW, overrides=[f"budget.steps={steps}"])
    words = {"encoder__width": width, "encoder__depth": 2, "seed": f"{{range: {slots}}}"}
    trials = trials_of(NARROW, **words)
    settings, starts = [t.settings for t in trials], [start_of(t) for t in trials]
    flops, products = flops_per_step(settings[0]), Products(settings[0], slots)
    alone = min(STEPS, steps * slots)

    def rate(train: Callable[[], pair.Trained], steps: int, trials: int = 1) -> float:
        return flops * trials * (steps + 1) / train().seconds

    for _ in range(rounds):
        meet()
        lane = train_lane(settings, slots=slots, experiment=experiment, as_if=STEPS)
        work = flops * slots * (STEPS + 1)
        found: dict[str, Any] = {"suite": work / lane.total, "training": work / lane.training}
        found["parts"] = {name: part / lane.total for name, part in lane.measuring.items()}
        meet()
        found["loop"] = rate(lambda: pair.train(starts[0], alone), alone)
        meet()
        found["ensemble"] = rate(lambda: ensemble.train(starts, steps), steps, slots)
        meet()
        found["ceiling"] = products.rate(seconds / 2)
        meet()
        found["loop_threads"] = 0.0
        if rank == 0:
            torch.set_num_threads(CORES)
            found["loop_threads"] = rate(lambda: pair.train(starts[0], alone), alone)
            torch.set_num_threads(1)
        yield found


if __name__ == "__main__":
    main()
