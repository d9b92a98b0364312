"""Lanes: which trials share a Ray task, how many slots it has, and in which order lanes are started."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from suite.experiment import Experiment, TrialSettings
from suite.trials import Task

LANES_PER_WORKER = 8
"""Enough lanes that the last ones to end leave few cores idle."""
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 900.0
"""A lane is planned to take at least the first, so that starting it is cheap, and at most the second."""
TRIED_CAPS = 12
"""How many bounds on the time of a stack are tried against each other."""

WORTHWHILE = 0.95
"""A larger stack must bring the time of a step of one trial below this share of a smaller one's."""

Limit = Literal["speed", "memory", "trials", "workers", "prescribed", "earlier", "untimed"]
"""What kept a stack from being larger; `LIMITS` has it in words."""


@dataclass(frozen=True)
class Timings:
    """What calibration measured for one shape of trial."""

    seconds: Mapping[int, float]
    """Of one step of one trial, by how many trials are stacked."""
    limit: Limit
    """Why no larger stack was tried."""

    def serve(self, num_trials: int) -> bool:
        """Whether all was tried that so many trials allow."""
        return self.limit != "untimed" and (self.limit != "trials" or 2 * max(self.seconds) > num_trials)


@dataclass(frozen=True)
class Cost:
    """How many slots a shape of trial gets, and why, and what a step of one trial then takes."""

    slots: int
    seconds_per_step: float
    alone: float | None = None
    """Seconds per step of a trial by itself, if that was measured."""
    limit: Limit = "earlier"
    """Why there are no more."""
    num_trials: int = 0
    """Planned trials of the shape when this was chosen."""

    def serves(self, num_trials: int, *, prescribed: int | None) -> bool:
        """Whether it is what would be chosen again for so many planned trials on the same machine."""
        if prescribed is not None or self.limit == "prescribed":
            return prescribed == self.slots
        if self.limit in ("earlier", "untimed"):
            return False
        return self.limit in ("speed", "memory") or num_trials <= self.num_trials


LIMITS: Mapping[str, str] = {
    "speed": "more gain nothing",
    "memory": "no memory for more",
    "trials": "no more trials",
    "workers": "more would leave workers idle",
    "prescribed": "resources.slots",
    "earlier": "chosen by an earlier version",
    "untimed": "could not be timed",
}
"""Why there are no more slots, as `plan` and the report say it."""


def read_timings(entry: Any) -> Timings | None:
    """From plain data; None if that is no table of timings."""
    try:
        seconds = {int(number): float(each) for number, each in entry["seconds"].items()}
        sound = all(number >= 1 and 0 < each < math.inf for number, each in seconds.items())
        return Timings(seconds, entry["limit"]) if seconds and sound and entry["limit"] in LIMITS else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def read_costs(entries: Any) -> dict[str, Cost]:
    """Costs by shape from plain data, of this version or another; what cannot be read is left out, and chosen again."""
    names = {field.name for field in fields(Cost)}
    costs = {}
    for key, entry in entries.items() if isinstance(entries, dict) else ():
        try:
            cost = Cost(**{name: value for name, value in entry.items() if name in names})
            sound = cost.slots >= 1 and 0 < cost.seconds_per_step < math.inf and (cost.alone is None or cost.alone > 0)
            if sound and cost.limit in LIMITS and cost.num_trials >= 0:
                costs[key] = cost
        except (AttributeError, TypeError):
            continue
    return costs


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


def shape_titles(shapes: Mapping[str, TrialSettings]) -> dict[str, str]:
    """Each shape in a few words: its towers, and of the rest what tells it from the others."""
    parts = {key: _parts_of_title(settings) for key, settings in shapes.items()}
    differing = [i for i, values in enumerate(zip(*parts.values(), strict=True)) if i == 0 or len(set(values)) > 1]
    return {key: ", ".join(part[i] for i in differing) for key, part in parts.items()}


def _parts_of_title(settings: TrialSettings) -> list[str]:
    encoder = settings.encoder
    words = {name: f"width {tower.width}, depth {tower.depth}" for name, tower in encoder.towers().items()}
    same = words["query"] == words["key"]
    return [
        words["query"] if same else f"query {words['query']}; key {words['key']}",
        f"{settings.data.samples} samples",
        f"d {encoder.embedding_dim}",
        encoder.activation,
        encoder.parametrization,
        f"{settings.loss.name} {settings.loss.similarity}",
        settings.coupling.name,
        settings.optimizer.name,
        settings.precision,
    ]


