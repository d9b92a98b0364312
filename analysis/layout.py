"""How the trials of a sweep are laid out for people: one numeric axis along x, groups of trials by the others, and
words for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frames import Results, short

NOTHING_SPECIAL = "baseline"
"""The group in which every yes-or-no setting is as in most groups."""
_TAGS = ("name", "source", "rule")


@dataclass(frozen=True)
class Group:
    """Trials that share a value of each of some settings."""

    title: str
    """Such as `depth 2, cosine`; empty if there is only one group."""
    values: dict[str, Any]
    """By the settings' full paths."""

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of the group; the frame has the settings' columns."""
        mask = pd.Series(True, frame.index)
        for column, value in self.values.items():
            mask &= frame[column].isna() if pd.isna(value) else frame[column] == value
        return frame[mask]


def main_axes(results: Results) -> tuple[str | None, list[str]]:
    """The axis to put along x, the first numeric one of the sweep but the seed, and the axes that make groups.

    Axes with one value are left out, and those that move with one before them, so that its value tells theirs.
    """
    trials = results.trials
    varying = [a for a in results.axes if a != "seed" and a in trials and trials[a].nunique(dropna=False) > 1]
    kept: list[str] = []
    for axis in varying:
        if all(trials.groupby(known, dropna=False)[axis].nunique(dropna=False).max() > 1 for known in kept):
            kept.append(axis)
    first = next((axis for axis in kept if is_numeric(trials[axis])), None)
    return first, [axis for axis in kept if axis != first]


def groups(results: Results, axes: Sequence[str]) -> list[Group]:
    """The trials by the values of these settings, in the order of the sweep."""
    rows = results.trials[list(axes)].drop_duplicates().to_dict("records") if axes else [{}]
    values = [{str(axis): value for axis, value in row.items()} for row in rows]
    return [Group(_title(results, row), row) for row in values]


def is_numeric(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers; yes and no are none."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def word(value: Any) -> str:
    """A value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def labels(results: Results, axis: str) -> dict[Any, str]:
    """Words for each value of an axis.

    A choice that is spelt with its settings, such as `gd-momentum0.9`, is told by its name where no other has that
    name, and else by its name and the settings in which those differ.
    """
    values = results.trials[axis].drop_duplicates().tolist()
    plain = {value: word(value) for value in values}
    path = axis.removesuffix(".choice")
    tag = next((f"{path}.{tag}" for tag in _TAGS if f"{path}.{tag}" in results.trials), None)
    if tag is None:
        return plain
    first = results.trials.drop_duplicates(axis).set_index(axis)
    named = {value: str(first.loc[value, tag]) for value in values}
    if not all(str(value).startswith(name) for value, name in named.items()):
        return plain
    told = {value: _told_apart(first, path, [v for v in values if named[v] == named[value]], value) for value in values}
    made = {value: ", ".join([named[value], *told[value]]) for value in values}
    return made if len(set(made.values())) == len(values) else plain


def _told_apart(first: pd.DataFrame, path: str, namesakes: list[Any], value: Any) -> list[str]:
    """The settings in which a value's namesakes differ, with those it has."""
    inside = [column for column in first.columns if column.startswith(f"{path}.") and not column.endswith(".choice")]
    differing = [c for c in inside if first.loc[namesakes, c].nunique(dropna=False) > 1]
    differing.sort(key=lambda column: column.count("."))
    return [_setting(c, first.loc[value, c]) for c in differing if not pd.isna(first.loc[value, c])]


def _setting(column: str, value: Any) -> str:
    """`momentum 0.9`, and `cosine` rather than `name cosine`."""
    return word(value) if short(column) in _TAGS else f"{short(column)} {word(value)}"


def _title(results: Results, row: dict[str, Any]) -> str:
    usual = {axis: _usual(results.trials, axis, list(row)) for axis in row}
    parts = [_part(results, axis, value) for axis, value in row.items() if usual[axis] is None or value != usual[axis]]
    return ", ".join(parts) if parts or not row else NOTHING_SPECIAL


def _part(results: Results, axis: str, value: Any) -> str:
    if isinstance(value, bool):
        return short(axis) if value else f"no {short(axis)}"
    return f"{short(axis)} {labels(results, axis).get(value, word(value))}"


def _usual(trials: pd.DataFrame, axis: str, axes: list[str]) -> bool | None:
    """What a yes-or-no setting is in more than half of the groups; None where there is no such thing."""
    if not pd.api.types.is_bool_dtype(trials[axis]):
        return None
    counts = trials[axes].drop_duplicates()[axis].value_counts(normalize=True)
    return bool(counts.index[0]) if counts.iloc[0] > 0.5 and len(counts) > 1 else None
