"""Columns of the three result tables, and the few operations on them: the one place that says what a row holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

FORMAT_VERSION = 1
"""Written into every Parquet file; a reader takes its own and older ones."""

Row = dict[str, Any]

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


def _schema(*groups: tuple[pa.DataType, tuple[str, ...]]) -> pa.Schema:
    return pa.schema([(name, kind) for kind, names in groups for name in names])


RECORDS = _schema(
    (pa.string(), ("trial_id",)),
    (pa.int64(), ("step",)),
    (pa.float64(), ("time",)),
    (pa.int64(), ("timestamp_ms",)),
    (pa.float64(), _MEASURED),
    (pa.list_(pa.float64()), ("grad_norm_sq_by_layer",)),
    (pa.bool_(), ("final",)),
)
"""One measured step of one trial; layers are counted through the query tower, then the key tower."""

PASSAGES = _schema(
    (pa.string(), ("trial_id",)),
    (pa.float64(), ("epsilon",)),
    (pa.bool_(), ("relative", "at_init", "reached")),
    (pa.int64(), ("steps_to_stationarity",)),
    (pa.float64(), ("time_to_stationarity",)),
    (pa.int64(), ("stay_steps",)),
)
"""When a trial first came below one threshold, and from which step on it stayed there."""

OUTCOMES = _schema(
    (pa.string(), ("trial_id", "status", "ended_by", "error", "log_path")),
    (pa.int64(), ("steps",)),
    (pa.float64(), ("time", "learning_rate", "loss_init", "scaled_grad_norm_sq_init", *_MEASURED, "slack")),
    (pa.bool_(), ("stationary", "descent_regime")),
    (pa.int64(), ("num_parameters",)),
    (pa.float64(), ("wall_seconds",)),
    (pa.int64(), ("slots", "epoch", "attempt")),
    (pa.string(), ("lane", "started_at", "ended_at", "checkpoint", "code_version", "torch_version")),
    (pa.string(), ("python_version", "ray_version", "hardware", "host")),
)
"""How a trial ended: its part of trials.parquet beside its settings. Pending trials have a status and perhaps a
checkpoint; everything else is null."""


def axis_column(path: str) -> str:
    """Where trials.parquet has the values of an axis: under its path, or beside a measurement of that name."""
    return f"{path}.choice" if path in OUTCOMES.names else path


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a key that a row lacks is null, and a key the schema lacks is an error."""
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(schema.names)
    assert not unknown, f"columns without a place: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


def empty(schema: pa.Schema) -> pa.Table:
    """A table without rows."""
    return schema.empty_table()
