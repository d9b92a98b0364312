"""Lanes: which trials share a Ray task, how many slots it has, and in which order lanes are started."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from suite.experiment import Experiment, TrialSettings
from suite.trials import Task

LANES_PER_WORKER = 4
"""Enough lanes that the last ones to end leave few cores idle."""
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 900.0
"""A lane is planned to take at least the first, so that starting it is cheap, and at most the second."""
CANDIDATE_SLOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Cost:
    """What calibration measured for one shape of trial: how many slots to stack, and seconds per trial-step."""

    slots: int
    seconds_per_step: float


@dataclass(frozen=True)
class Lane:
    """Trials of one shape for one Ray task, and its expected wall time in seconds."""

    name: str
    shape: str
    tasks: list[Task]
    slots: int
    seconds: float


def shape_key(settings: TrialSettings) -> str:
    """Trials with equal keys can share a lane: same tensors, same loss, same steps, same precision and thresholds.

    Seed, data and learning rate may differ; the number of samples may not, nor the data where its inputs meet a
    trained layer.
    """
    encoder, optimizer = settings.encoder, settings.optimizer
    parts = [
        [encoder.towers()[tower] for tower in ("query", "key")],
        {name: value for name, value in encoder if name not in ("width", "depth", "key")},
        settings.data if encoder.train_ends else settings.data.samples,
        settings.loss,
        settings.coupling,
        {name: value for name, value in optimizer if name != "learning_rate"},
        settings.precision,
        settings.epsilons,
        settings.records_per_decade,
    ]
    return json.dumps(parts, default=str, separators=(",", ":"))


def groups(tasks: Iterable[Task], key: Callable[[TrialSettings], str] = shape_key) -> dict[str, list[Task]]:
    """Tasks by shape, in order."""
    known: dict[str, list[Task]] = {}
    for task in tasks:
        known.setdefault(key(task.settings), []).append(task)
    return known


def plan_lanes(tasks: list[Task], costs: Mapping[str, Cost], *, experiment: Experiment, num_workers: int) -> list[Lane]:
    """Cut every shape's tasks into lanes of about equal time, longest first."""
    shapes = groups(tasks)
    steps = experiment.budget.steps
    seconds = {key: len(members) * steps * costs[key].seconds_per_step for key, members in shapes.items()}
    target = sum(seconds.values()) / (num_workers * LANES_PER_WORKER)
    target = min(max(target, SHORTEST_SECONDS), LONGEST_SECONDS)
    cuts: list[tuple[float, str, list[Task]]] = []
    for key, members in shapes.items():
        each = seconds[key] / len(members)
        size = max(costs[key].slots, min(len(members), round(target / each) if each else len(members)))
        number = -(-len(members) // size)
        bounds = [len(members) * k // number for k in range(number + 1)]
        parts = [members[a:b] for a, b in itertools.pairwise(bounds)]
        cuts += [(each * len(part), key, part) for part in parts]
    cuts.sort(key=lambda cut: -cut[0])
    return [
        Lane(name=f"{index:05d}", shape=key, tasks=part, slots=costs[key].slots, seconds=cost)
        for index, (cost, key, part) in enumerate(cuts)
    ]
