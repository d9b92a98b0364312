"""Columns of the three result tables, and the few operations on them: the one place that says what a row holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from suite import columns
from suite.columns import Kind

FORMAT_VERSION = 1
"""Written into every Parquet file; a reader takes its own and older ones."""

Row = dict[str, Any]

_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "bool": pa.bool_(),
    "list": pa.list_(pa.float64()),
}


def _schema(kinds: dict[str, Kind]) -> pa.Schema:
    return pa.schema([(name, _TYPES[kind]) for name, kind in kinds.items()])


RECORDS = _schema(columns.RECORDS)
PASSAGES = _schema(columns.PASSAGES)
OUTCOMES = _schema(columns.OUTCOMES)


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a key that a row lacks is null, and a key the schema lacks is an error."""
    rows = list(rows)
    there = {key for row in rows for key in row}
    unknown = there - set(schema.names)
    assert not unknown, f"columns without a place: {sorted(unknown)}"
    columns = [
        pa.array([row.get(field.name) for row in rows], field.type)
        if field.name in there
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def empty(schema: pa.Schema) -> pa.Table:
    """A table without rows."""
    return schema.empty_table()
