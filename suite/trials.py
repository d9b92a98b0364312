"""Trials: the cells of an experiment's grid, fully resolved, each with an id that says what determines its numbers."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from suite.columns import axis_column
from suite.compatibility import COINCIDING, parametrizations_coincide
from suite.experiment import ALONE, Budget, Experiment, TrialSettings
from suite.measurement.catalog import CHOSEN, moments
from suite.measurement.certificate import lacks_curvature
from suite.measurement.moments import Moments

ENDED = ("finished", "diverged")
"""Statuses of a trial that needs no more training within its budget."""
ROUNDED_UP = 1 + 1e-6
"""A lane compares in its own precision."""
_TAGS = ("source", "rule", "name")
_SHORT = {
    "encoder.width": "m",
    "encoder.depth": "L",
    "encoder.embedding_dim": "d",
    "encoder.key.width": "mk",
    "encoder.key.depth": "Lk",
    "data.samples": "n",
    "seed": "s",
    "loss.temperature": "tau",
}


@dataclass(frozen=True)
class Trial:
    """One cell: its settings, and the values it takes on each swept path."""

    trial_id: str
    name: str
    settings: TrialSettings
    axes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to train, from its start or from the state in an object of the results folder."""

    trial_id: str
    settings: TrialSettings
    checkpoint: str | None = None
    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Expansion:
    """The trials of an experiment in the order of its grid, and how many cells repeated an earlier one."""

    trials: list[Trial]
    num_duplicates: int


def expand(experiment: Experiment) -> Expansion:
    """Every cell of the grid once; the last axis runs fastest.

    Raises:
        pydantic.ValidationError: a cell's settings are not allowed together.
        EquivalentCellsError: two cells are one system.
    """
    base = {name: getattr(experiment, name) for name in TrialSettings.model_fields}
    builder = _Builder(base)
    trials: dict[str, Trial] = {}
    num_cells = 0
    for axes in cells(experiment.sweep):
        num_cells += 1
        settings, identity = builder.build(axes)
        trial = Trial(identity, _name(axes, experiment.name), settings, axes)
        known = trials.setdefault(identity, trial)
        assert known is trial or known.settings == settings, f"two settings share the id {identity}"
    _check_parametrizations(list(trials.values()))
    return Expansion(_distinct_names(list(trials.values())), num_cells - len(trials))


class EquivalentCellsError(ValueError):
    """Cells of a sweep that would train the same system."""


def _check_parametrizations(trials: list[Trial]) -> None:
    if len({trial.settings.encoder.parametrization for trial in trials}) < 2:
        return
    seen: dict[str, Trial] = {}
    for trial in trials:
        if parametrizations_coincide(trial.settings):
            encoder = trial.settings.encoder.model_copy(update={"parametrization": "standard"})
            known = seen.setdefault(trial_id(trial.settings.model_copy(update={"encoder": encoder})), trial)
            if known is not trial:
                raise EquivalentCellsError(f"{COINCIDING} (such as {known.name} and {trial.name})")


