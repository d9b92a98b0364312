"""From a YAML file, a profile and overrides to an Experiment; every problem is told with its place."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from suite.axes import AxisError, axis_values
from suite.experiment import Experiment, TrialSettings
from suite.law_columns import law_problems
from suite.measurement.catalog import CHOSEN
from suite.registry import Registry
from suite.trials import EquivalentCellsError, cells, expand
from suite.yaml_source import ExperimentError, Path_, YamlSource, parse_value, read_yaml

MOST_TRIALS = 1_000_000


def load_experiment(path: str | Path, *, overrides: Sequence[str] = (), profile: str | None = None) -> Experiment:
    """The experiment of a YAML file.

    `overrides` are `a.b=value`, the value in YAML; one on a swept key replaces its axis. `profile` applies the
    file's overrides of that name first, and appends itself to the experiment's name.

    Raises:
        ExperimentError: all problems found, one per line, each with file:line, what was given and what is allowed.
    """
    source = read_yaml(path)
    places: dict[Path_, str] = {}
    if profile is not None:
        _apply_profile(source, profile, places)
    for override in overrides:
        key, value = _parse_override(override)
        _set(source.data, key, value, source, places, f"--set {override}")
    return _Validation(source, places, profile).experiment()


def _apply_profile(source: YamlSource, profile: str, places: dict[Path_, str]) -> None:
    profiles = source.data.get("profiles")
    known = list(profiles) if isinstance(profiles, dict) else []
    if profile not in known:
        raise ExperimentError(f"--profile {profile}: {source.file} has {_listed(known, 'no profiles')}")
    assert isinstance(profiles, dict)
    overrides = profiles[profile]
    if not isinstance(overrides, dict):
        return  # told with the file's other problems
    for path, value in _leaves(overrides):
        if path == ("sweep",):
            source.data["sweep"], places[path] = value, source.place(("profiles", profile, *path))
            continue
        lines = source.place(("profiles", profile, *path))
        key = ".".join(path)
        _set(source.data, key, value, source, places, lines, axis=path[0] == "sweep")
    source.data["name"] = f"{source.data.get('name')}-{profile}"


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    generated = isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("range", "log2", "geometric")
    if isinstance(value, dict) and not generated:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ExperimentError(f"--set {override}: write KEY=VALUE, such as --set encoder.width=64")
    try:
        return key.strip(), parse_value(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"--set {override}: the value is not YAML: {error}".splitlines()[0]) from None


def _set(
    data: dict[str, Any],
    key: str,
    value: Any,
    source: YamlSource,
    places: dict[Path_, str],
    place: str,
    *,
    axis: bool = False,
) -> None:
    """Put an override where it belongs: it replaces an axis, adds one, or sets a value."""
    key = key.removeprefix("sweep.")
    sweep = data["sweep"] = dict(data["sweep"]) if isinstance(data.get("sweep"), dict) else {}
    is_axis = (
        axis
        or (isinstance(value, list) and key.partition(".")[0] not in ("epsilons", "laws", "predictions", "measure"))
        or _is_generator(value, key)
    )
    if is_axis:
        data["sweep"] = _with_axis(sweep, key, value)
        places[("sweep", key)] = place
        return
    sweep.pop(key, None)
    _drop_from_zip(sweep, key)
    if key.startswith("measure.") and data.get("measure") == "none":
        data["measure"] = dict.fromkeys(CHOSEN, "never")
    path: Path_ = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    places |= dict.fromkeys([*_replaced(data, path), path], place)
    data[str(path[0])] = _put(data.get(str(path[0])), path[1:], value)


def _with_axis(sweep: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The sweep with an axis where it was, or where it moved together with others; a new one comes last."""
    left = dict(sweep)
    if key in sweep or not _drop_from_zip(left, key):
        return sweep | {key: value}
    made: dict[str, Any] = {}
    for name in sweep:
        made |= {name: left[name]} if name in left else {}
        made |= {key: value} if name == "zip" else {}
    return made


