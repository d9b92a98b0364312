"""The experiment file's reference, made from the models: a JSON schema for editors and a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from suite import measurement_page
from suite.data.composition import Composition
from suite.experiment import PREDICTIONS, Experiment, TrialSettings
from suite.loading import models_of, registry_of, setting_paths
from suite.measurement.catalog import CHOSEN
from suite.measurement.moments import WORDS
from suite.registry import Settings

ROOT = Path(__file__).parent.parent

_INTRODUCTION = """# The experiment file

This page is generated from the models (`make reference`); `stillpoint init` prints a commented file to start from, and
`suite/experiment.schema.json` lets editors complete and check one: put
`# yaml-language-server: $schema=PATH/experiment.schema.json` in its first line.

A choice with a name, such as `loss`, is a mapping with that name and its settings, or the bare name: `coupling: joint`.
`data` and `learning_rate` are chosen by `source` and `rule`, and always mappings: `data: {source: sphere}`.
"""

_AXES = """## Axes

`sweep` maps the full path of a setting to an axis; the trials are all combinations, and the last axis runs fastest.

| written | values |
|---|---|
| `[32, 64, 128]` | these |
| `{range: 4}` | 0, 1, 2, 3 |
| `{log2: [32, 512]}` | both ends and the powers of two between |
| `{geometric: [0.1, 0.8, 4]}` | 4 values with equal ratios, both ends included; rounded for whole-number settings |
| `zip: [{encoder.width: [32, 64], data.samples: [16, 32]}]` | axes of one group move together |

Paths that may be swept: PATHS.

`--set encoder.width=64` overrides a setting, and replaces the axis of a swept one; the value is YAML, so
`--set "seed={range: 8}"` makes an axis. `profiles` holds named sets of such overrides; `--profile NAME` applies
one, and its results go to `<name>-<profile>`.
"""


def write(root: Path = ROOT) -> None:
    """Write all generated files where they are committed."""
    measurement_page.write(root)
    (root / "suite" / "experiment.schema.json").write_text(schema_text(), encoding="utf-8")
    (root / "docs" / "experiment.md").write_text(markdown(), encoding="utf-8")


def schema_text() -> str:
    """The JSON schema as it is committed."""
    return json.dumps(json_schema(), indent=1) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON schema of an experiment file."""
    schema = _object_schema(Experiment)
    properties = schema["properties"]
    axes = {path: {"$ref": "#/$defs/axis"} for path in setting_paths()}
    group = {"type": "object", "properties": axes, "additionalProperties": False, "minProperties": 1}
    properties["sweep"] |= {
        "type": ["object", "null"],
        "properties": {**axes, "zip": {"type": "array", "items": group}},
        "additionalProperties": False,
    }
    properties["profiles"] |= {"type": "object", "additionalProperties": {"type": "object"}}
    properties["predictions"]["items"] = {"enum": sorted(PREDICTIONS)}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "Stillpoint experiment", **schema, "$defs": {"axis": _axis_schema()}}


def _axis_schema() -> dict[str, Any]:
    positive = {"type": "number", "exclusiveMinimum": 0}
    forms = {
        "range": {"type": "integer", "minimum": 1},
        "log2": {"type": "array", "items": positive, "minItems": 2, "maxItems": 2},
        "geometric": {"type": "array", "items": positive, "minItems": 3, "maxItems": 3},
    }
    generated = [
        {"type": "object", "properties": {name: form}, "required": [name], "additionalProperties": False}
        for name, form in forms.items()
    ]
    return {"anyOf": [{"type": "array", "minItems": 1}, *generated]}


def _object_schema(model: type[BaseModel]) -> dict[str, Any]:
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    tag = _tag(model)
    return {
        "type": "object",
        "properties": {name: _field_schema(name, field, model) for name, field in model.model_fields.items()},
        "required": [*required, tag] if tag else required,
        "additionalProperties": False,
    }


def _field_schema(name: str, field: FieldInfo, model: type[BaseModel]) -> dict[str, Any]:
    described = {"description": _one_line(field.description)} if field.description else {}
    choices, registry = models_of(field.annotation, field.metadata), registry_of(field)
    if registry is not None:
        forms = [_object_schema(choice) for choice in choices]
        if Composition in choices:
            forms.append(_field_schema("views", Composition.model_fields["views"], Composition))
        bare = {"enum": sorted(choice for choice in registry if registry[choice] is not Composition)}
        return {**described, "anyOf": [*forms, *([bare] if registry.tag == "name" else [])]}
    if choices and get_origin(field.annotation) is tuple:
        bare = {"enum": sorted(choice.model_fields["name"].default for choice in choices)}
        items = {"anyOf": [*(_object_schema(choice) for choice in choices), bare]}
        return {**described, "type": "array", "items": items, "minItems": 1}
    if choices and name != "laws":
        return (
            {**described, **_object_schema(choices[0])}
            if field.is_required() or name != "key"
            else {**described, "anyOf": [_object_schema(choices[0]), {"type": "null"}]}
        )
    if name == "laws":
        return {**described, "type": "array", "items": _object_schema(choices[0])}
    if name == "epsilons":
        listed = {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 1}
        return {**described, "anyOf": [listed, _axis_schema()["anyOf"][3]]}
    if name in ("x", "by", "epsilon"):
        item = {"type": "string"} if name != "epsilon" else {"type": "number", "exclusiveMinimum": 0}
        return {**described, "anyOf": [item, {"type": "array", "items": item}]}
    if name == "measure":
        return {**described, **_measure_schema()}
    generated = model.model_json_schema()["properties"][name]
    return {key: value for key, value in generated.items() if key not in ("title", "default")} | described