def cells(sweep: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Values by path for every cell. `sweep` maps paths to lists of values, and `zip` to groups that move together."""
    groups: list[list[dict[str, Any]]] = []
    for path, values in sweep.items():
        if path == "zip":
            groups += [
                [dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)] for group in values
            ]
        else:
            groups.append([{path: value} for value in values])
    for parts in itertools.product(*groups):
        yield {path: value for part in parts for path, value in part.items()}


class _Builder:
    """Builds settings from a base and a cell, with their id.

    A part shared by many cells is validated once. Cells that differ in the seed alone are checked once: no rule of
    compatibility looks at it.
    """

    def __init__(self, base: dict[str, Any]) -> None:
        self._base = base
        self._parts: dict[str, Any] = {}
        self._families: dict[str, tuple[TrialSettings, dict[str, str]]] = {}

    def build(self, axes: dict[str, Any]) -> tuple[TrialSettings, str]:
        """Settings of the cell at these values of the axes, and its trial id."""
        changes: dict[str, dict[str, Any]] = {}
        for path, value in axes.items():
            changes.setdefault(path.partition(".")[0], {})[path] = value
        seed = changes.pop("seed", None)
        key = json.dumps(changes, default=str)
        if key not in self._families:
            settings = self._validated(changes)
            self._families[key] = settings, _canonical(settings)
        settings, parts = self._families[key]
        if seed is not None:
            settings = settings.model_copy(update={"seed": self._part("seed", seed)})
        return settings, _identity(parts, settings.seed)

    def _validated(self, changes: dict[str, dict[str, Any]]) -> TrialSettings:
        values = dict(self._base)
        for name, parts in changes.items():
            values[name] = self._part(name, parts)
        return TrialSettings.model_validate(values)

    def _part(self, name: str, changes: dict[str, Any]) -> Any:
        key = json.dumps([name, changes], sort_keys=True, default=str)
        if key not in self._parts:
            present = self._base[name]
            plain = _given(present)
            for path, value in sorted(changes.items(), key=lambda item: item[0].count(".")):
                plain = _put(plain, path.split(".")[1:], value)
            self._parts[key] = getattr(TrialSettings.model_validate({name: plain}, context=ALONE), name)
        return self._parts[key]


def _put(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    inner = value if isinstance(value, dict) else {"name": value} if isinstance(value, str) else {}
    return {**inner, path[0]: _put(inner.get(path[0]), path[1:], new)}


def _given(value: Any) -> Any:
    """Settings as the YAML gave them: fields set by hand, and the names of choices."""
    if not isinstance(value, BaseModel):
        return value
    tag = _tag(value)
    parts = {name: getattr(value, name) for name in type(value).model_fields}
    set_by_hand = value.model_fields_set | {tag}
    return {name: _given(p) for name, p in parts.items() if name in set_by_hand or isinstance(p, BaseModel)}


def _tag(value: Any) -> str | None:
    fields = type(value).model_fields if isinstance(value, BaseModel) else {}
    return next((tag for tag in _TAGS if tag in fields), None)


def trial_id(settings: TrialSettings) -> str:
    """Twelve hex digits of the hash of every setting that differs from its default.

    Names of choices always count, so a field added later with a default changes no old id.
    """
    return _identity(_canonical(settings), settings.seed)


def _canonical(settings: TrialSettings) -> dict[str, str]:
    """What counts of each part but the seed, as JSON."""
    names = [name for name in TrialSettings.model_fields if name != "seed"]
    parts = {name: _differing(getattr(settings, name), TrialSettings, name) for name in names}
    return {name: _compact(part) for name, part in parts.items() if part is not _DEFAULT}


def _identity(parts: dict[str, str], seed: int) -> str:
    """The id: twelve hex digits of the hash of one JSON object."""
    kept = parts if seed == TrialSettings.model_fields["seed"].default else {**parts, "seed": _compact(seed)}
    canonical = ",".join(f'"{name}":{kept[name]}' for name in sorted(kept))
    return hashlib.sha256(f"{{{canonical}}}".encode()).hexdigest()[:12]


def _compact(part: Any) -> str:
    return json.dumps(part, sort_keys=True, separators=(",", ":"), allow_nan=False)


_DEFAULT = object()
_ALWAYS_COUNTED = frozenset({"data", "views", "encoder", "loss", "coupling", "optimizer", "learning_rate"})
"""Parts that every id has held since schema version 1; a part added later counts where it is not its default."""


def _differing(value: Any, owner: type[BaseModel], name: str) -> Any:
    if isinstance(value, BaseModel) and name in _ALWAYS_COUNTED:
        return _differing_model(value)
    if value == owner.model_fields[name].get_default(call_default_factory=False):
        return _DEFAULT
    return _plain(value)


@lru_cache(maxsize=100_000)
def _differing_model(value: BaseModel) -> Any:
    tag = _tag(value)
    parts = {name: _differing(getattr(value, name), type(value), name) for name in type(value).model_fields}
    kept = {name: part for name, part in parts.items() if part is not _DEFAULT}
    return kept if tag is None else {**kept, tag: getattr(value, tag)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, BaseModel):
        return _differing_model(value)
    if isinstance(value, float) and value == int(value) and abs(value) < 2**53:
        return int(value)
    return value


def flatten(settings: BaseModel, prefix: str = "", *, known: Flattened | None = None) -> dict[str, Any]:
    """Every setting by its full path, as a scalar; lists become compact JSON. `known` serves settings that share parts
    with those before them."""
    flat: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value, path = getattr(settings, name), f"{prefix}{name}"
        is_part = isinstance(value, BaseModel | list | tuple)
        flat |= known.part(value, path) if is_part and known is not None else _flat(value, path)
    return flat


def _flat(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return flatten(value, f"{path}.")
    if value is None and path == "encoder.key":
        return {f"{path}.width": None, f"{path}.depth": None}
    return {path: json.dumps(_plain(value), separators=(",", ":")) if isinstance(value, list | tuple) else value}


class Flattened:
    """Parts of settings that were flattened before: trials of one sweep share theirs."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], tuple[Any, dict[str, Any]]] = {}

    def part(self, part: Any, path: str) -> dict[str, Any]:
        """As `flatten` has it, once for each object, which is kept so that no other takes its identity."""
        key = id(part), path
        if key not in self._known:
            self._known[key] = part, _flat(part, path)
        return self._known[key][1]


def flat_settings(trial: Trial, known: Flattened | None = None) -> dict[str, Any]:
    """Every setting by its full path, and a word for each axis whose values are choices, such as `coupling`."""
    flat = flatten(trial.settings, known=known)
    return flat | {axis_column(path): _word(value) for path, value in trial.axes.items() if path not in flat}


def _name(axes: dict[str, Any], experiment: str) -> str:
    return "-".join(_part(path, value) for path, value in axes.items()) or experiment


def _part(path: str, value: Any) -> str:
    """One axis of a name: m64, or coupling=joint."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{_SHORT.get(path, path.rpartition('.')[2])}{'' if is_number else '='}{_word(value)}"


def _word(value: Any) -> str:
    """A value of an axis; a choice by its name and all settings given, so that no two are alike."""
    if isinstance(value, dict):
        tagged = [_word(value[tag]) for tag in _TAGS if tag in value]
        given = {key: part for key, part in value.items() if key not in _TAGS}
        nested = [
            _word(part) if isinstance(part, dict | list) else f"{key}={_word(part)}" for key, part in given.items()
        ]
        return "-".join(tagged + nested)
    if isinstance(value, list):
        return "+".join(_word(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _distinct_names(trials: list[Trial]) -> list[Trial]:
    counts = Counter(trial.name for trial in trials)
    return [
        trial
        if counts[trial.name] == 1
        else Trial(trial.trial_id, f"{trial.name}-{trial.trial_id}", trial.settings, trial.axes)
        for trial in trials
    ]


def missing(trials: list[Trial], outcomes: Mapping[str, Mapping[str, Any]], experiment: Experiment) -> list[Task]:
    """What is still to be done: trials that never ended, that failed, that a larger budget or more minutes continue, or
    that ended before a measurement of their end was asked for."""
    tasks = []
    for trial in trials:
        known = outcomes.get(trial.trial_id, {})
        if _is_out_of_time(known, experiment.budget):
            continue
        if not is_trained(trial, known, experiment):
            tasks.append(_task(trial, known, experiment.budget))
        elif lacks_measurement(known, experiment) and known.get("checkpoint") is not None:
            tasks.append(_continued(trial, known))
    return tasks


def _is_out_of_time(known: Mapping[str, Any], budget: Budget) -> bool:
    """Whether the trial's minutes were used up before it ended, and it is given no more."""
    minutes = budget.minutes
    return known.get("status") == "timeout" and minutes is not None and known["wall_seconds"] >= 60 * minutes


def is_trained(trial: Trial, known: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether the trial has ended and its budget, or its aim, is used up."""
    budget = experiment.budget
    if known.get("status") == "diverged":
        return True
    if known.get("status") != "finished":
        return False
    used_up = known["steps"] >= budget.last_step(known["learning_rate"], trial.settings.optimizer.schedule)
    if used_up or known["scaled_grad_norm_sq"] > experiment.stop_below:
        return used_up
    largest = known.get("running_max_scaled_grad_norm_sq")
    return largest is None or known["scaled_grad_norm_sq"] <= ROUNDED_UP * experiment.stop_share * largest


def lacks_measurement(known: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a trial that ended was not measured there in a way that is asked for now."""
    if known.get("status") != "finished":
        return False
    wanted = _wanted_at_end(frozenset(experiment.measure.items()))
    if wanted - set((known.get("measured") or "").split(",")):
        return True
    levels = experiment.levels
    return "certificate" in wanted and known.get("certified_at") != str(levels) and lacks_curvature(known, levels)


@lru_cache(maxsize=8)
def _wanted_at_end(measure: frozenset[tuple[str, Moments]]) -> frozenset[str]:
    """Measurements that are asked for at the end of every trial."""
    return frozenset(n for n, when in moments(dict(measure)).items() if n in CHOSEN and when.at_end)


def _task(trial: Trial, known: Mapping[str, Any], budget: Budget) -> Task:
    """Continue from the checkpoint, unless there is none or it is already past the budget."""
    rate = known.get("learning_rate")
    limit = budget.steps if rate is None else budget.last_step(rate, trial.settings.optimizer.schedule)
    if known.get("checkpoint") is None or known["steps"] > limit:
        return Task(trial_id=trial.trial_id, settings=trial.settings)
    return _continued(trial, known)


def _continued(trial: Trial, known: Mapping[str, Any]) -> Task:
    """Go on from the checkpoint."""
    return Task(
        trial_id=trial.trial_id,
        settings=trial.settings,
        checkpoint=known["checkpoint"],
        step=known["steps"],
        seconds=known.get("wall_seconds") or 0.0,
    )
