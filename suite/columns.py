"""Columns of the three result tables, by name and kind; importable without any table library."""

from __future__ import annotations

from typing import Literal

Kind = Literal["text", "whole", "number", "bool", "list"]

_MEASURED = (
    "loss",
    "grad_norm_sq",
    "scaled_grad_norm_sq",
    "running_min_scaled_grad_norm_sq",
    "running_mean_scaled_grad_norm_sq",
    "running_max_scaled_grad_norm_sq",
    "violating_share",
    "checkable_share",
    "displacement",
    "relative_displacement",
    "grad_norm_sq_query",
    "grad_norm_sq_key",
    "scaled_update_norm_sq",
    "dead_share_query",
    "dead_share_key",
    "clamped_share",
)


def _columns(*groups: tuple[Kind, tuple[str, ...]]) -> dict[str, Kind]:
    return {name: kind for kind, names in groups for name in names}


RECORDS = _columns(
    ("text", ("trial_id",)),
    ("whole", ("step",)),
    ("number", ("time",)),
    ("whole", ("timestamp_ms",)),
    ("number", _MEASURED),
    ("list", ("grad_norm_sq_by_layer",)),
    ("bool", ("final",)),
)
"""One measured step of one trial; layers are counted through the query tower, then the key tower."""

PASSAGES = _columns(
    ("text", ("trial_id",)),
    ("number", ("epsilon",)),
    ("bool", ("relative", "at_init", "reached")),
    ("whole", ("steps_to_stationarity",)),
    ("number", ("time_to_stationarity",)),
    ("whole", ("stay_steps",)),
)
"""When a trial first came below one threshold, and from which step on it stayed there."""

OUTCOMES = _columns(
    ("text", ("trial_id", "status", "ended_by", "error", "log_path")),
    ("whole", ("steps",)),
    ("number", ("time", "learning_rate", "loss_init", "scaled_grad_norm_sq_init", *_MEASURED, "slack")),
    ("bool", ("stationary", "descent_regime")),
    ("whole", ("num_parameters",)),
    ("number", ("wall_seconds",)),
    ("whole", ("slots", "epoch", "attempt")),
    ("text", ("lane", "started_at", "ended_at", "checkpoint", "code_version", "torch_version")),
    ("text", ("python_version", "ray_version", "hardware", "host")),
)
"""How a trial ended: its part of trials.parquet beside its settings. Pending trials have a status and perhaps a
checkpoint; everything else is null."""


def axis_column(path: str) -> str:
    """Where trials.parquet has the values of an axis: under its path, or beside a measurement of that name."""
    return f"{path}.choice" if path in OUTCOMES else path
