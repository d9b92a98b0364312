"""Columns of the three result tables, by name and kind; importable without any table library."""

from __future__ import annotations

from suite.measurement.catalog import record_columns, trial_columns
from suite.measurement.registry import Kind


def _columns(*groups: tuple[Kind, tuple[str, ...]]) -> dict[str, Kind]:
    return {name: kind for kind, names in groups for name in names}


_MEASURED = {column.name: column.kind for column in record_columns()}

RECORDS = {
    **_columns(("text", ("trial_id",)), ("whole", ("step",)), ("number", ("time",)), ("whole", ("timestamp_ms",))),
    **_MEASURED,
    **_columns(("bool", ("final",))),
}
"""One measured step of one trial; layers are counted through the query tower, then the key tower."""

PASSAGES = _columns(
    ("text", ("trial_id",)),
    ("number", ("epsilon",)),
    ("bool", ("relative", "at_init", "reached")),
    ("whole", ("steps_to_stationarity",)),
    ("number", ("time_to_stationarity",)),
    ("whole", ("stay_steps",)),
    ("bool", ("unstable",)),
)
"""When a trial first came below one threshold, and from which step on it stayed there."""

OUTCOMES = {
    **_columns(
        ("text", ("trial_id", "status", "ended_by", "error", "log_path")),
        ("whole", ("steps",)),
        ("number", ("time", "learning_rate", "loss_init", "scaled_grad_norm_sq_init")),
    ),
    **{name: kind for name, kind in _MEASURED.items() if kind != "list"},
    **{column.name: column.kind for column in trial_columns()},
    **_columns(
        ("bool", ("unstable", "descent_regime")),
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


DERIVED: dict[str, Kind] = {"twin_distance": "number"}
"""Columns of trials that the analysis adds from the results of several."""


def axis_column(path: str) -> str:
    """Where trials.parquet has the values of an axis: under its path, or beside a measurement of that name."""
    return f"{path}.choice" if path in OUTCOMES else path
