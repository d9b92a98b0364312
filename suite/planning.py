"""What running an experiment would take: trials, lanes, parameters, FLOPs, memory, disk and time."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from suite.experiment import Experiment
from suite.lanes import LIMITS, Cost, Timings, makespan, plan_lanes, shape_titles
from suite.measurement.catalog import CHOSEN, moments
from suite.measurement.registry import MEASUREMENTS
from suite.progress import duration
from suite.results import Results
from suite.run import check_data, saved_slots, shape_costs
from suite.storage import storage_at
from suite.trials import Task, expand, missing


@dataclass(frozen=True)
class ShapePlan:
    """The missing trials of one shape."""

    title: str
    trials: int
    parameters: int
    slots: int
    """Trials trained side by side."""
    limit: str
    """Why not more."""
    seconds_per_step: float
    """Of one trial, so stacked."""
    seconds_per_step_alone: float | None
    """Of a trial by itself; null if that was not measured."""
    lanes: int
    flops: float
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class MeasurementPlan:
    """One measurement over all missing trials, or what it would take at their ends if it is never made."""

    name: str
    when: str
    times: int
    """Per trial of full length; 0 if never."""
    seconds: float
    """Core time, about; if never, of once per trial."""
    share: float
    """Of the core time of training."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained and what it takes; times and slots are measured on this machine."""

    name: str
    trials: int
    duplicates: int
    complete: int
    lanes: int
    workers: int
    flops: float
    memory_bytes: int
    """Of all workers together, at most."""
    checkpoint_bytes: int
    """Kept on disk for ended trials."""
    seconds: float
    """Expected wall time of training, if no trial stops before its budget is used up."""
    lane_hours: float
    """Of all workers together."""
    gpu_hours: float
    """That part of GPUs that lanes occupy."""
    cost: float | None
    """At `resources.cost_per_hour`; null if that is not given."""
    shapes: list[ShapePlan]
    measurements: list[MeasurementPlan]
    """Those that can be left out, as `measure` has them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def make_plan(experiment: Experiment, *, results: Path | str) -> Plan:
    """Plan what is missing of an experiment in `results`; measures shapes that were never measured here.

    Raises:
        ValueError: the data or the settings cannot be used.
    """
    expansion = expand(experiment)
    check_data(expansion.trials)
    folder = storage_at(results, experiment.name)
    saved = Results.open(folder)
    saved.drop_incomplete(expansion.trials)
    tasks = missing(expansion.trials, saved.outcomes, experiment)
    needed = experiment.resources
    workers = needed.workers or max(1, (os.cpu_count() or 1) // needed.cpus)

    def here(requests: dict[str, dict[str, Any]]) -> dict[str, Timings]:
        from suite.calibration import measure

        return {key: measure(**request) for key, request in requests.items()}

    earlier = saved_slots(folder, experiment)
    costs = shape_costs(tasks, expansion.trials, experiment, earlier=earlier, calibrate=here, workers=workers)
    lanes = plan_lanes(tasks, costs, experiment=experiment, num_workers=workers)
    grouped: dict[str, list[Task]] = {key: [] for key in costs}
    for lane in lanes:
        grouped[lane.shape] += lane.tasks
    shapes = _shapes(grouped, costs, Counter(lane.shape for lane in lanes), steps=experiment.budget.steps)
    measured = _measurements(grouped, costs, experiment)
    kept = sum(s.trials * s.parameters * (4 if experiment.precision == "float32" else 8) for s in shapes)
    longer = 1 + sum(m.share for m in measured if m.times)
    hours = sum(lane.seconds for lane in lanes) * longer / 3600
    return Plan(
        name=experiment.name,
        trials=len(expansion.trials),
        duplicates=expansion.num_duplicates,
        complete=len(expansion.trials) - len(tasks),
        lanes=len(lanes),
        workers=workers,
        flops=sum(s.flops for s in shapes),
        memory_bytes=min(workers, max(1, len(lanes))) * max((s.memory_bytes for s in shapes), default=0),
        checkpoint_bytes=kept if experiment.checkpoints == "final" else 0,
        seconds=makespan([lane.seconds for lane in lanes], workers) * longer,
        lane_hours=hours,
        gpu_hours=hours * needed.gpus,
        cost=None if needed.cost_per_hour is None else hours * needed.cost_per_hour,
        shapes=shapes,
        measurements=measured,
    )


def _shapes(
    grouped: dict[str, list[Task]], costs: dict[str, Cost], lanes: Counter[str], *, steps: int
) -> list[ShapePlan]:
    """Each shape with its missing tasks, and the number of its lanes."""
    from suite.training.arithmetic import flops_per_step, num_parameters, slot_bytes

    titles = shape_titles({key: members[0].settings for key, members in grouped.items()})
    shapes = []
    for key, members in grouped.items():
        settings, cost = members[0].settings, costs[key]
        left = sum(steps - task.step for task in members)
        item = 4 if settings.precision == "float32" else 8
        shapes.append(
            ShapePlan(
                title=titles[key],
                trials=len(members),
                parameters=num_parameters(settings),
                slots=cost.slots,
                limit=cost.limit,
                seconds_per_step=cost.seconds_per_step,
                seconds_per_step_alone=cost.alone,
                lanes=lanes[key],
                flops=float(left * flops_per_step(settings)),
                memory_bytes=cost.slots * slot_bytes(settings, itemsize=item),
                seconds=left * cost.seconds_per_step,
            )
        )
    return shapes


def _measurements(
    grouped: dict[str, list[Task]], costs: dict[str, Cost], experiment: Experiment
) -> list[MeasurementPlan]:
    """Each that can be left out, from its cost in gradients and the time of a step."""
    steps = experiment.budget.steps
    training = sum(costs[key].seconds_per_step * (steps - task.step) for key, part in grouped.items() for task in part)
    plans = []
    for name, when in moments(experiment.measure).items():
        measurement = MEASUREMENTS[name]
        if name not in CHOSEN:
            continue
        times = when.count(steps, per_decade=experiment.records_per_decade)
        seconds = max(times, 1) * sum(
            measurement.gradients(task.settings) * costs[key].seconds_per_step / task.settings.coupling.evaluations
            for key, part in grouped.items()
            for task in part
        )
        plans.append(MeasurementPlan(name, str(when), times, seconds, seconds / training if training else 0.0))
    return plans


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan as a table."""
    repeated = f" ({plan.duplicates} repeated cells left out)" if plan.duplicates else ""
    console.print(f"{plan.name}: {plan.trials} trials{repeated}, {plan.complete} complete already", highlight=False)
    if not plan.shapes:
        console.print("Nothing is left to train.")
        return
    table = Table("shape", "trials", "lanes", "slots", "step", "params", "FLOPs", "memory", "time")
    for shape in plan.shapes:
        table.add_row(
            shape.title,
            str(shape.trials),
            str(shape.lanes),
            str(shape.slots),
            _microseconds(shape.seconds_per_step),
            _short(shape.parameters),
            _short(shape.flops),
            _bytes(shape.memory_bytes),
            duration(shape.seconds),
        )
    console.print(table)
    _show_slots(plan, console)
    _show_measurements(plan, console)
    console.print(
        f"{plan.lanes} lanes on {plan.workers} workers: about {duration(plan.seconds)} of training at most, "
        f"{_short(plan.flops)} FLOPs, {_bytes(plan.memory_bytes)} memory, {_bytes(plan.checkpoint_bytes)} kept.",
        highlight=False,
    )
    if words := price_words(plan.lane_hours, gpu_hours=plan.gpu_hours, cost=plan.cost):
        console.print(f"{words}, if nodes are as fast as this machine and never idle.", highlight=False)