def _measure_schema() -> dict[str, Any]:
    every = {
        "type": "object",
        "properties": {"every": {"type": "integer", "minimum": 1}},
        "additionalProperties": False,
    }
    moment = {"anyOf": [{"enum": list(WORDS)}, every]}
    form = {"anyOf": [*moment["anyOf"], {"type": "array", "items": moment}]}
    of_record = {"type": "object", "properties": dict.fromkeys(CHOSEN, form), "additionalProperties": False}
    return {"anyOf": [{"const": "none"}, of_record]}


def markdown() -> str:
    """docs/experiment.md."""
    top = [name for name in Experiment.model_fields if name not in TrialSettings.model_fields]
    parts = [_INTRODUCTION, "## The experiment\n", _table(Experiment, top)]
    parts += ["## What determines a trial's numbers\n", _table(TrialSettings)]
    parts += list(_sections(Experiment, seen=set()))
    paths = ", ".join(f"`{path}`" for path in sorted(setting_paths()))
    return "\n".join([*parts, _AXES.replace("PATHS", paths)])


def _sections(model: type[BaseModel], *, seen: set[type[BaseModel]], where: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        path = f"{where}{name}"
        registry = registry_of(field)
        for choice in models_of(field.annotation, field.metadata):
            if choice in seen:
                continue
            seen.add(choice)
            tag = "" if registry is None else f" with `{registry.tag}: {choice.model_fields[registry.tag].default}`"
            yield f"## `{path}`{tag}\n\n{_one_line(choice.__doc__)}\n"
            yield _table(choice, [field for field in choice.model_fields if registry is None or field != registry.tag])
            yield from _sections(choice, seen=seen, where=f"{path}.")


def _table(model: type[BaseModel], names: Iterable[str] | None = None) -> str:
    names = list(model.model_fields if names is None else names)
    if not names:
        return ""
    rows = [_row(name, model.model_fields[name], model) for name in names]
    return "\n".join(["| key | allowed | default | meaning |", "|---|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo, model: type[BaseModel]) -> str:
    default = "required" if field.is_required() else f"`{_default(field.get_default(call_default_factory=True))}`"
    return f"| `{name}` | {_allowed(name, field, model)} | {default} | {_one_line(field.description)} |"


def _default(value: Any) -> str:
    if isinstance(value, Settings):
        tag = _tag(type(value))
        return str(getattr(value, tag)) if tag else "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"{value[0]:g} … {value[-1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _allowed(name: str, field: FieldInfo, model: type[BaseModel]) -> str:
    registry = registry_of(field)
    if registry is not None:
        names = [f"`{choice}`" for choice in registry if registry[choice] is not Composition]
        return " or ".join([*names, "a list of these"] if len(names) < len(list(registry)) else names)
    if get_origin(field.annotation) is tuple and models_of(field.annotation):
        return "a list"
    if models_of(field.annotation, field.metadata):
        return "a list of mappings" if name == "laws" else "a mapping"
    if name == "measure":
        return "`none`, or moments by measurement: " + ", ".join(f"`{choice}`" for choice in sorted(CHOSEN))
    if name == "predictions":
        return "any of " + ", ".join(f"`{prediction}`" for prediction in sorted(PREDICTIONS))
    generated = model.model_json_schema()["properties"][name]
    options = [option for option in generated.get("anyOf", [generated]) if option.get("type") != "null"]
    if "enum" in options[0]:
        return " or ".join(f"`{choice}`" for choice in options[0]["enum"])
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    kind = words.get(options[0].get("type", ""), {"array": "a list"}.get(options[0].get("type", ""), "a mapping"))
    return " ".join([kind, *_bounds(field, options[0])])


def _bounds(field: FieldInfo, option: dict[str, Any]) -> list[str]:
    words = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    found = [f"{words[type(m)][0]} {getattr(m, words[type(m)][1])}" for m in field.metadata if type(m) in words]
    return found or ([f"matching `{option['pattern']}`"] if "pattern" in option else [])


def _tag(model: type[BaseModel]) -> str | None:
    candidates = (tag for tag in ("source", "rule", "name") if tag in model.model_fields)
    return next((tag for tag in candidates if isinstance(model.model_fields[tag].default, str)), None)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