def _replaced(data: Any, path: Path_) -> Iterable[Path_]:
    """Where a mapping must be made for a value at this path; a choice given by its name becomes one unharmed."""
    for length in range(1, len(path)):
        data = data.get(path[length - 1]) if isinstance(data, dict) else None
        if isinstance(data, list):
            return
        is_choice = isinstance(data, str) and ".".join(map(str, path[:length])) in _choice_paths()
        if not isinstance(data, dict) and not is_choice:
            yield path[:length]


def _put(present: Any, path: Path_, value: Any) -> Any:
    """What is there, with the value at a path below it; a number in the path is that item of a list."""
    if not path:
        return value
    part, rest = path[0], path[1:]
    if isinstance(present, list) and isinstance(part, int) and part < len(present):
        return [*present[:part], _put(present[part], rest, value), *present[part + 1 :]]
    inner = present if isinstance(present, dict) else {"name": present} if isinstance(present, str) else {}
    return {**inner, part: _put(inner.get(part), rest, value)}


def _is_generator(value: Any, key: str) -> bool:
    kinds = ("range", "log2", "geometric")
    return key != "epsilons" and isinstance(value, dict) and len(value) == 1 and next(iter(value)) in kinds


def _drop_from_zip(sweep: dict[str, Any], key: str) -> bool:
    """Take an axis out of the groups that move together, if it is in one."""
    groups = sweep.get("zip")
    if not isinstance(groups, list) or not any(isinstance(g, dict) and key in g for g in groups):
        return False
    left = [{k: v for k, v in g.items() if k != key} if isinstance(g, dict) else g for g in groups]
    sweep["zip"] = [group for group in left if group]
    if not sweep["zip"]:
        del sweep["zip"]
    return True


