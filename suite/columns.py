"""Columns of the three result tables, by name and kind; importable without any table library."""

from __future__ import annotations

from collections.abc import Iterable

from suite.measurement.catalog import record_columns, trial_columns
from suite.measurement.registry import Column, Kind
from suite.measurement.stationarity import PASSAGE_COLUMNS, TRIAL_COLUMNS


def _columns(*groups: tuple[Kind, tuple[str, ...]]) -> dict[str, Kind]:
    return {name: kind for kind, names in groups for name in names}


def _kinds(columns: Iterable[Column]) -> dict[str, Kind]:
    return {column.name: column.kind for column in columns}


_MEASURED = _kinds(record_columns())

RECORDS = {
    **_columns(("text", ("trial_id",)), ("whole", ("step",)), ("number", ("time",)), ("whole", ("timestamp_ms",))),
    **_MEASURED,
    **_columns(("bool", ("final",))),
}
"""One measured step of one trial; layers are counted through the query tower, then the key tower."""

PASSAGES = {**_columns(("text", ("trial_id",))), **_kinds(PASSAGE_COLUMNS)}
"""When a trial first came below one threshold, and from which step on it stayed there."""

OUTCOMES = {
    **_columns(
        ("text", ("trial_id", "status", "ended_by", "error", "log_path")),
        ("whole", ("steps",)),
        ("number", ("time", "learning_rate", "loss_init", "scaled_grad_norm_sq_init")),
    ),
    **{name: kind for name, kind in _MEASURED.items() if kind != "list"},
    **_kinds(trial_columns()),
    **_kinds(TRIAL_COLUMNS),
    **_columns(
        ("text", ("measured", "certified_at")),
        ("whole", ("num_parameters",)),
        ("number", ("wall_seconds",)),
        ("whole", ("slots", "epoch", "attempt")),
        ("text", ("lane", "started_at", "ended_at", "checkpoint", "code_version", "torch_version")),
        ("text", ("python_version", "ray_version", "hardware", "host")),
    ),
}
"""How a trial ended: its part of trials.parquet beside its settings. Pending trials have a status and perhaps a
checkpoint; everything else is null."""


DERIVED_COLUMNS = (
    Column(
        name="twin_distance",
        formula="|ln G_t − ln G_t of the twin|, the trial that differs in `encoder.linearized` alone, at steps both "
        "recorded; of a trial, their mean",
    ),
)
"""Columns of records and trials that the analysis adds from the results of several trials."""
DERIVED = _kinds(DERIVED_COLUMNS)


def axis_column(path: str) -> str:
    """Where trials.parquet has the values of an axis: under its path, or beside a measurement of that name."""
    return f"{path}.choice" if path in OUTCOMES else path
