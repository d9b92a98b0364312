"""From which width on trials become stationary: shares with their uncertainty, and the threshold in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frames import ENDED, Results
from analysis.intervals import wilson_interval
from analysis.laws_of_sweep import short, word

MOST = 0.9
"""A width counts as stationary if at least this share of its trials is."""


def stationary_shares(results: Results, axes: list[str]) -> pd.DataFrame:
    """Trials that ended, by the values of `axes`: count, stationary, share, and its Wilson 95% interval."""
    ended = results.trials[results.trials.status.isin(ENDED)]
    flags = ended.assign(stationary=ended.stationary.fillna(False).astype(bool))
    counted = flags.groupby(axes, observed=True).stationary.agg(["size", "sum"]).reset_index()
    counted = counted.rename(columns={"size": "trials", "sum": "stationary"})
    bounds = [wilson_interval(int(s), int(n)) for s, n in zip(counted.stationary, counted.trials, strict=True)]
    shares = counted.stationary / counted.trials
    return counted.assign(share=shares, low=[b[0] for b in bounds], high=[b[1] for b in bounds])


@dataclass(frozen=True)
class Threshold:
    """The smallest width from which on most trials are stationary, for one group of trials."""

    group: dict[str, Any]
    below: Any
    """The largest value at which they are not; None if all are."""
    at: Any
    """The smallest value from which on they are; None if the largest is not."""
    smallest: Any
    largest: Any
    axis: str

    def sentence(self) -> str:
        """The threshold in words."""
        name = short(self.axis)
        where = ", ".join(f"{short(key)} {word(value)}" for key, value in self.group.items())
        start = f"{where}: " if where else ""
        if self.at is None:
            return f"{start}training does not become stationary up to {name} {word(self.largest)}."
        if self.below is None:
            return f"{start}training is stationary from the smallest {name} tried, {word(self.smallest)}, on."
        return f"{start}training becomes stationary between {name} {word(self.below)} and {word(self.at)}."


def main_axes(results: Results) -> tuple[str | None, list[str]]:
    """The axis to put along x, width if it is swept, and the other swept settings but the seed."""
    numeric = [a for a in results.axes if a != "seed" and a in results.trials and _is_numeric(results.trials[a])]
    varying = [a for a in numeric if results.trials[a].nunique() > 1]
    width = results.axis("width")
    first = width if width in varying else next(iter(varying), None)
    return first, [a for a in results.axes if a not in ("seed", first) and a in results.trials]


def thresholds(results: Results) -> list[Threshold]:
    """One threshold for each group of the axes other than width and seed; none if no axis is numeric."""
    axis, others = main_axes(results)
    if axis is None:
        return []
    shares = stationary_shares(results, [*others, axis])
    if shares.empty:
        return []
    groups = shares.groupby(others, observed=True) if others else [((), shares)]
    return [
        _threshold(dict(zip(others, values if isinstance(values, tuple) else (values,), strict=True)), part, axis)
        for values, part in groups
    ]


def _threshold(group: dict[str, Any], part: pd.DataFrame, axis: str) -> Threshold:
    part = part.sort_values(axis)
    values, most = part[axis].tolist(), (part.share >= MOST).tolist()
    lacking = [index for index, is_most in enumerate(most) if not is_most]
    first = lacking[-1] + 1 if lacking else 0
    return Threshold(
        group=group,
        below=values[first - 1] if first > 0 else None,
        at=values[first] if first < len(values) else None,
        smallest=values[0],
        largest=values[-1],
        axis=axis,
    )


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