class _Validation:
    """Checks one source and gathers its problems."""

    def __init__(self, source: YamlSource, places: dict[Path_, str], profile: str | None) -> None:
        self._source, self._places, self._profile = source, places, profile
        self._problems: list[tuple[int, str]] = []

    def experiment(self) -> Experiment:
        """The experiment, or all problems at once."""
        data = dict(self._source.data)
        data["sweep"] = self._sweep(data.get("sweep"))
        self._check_profiles(data.get("profiles"))
        experiment = None
        try:
            experiment = Experiment.model_validate(data)
        except ValidationError as error:
            self._note(error)
        if experiment is not None and not self._problems:
            self._check_cells(experiment)
        if experiment is None or self._problems:
            in_order = sorted(self._problems, key=lambda problem: problem[0])
            raise ExperimentError("\n".join(dict.fromkeys(words for _, words in in_order)))
        return experiment

    def _say(self, path: Path_, words: str) -> None:
        place = next((self._places[path[:k]] for k in range(len(path), 0, -1) if path[:k] in self._places), None)
        line = 0 if place else self._source.line(path)
        self._problems.append((line, f"{place or self._source.place(path)}: {words}"))

    def _sweep(self, sweep: Any) -> dict[str, Any]:
        """Every axis as a list of values."""
        if sweep is None:
            return {}
        if not isinstance(sweep, dict):
            self._say(("sweep",), f"sweep: got {sweep!r}; write a mapping of setting paths to axes")
            return {}
        resolved: dict[str, Any] = {}
        for key, form in sweep.items():
            if key == "zip":
                resolved["zip"] = self._zip(form, {str(key) for key in sweep})
            elif self._sweepable(("sweep", key), str(key)):
                resolved[str(key)] = self._axis(("sweep", key), str(key), form)
        return resolved

    def _check_profiles(self, profiles: Any) -> None:
        """The keys of profiles that are not applied; the one that is, is checked where its values went."""
        known = {path for path, _ in _paths(Experiment, "")} | set(Experiment.model_fields) - {"profiles"}
        known |= {path for name in CHOSEN for path in (f"measure.{name}", f"measure.{name}.every")}
        for name, overrides in profiles.items() if isinstance(profiles, dict) else ():
            for path, _ in _leaves(overrides) if isinstance(overrides, dict) and name != self._profile else ():
                place: Path_ = ("profiles", name, *path)
                key = ".".join(part for part in path if not part.isdigit())
                if path[0] == "sweep" and len(path) > 1:
                    if path[1] != "zip":
                        self._sweepable(place, ".".join(path[1:]))
                elif key not in known:
                    self._say(place, f"unknown key {'.'.join(path)!r} in profile {name!r}{_nearest(key, known)}")

    def _zip(self, groups: Any, taken: set[str]) -> list[dict[str, list[Any]]]:
        if not (isinstance(groups, list) and groups and all(isinstance(g, dict) and g for g in groups)):
            self._say(
                ("sweep", "zip"),
                "zip: write a list of groups, such as [{encoder.width: [32, 64], data.samples: [16, 32]}]",
            )
            return []
        resolved = []
        for index, given in enumerate(groups):
            place: Path_ = ("sweep", "zip", index)
            group = {str(key): form for key, form in given.items()}
            for key in set(group) & taken:
                self._say((*place, key), f"{key} is swept twice; keep one of its axes")
            taken |= set(group)
            axes = {
                key: self._axis((*place, key), key, form)
                for key, form in group.items()
                if self._sweepable((*place, key), key)
            }
            lengths = {key: len(values) for key, values in axes.items()}
            if len(set(lengths.values())) > 1:
                self._say(place, f"axes that move together need equal lengths; got {lengths}")
            else:
                resolved.append(axes)
        return resolved

    def _sweepable(self, place: Path_, key: str) -> bool:
        known = setting_paths()
        if key in known:
            return True
        if key.partition(".")[0] in set(Experiment.model_fields) - set(TrialSettings.model_fields):
            words = f"{key} cannot be swept: it does not determine a trial's numbers; use --set or a profile"
        else:
            words = f"unknown setting {key!r} in sweep{_nearest(key, known)}"
        self._say(place, words)
        return False

    def _axis(self, place: Path_, key: str, form: Any) -> list[Any]:
        try:
            values = axis_values(form)
        except AxisError as error:
            self._say(place, f"{key}: {error}")
            return []
        whole = setting_paths().get(key) is int and not isinstance(form, list)
        rounded = [round(value) if whole and isinstance(value, float) else value for value in values]
        return list(dict.fromkeys(rounded)) if whole else rounded

    def _check_cells(self, experiment: Experiment) -> None:
        """Every value of every axis in a cell that is allowed otherwise, for its own line; then the whole grid."""
        count = math.prod([len(v) for k, v in experiment.sweep.items() if k != "zip"])
        count *= math.prod([len(next(iter(g.values()))) for g in experiment.sweep.get("zip", [])])
        if count > MOST_TRIALS:
            self._say(
                ("sweep",), f"the sweep has {count:,} trials, and at most {MOST_TRIALS:,} are allowed; shorten an axis"
            )
            return
        start = _allowed_cell(experiment)
        if start is None:
            start = {}
            try:
                _check_cell(experiment, start)
            except ValidationError as error:
                self._note(error)
                return
        for row, places in _rows(experiment.sweep):
            try:
                _check_cell(experiment, {**start, **row})
            except ValidationError as error:
                self._note(error, row, places)
        if self._problems:
            return
        try:
            trials = expand(experiment).trials
            for path, words in law_problems(experiment.laws, trials, _choice_paths()):
                self._say(path, words)
        except ValidationError as error:
            self._note(error, places={"": ("sweep",)})
        except EquivalentCellsError as error:
            self._say(("sweep", "encoder.parametrization"), str(error))

    def _note(
        self, error: ValidationError, row: dict[str, Any] | None = None, places: dict[str, Path_] | None = None
    ) -> None:
        """Say what pydantic found: in the file itself, or at the `places` of the axes that take the values of `row`."""
        data = self._source.data if row is None else _nested(row)
        for problem in error.errors(include_url=False):
            path = problem.get("ctx", {}).get("path") or _yaml_path(problem["loc"], data)
            tag = (_discriminator(problem),) if problem["type"] == "union_tag_invalid" else ()
            self._say((*_place(path, places), *tag), _words(problem, path))