def groups(tasks: Iterable[Task], key: Callable[[TrialSettings], str] = shape_key) -> dict[str, list[Task]]:
    """Tasks by shape, in order."""
    known: dict[str, list[Task]] = {}
    for task in tasks:
        known.setdefault(key(task.settings), []).append(task)
    return known


def choose_slots(
    timings: Mapping[str, Timings], num_trials: Mapping[str, int], *, steps: int, workers: int
) -> dict[str, Cost]:
    """The best number of slots of each shape: the fastest per trial, unless so few large stacks would end later than
    more and smaller ones, because some workers have none."""
    if not timings:
        return {}
    times = [n * each for timing in timings.values() for n, each in timing.seconds.items()]
    caps = np.geomspace(min(times), max(times), TRIED_CAPS).tolist() if workers > 1 else []
    choices = [
        {key: _choice(timing, num_trials[key], cap) for key, timing in timings.items()} for cap in [math.inf, *caps]
    ]
    ends = [_end(choice, num_trials, steps=steps, workers=workers) for choice in choices]
    return choices[ends.index(min(ends))]


def _end(costs: Mapping[str, Cost], num_trials: Mapping[str, int], *, steps: int, workers: int) -> float:
    """Seconds until all is done, every stack being a lane of its own, rounded to what matters."""
    stacks = {key: -(-num_trials[key] // cost.slots) for key, cost in costs.items()}
    each = {key: steps * cost.slots * cost.seconds_per_step for key, cost in costs.items()}
    end = makespan(sorted((each[key] for key in costs for _ in range(stacks[key])), reverse=True), workers)
    return round(end / SHORTEST_SECONDS, 1) if end < 5 * SHORTEST_SECONDS else end


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last worker is done if each takes the next lane as it becomes free."""
    busy = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)


def _choice(timing: Timings, num_trials: int, cap: float) -> Cost:
    """The best stack of at most `num_trials` that makes a step within `cap` seconds, or the smallest there is."""
    seconds = timing.seconds
    fits = [number for number in sorted(seconds) if number <= num_trials] or [min(seconds)]
    computed = {number: number * -(-num_trials // number) for number in fits}  # the last stack may have idle slots
    in_all = {number: computed[number] * seconds[number] for number in fits}
    short = [number for number in fits if number * seconds[number] <= cap] or fits[:1]
    best, limit = _best(short, in_all), timing.limit
    if best < _best(fits, in_all):
        limit = "workers"
    elif best < max(fits):
        limit = "speed"
    elif best < max(seconds):
        limit = "trials"
    return Cost(best, seconds[best], seconds.get(1), limit, num_trials)


def _best(numbers: list[int], seconds: Mapping[int, float]) -> int:
    """The largest stack that is faster than all smaller ones by enough to pay for its memory; `numbers` ascend."""
    best = numbers[0]
    for number in numbers:
        if seconds[number] <= WORTHWHILE * seconds[best]:
            best = number
    return best


def plan_lanes(tasks: list[Task], costs: Mapping[str, Cost], *, experiment: Experiment, num_workers: int) -> list[Lane]:
    """Cut every shape's tasks into lanes of whole stacks and about equal time, longest first."""
    shapes = groups(tasks)
    steps = experiment.budget.steps
    each = {key: steps * costs[key].seconds_per_step for key in shapes}
    target = sum(each[key] * len(members) for key, members in shapes.items()) / (num_workers * LANES_PER_WORKER)
    target = min(max(target, SHORTEST_SECONDS), LONGEST_SECONDS)
    cuts: list[tuple[float, str, list[Task]]] = []
    for key, members in shapes.items():
        slots = costs[key].slots
        stacks = -(-len(members) // slots)
        number = min(stacks, max(1, round(len(members) * each[key] / target)))
        bounds = [min(len(members), slots * (stacks * k // number)) for k in range(number + 1)]
        cuts += [(each[key] * (b - a), key, members[a:b]) for a, b in itertools.pairwise(bounds)]
    cuts.sort(key=lambda cut: -cut[0])
    return [
        Lane(name=f"{index:05d}", shape=key, tasks=part, slots=costs[key].slots, seconds=cost)
        for index, (cost, key, part) in enumerate(cuts)
    ]
