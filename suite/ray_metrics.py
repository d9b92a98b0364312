"""What a run tells Ray's metrics, which Ray's dashboard shows and Prometheus reads on every node."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import ray
from ray.util.metrics import Counter, Gauge

TAG = "experiment"


def check_dashboard() -> None:
    """See that Ray can show its dashboard.

    Raises:
        ValueError: packages are missing.
    """
    if missing := ray._private.utils.get_dashboard_dependency_error():
        raise ValueError(f'--dashboard needs more of Ray ({missing}): pip install "stillpoint[cluster]"')


class RayMetrics:
    """Of one experiment, told by its driver, which has every number on the host already."""

    def __init__(self, experiment: str) -> None:
        self._steps = _counter("stillpoint_steps", "Trial-steps trained.", experiment)
        self._lanes_done = _counter("stillpoint_lanes_done", "Lanes of which every trial has ended.", experiment)
        self._trials_done = _counter("stillpoint_trials_done", "Trials that have ended.", experiment)
        self._speed = _gauge("stillpoint_steps_per_second", "Trial-steps per second of late.", experiment)
        self._grad = _gauge("stillpoint_scaled_grad_norm_sq", "Median of the newest of all trials.", experiment)
        self._newest: dict[str, float] = {}
        self._told = {"steps": 0, "lanes": 0, "trials": 0}

    def progressed(self, *, steps: int, lanes_done: int, trials_done: int, steps_per_second: float) -> None:
        """Counts since the run began; those that have not grown cost nothing."""
        for name, counter, count in (
            ("steps", self._steps, steps),
            ("lanes", self._lanes_done, lanes_done),
            ("trials", self._trials_done, trials_done),
        ):
            if (more := count - self._told[name]) > 0:
                counter.inc(more)
                self._told[name] = count
        self._speed.set(steps_per_second)

    def recorded(self, newest: Mapping[str, float | None]) -> None:
        """The newest scaled squared gradient norm of trials, by their ids."""
        self._newest |= {i: value for i, value in newest.items() if value is not None and math.isfinite(value)}
        if self._newest:
            self._grad.set(statistics.median(self._newest.values()))


def _counter(name: str, description: str, experiment: str) -> Counter:
    return Counter(name, description, (TAG,)).set_default_tags({TAG: experiment})


def _gauge(name: str, description: str, experiment: str) -> Gauge:
    return Gauge(name, description, (TAG,)).set_default_tags({TAG: experiment})