def _allowed_cell(experiment: Experiment) -> dict[str, Any] | None:
    """The first cell of the grid whose settings go together, if there is one among its first thousand."""
    for cell in itertools.islice(cells(experiment.sweep), 1000):
        with suppress(ValidationError):
            _check_cell(experiment, cell)
            return cell
    return None


def _check_cell(experiment: Experiment, cell: dict[str, Any]) -> None:
    expand(experiment.model_copy(update={"sweep": {key: [value] for key, value in cell.items()}}))


def _rows(sweep: dict[str, Any]) -> Iterable[tuple[dict[str, Any], dict[str, Path_]]]:
    """Each value of each axis, or each row of axes that move together, with the places where its values stand."""
    for key, values in sweep.items():
        groups = values if key == "zip" else [{key: values}]
        for number, group in enumerate(groups):
            above: Path_ = ("sweep", "zip", number) if key == "zip" else ("sweep",)
            for index, row in enumerate(zip(*group.values(), strict=True)):
                yield dict(zip(group, row, strict=True)), {path: (*above, path, index) for path in group}


def _nested(row: dict[str, Any]) -> Any:
    """Values by their full path as the mapping that a file would hold."""
    data: Any = {}
    for key, value in row.items():
        data = _put(data, tuple(key.split(".")), value)
    return data


def _place(path: Path_, places: dict[str, Path_] | None) -> Path_:
    """Where a setting stands: at its path, or below the axis that it is part of, or else at the first axis."""
    if places is None:
        return path
    for key, place in places.items():
        above = tuple(key.split("."))
        if path[: len(above)] == above:
            return (*place, *path[len(above) :])
    return next(iter(places.values()))


def _yaml_path(loc: tuple[int | str, ...], data: Any) -> Path_:
    """pydantic's location as the file has it: choices are not keys, and a list of views is entered by index alone."""
    path: list[str | int] = []
    here = data
    for part, is_choice, _ in _steps(loc):
        if is_choice or (isinstance(here, list) and isinstance(part, str)):
            continue
        path.append(part)
        if isinstance(here, list):
            here = here[part] if isinstance(part, int) and part < len(here) else None
        else:
            here = here.get(part) if isinstance(here, dict) else None
    return tuple(path)


def _steps(loc: tuple[int | str, ...]) -> Iterable[tuple[int | str, bool, list[type[BaseModel]]]]:
    """Each part of pydantic's location, whether it names the choice made there, and the classes that may follow."""
    models: list[type[BaseModel]] = [Experiment]
    choosing = False
    for part in loc:
        chosen = [model for model in models if choosing and part == _choice(model)]
        if chosen:
            models, choosing = chosen, False
        elif isinstance(part, str):
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models, choosing = (
                [inner for field in fields for inner in models_of(field.annotation, field.metadata)],
                True,
            )
        yield part, bool(chosen), models