def price_words(lane_hours: float, *, gpu_hours: float, cost: float | None) -> str:
    """What is paid for, in words; empty where that is one's own machine."""
    if not gpu_hours and cost is None:
        return ""
    words = [f"{lane_hours:.3g} hours of lanes"]
    words += [f"{gpu_hours:.3g} GPU-hours"] if gpu_hours else []
    return ", ".join(words) + ("" if cost is None else f", cost {cost:,.2f}")


def _show_slots(plan: Plan, console: Console) -> None:
    """Why lanes have as many slots as they have: one line for all shapes of one reason."""
    by_limit: dict[str, list[ShapePlan]] = {}
    for shape in plan.shapes:
        by_limit.setdefault(shape.limit, []).append(shape)
    console.print("slots: trials trained side by side; step and time: of one trial and of all, on one worker")
    for limit, shapes in by_limit.items():
        numbers = ", ".join(str(n) for n in sorted({shape.slots for shape in shapes}))
        gains = [s.seconds_per_step_alone / s.seconds_per_step for s in shapes if s.seconds_per_step_alone]
        gain = f", {min(gains):.1f} to {max(gains):.1f} times as fast as one at a time" if gains else ""
        console.print(f"  {numbers} slots ({LIMITS[limit]}){gain}", highlight=False, markup=False)


def _microseconds(seconds: float) -> str:
    return f"{_short(1e6 * seconds)} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def _show_measurements(plan: Plan, console: Console) -> None:
    """What measurements take: the usual ones together, others and those that are off each by itself."""
    usual = [m for m in plan.measurements if m.times and MEASUREMENTS[m.name].default]
    chosen = [m for m in plan.measurements if m.times and not MEASUREMENTS[m.name].default]
    off = [m for m in plan.measurements if not m.times]
    share, seconds = sum(m.share for m in usual), sum(m.seconds for m in usual)
    names = ", ".join(m.name for m in usual) or "none"
    words = [f"usual measurements ({names}): about {share:.1%} of training, {duration(seconds)}"] if usual else []
    words += [f"{m.name} ({m.when}): {_cost(m)}" for m in chosen]
    words += [f"{m.name} is off; once per trial: {_cost(m)}" for m in off]
    for line in words:
        console.print(line, highlight=False, markup=False)


def _cost(plan: MeasurementPlan) -> str:
    if plan.seconds == 0:
        return MEASUREMENTS[plan.name].cost
    return f"about {plan.share:.1%} of training, {duration(plan.seconds)}"


def _short(number: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}E"


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError
