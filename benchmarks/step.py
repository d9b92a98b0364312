"""Where the time of a step goes, by width: products, passes over the weights, and all that is small.

`python -m benchmarks.step` trains full lanes of narrow.yaml's trials at depth 2 in one process of one thread per core,
at the same time, under torch's profiler, and shares the wall time of a step out over its operations by the time that
each takes itself. What no operation takes is Python and its calls. It says why training stays below the ceiling.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cores import Meet, at_once
from benchmarks.lane import lanes_of
from benchmarks.saved import CORES, NARROW, asked_quick, save
from suite.experiment import Budget
from suite.loading import load_experiment
from suite.training.lane import LONGEST_CHUNK, Lane

GROUPS = {
    "products": ("aten::bmm", "aten::mm", "aten::baddbmm_"),
    "moving the weights": ("aten::addcmul_",),
    "norms of the gradients": ("aten::dot", "aten::linalg_vector_norm"),
    "activations": ("aten::relu_", "aten::clamp_min_", "aten::threshold_backward"),
}
OTHERS = "everything else: loss, bookkeeping, Python"


def main() -> None:
    """A column per width."""
    quick = asked_quick(__doc__)
    widths = [16, 512] if quick else [2**k for k in range(4, 12)]
    rows = {str(width): at_once(shares, [width] * CORES)[0] for width in widths}
    save("step", {"rows": rows}, quick=quick)


def shares(width: int, meet: Meet) -> dict[str, Any]:
    """Of the wall time of a step without the profiler, by group."""
    words = [f"encoder.width={width}", "encoder.depth=2"]
    planned = lanes_of(load_experiment(NARROW, overrides=words))[0]
    settings = [task.settings for task in planned.tasks[: planned.slots]]
    budget, cpu = Budget(steps=10**9), torch.device("cpu")
    lane = Lane(settings[0], slots=len(settings), budget=budget, stop_below=0, device=cpu)
    for slot, each in enumerate(settings):
        lane.fill(slot, each)
    lane.advance(2)
    meet()
    began = time.perf_counter()
    lane.advance(LONGEST_CHUNK)
    wall = 1e6 * (time.perf_counter() - began)
    meet()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        lane.advance(LONGEST_CHUNK)
    own = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    found = {group: sum(own.get(name, 0.0) for name in names) / wall for group, names in GROUPS.items()}
    return found | {OTHERS: max(0.0, 1 - sum(found.values()))}


if __name__ == "__main__":
    main()