def _models_at(loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """Classes of settings that may stand at pydantic's location."""
    models: list[type[BaseModel]] = [Experiment]
    for _, _, inner in _steps(loc):
        models = inner
    return models


_TAGS = ("source", "rule", "name")


def _choice(model: type[BaseModel]) -> str | None:
    """The name by which a registry knows this class."""
    defaults = (model.model_fields[tag].default for tag in _TAGS if tag in model.model_fields)
    return next((default for default in defaults if isinstance(default, str)), None)


def _words(problem: Any, path: Path_) -> str:
    key = ".".join(str(part) for part in path)
    given = problem.get("input")
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = {name for model in _models_at(problem["loc"][:-1]) for name in model.model_fields}
        return f"unknown key {key!r}{_nearest(str(path[-1]), known)}"
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind.startswith("union_tag"):
        return _tag_words(key, problem)
    if kind in ("value_error", "located"):
        return f"{key}: {message}" if key else message
    if kind == "model_attributes_type":
        models = _models_at(problem["loc"])
        tag = next(tag for tag in _TAGS if all(tag in model.model_fields for model in models))
        return f"{key}: got {_shown(given)}; write {{{tag}: ...}} with one of {', '.join(_choices(models))}"
    return f"{key}: got {_shown(given)}; {_ALLOWED.get(kind, _other_words(message)).format(**problem.get('ctx', {}))}"


_MAPPING = "write a mapping of its keys, or leave it out"
_ALLOWED = {
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "string_type": "write text; quotes make text of a number",
    "list_type": "write a list",
    "tuple_type": "write a list",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "greater_than": "it must be greater than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "finite_number": "it must be finite",
    "literal_error": "write {expected}",
    "string_pattern_mismatch": "use lower-case letters, digits, dots, dashes and underscores, a letter or digit first",
    "string_too_long": "use at most {max_length} characters",
    "too_short": "write at least {min_length}",
    "invalid_key": "keys must be text",
}


def _other_words(message: str) -> str:
    return (message[0].lower() + message[1:]).replace("{", "{{").replace("}", "}}")


def _shown(value: Any) -> str:
    """A value as YAML has it, cut where it is long."""
    if value is None:
        return "nothing"
    words = str(value).lower() if isinstance(value, bool) else repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


def _tag_words(key: str, problem: Any) -> str:
    context, tag = problem.get("ctx", {}), _discriminator(problem)
    known = _choices(_models_at(problem["loc"]))
    if "tag" in context:
        return f"{key}: unknown {tag} {context['tag']!r}{_nearest(context['tag'], known)}"
    return f"{key}: got {_shown(problem.get('input'))}, without its {tag!r}; add one of {', '.join(known)}"


def _discriminator(problem: Any) -> str:
    return str(problem.get("ctx", {}).get("discriminator", "name")).strip("'")


def _choices(models: list[type[BaseModel]]) -> list[str]:
    return [choice for model in models if (choice := _choice(model)) is not None]


def _nearest(key: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(known)}" if len(known) <= 40 else hint


def _listed(names: list[str], none: str) -> str:
    return f"the profiles {', '.join(names)}" if names else none


def setting_paths() -> dict[str, Any]:
    """Every path of a trial's settings that a sweep may vary, with its type."""
    return dict(_paths(TrialSettings, ""))


def _choice_paths() -> set[str]:
    """Settings that hold a choice, such as `coupling`, by their full path and their last component."""
    paths = [path for path, kind in setting_paths().items() if models_of(kind)]
    return {name for path in paths for name in (path, path.rpartition(".")[2])}


def _paths(model: type[BaseModel], prefix: str) -> Iterable[tuple[str, Any]]:
    for name, spec in model.model_fields.items():
        path = f"{prefix}{name}"
        if get_origin(spec.annotation) in (list, tuple) and models_of(spec.annotation):
            continue  # a list of choices is swept as a whole, by the setting that holds it
        yield path, spec.annotation
        for inner in models_of(spec.annotation, spec.metadata):
            yield from _paths(inner, f"{path}.")


def models_of(annotation: Any, metadata: Iterable[Any] = ()) -> list[type[BaseModel]]:
    """Settings classes a field may hold."""
    for mark in metadata:
        if isinstance(mark, Registry):
            return [mark[name] for name in mark]
    if get_origin(annotation) is Annotated:
        return models_of(get_args(annotation)[0], get_args(annotation)[1:])
    if get_origin(annotation) in (Union, UnionType, list, tuple):
        return [model for part in get_args(annotation) for model in models_of(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def registry_of(field: FieldInfo) -> Registry[Any] | None:
    """The registry whose choices a field takes, if it does."""
    return next((mark for mark in field.metadata if isinstance(mark, Registry)), None)
