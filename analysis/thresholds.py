"""Where along an axis trials become stationary: shares with their uncertainty, and the threshold in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frames import ENDED, Results, short
from analysis.intervals import wilson_interval
from analysis.layout import groups, main_axes, word

MOST = 0.9
"""A width counts as stationary if at least this share of its trials is."""


def judged(results: Results) -> pd.DataFrame:
    """Trials that ended and of which it is known whether they are stationary: those without a certificate are not."""
    return judged_trials(results.trials)


def judged_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows of trials that are judged."""
    known = trials[trials.status.isin(ENDED) & trials.stationary.notna()]
    return known.assign(stationary=known.stationary.astype(bool))


def stationary_shares(results: Results, axes: list[str]) -> pd.DataFrame:
    """Judged trials, by the values of `axes`: count, stationary, share, and its Wilson 95% interval."""
    return shares_of(results.trials, axes)


def shares_of(trials: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Stationary shares of the judged ones among these trials."""
    counted = judged_trials(trials).groupby(axes, dropna=False).stationary.agg(["size", "sum"]).reset_index()
    counted = counted.rename(columns={"size": "trials", "sum": "stationary"})
    bounds = [wilson_interval(int(s), int(n)) for s, n in zip(counted.stationary, counted.trials, strict=True)]
    shares = counted.stationary / counted.trials
    return counted.assign(share=shares, low=[b[0] for b in bounds], high=[b[1] for b in bounds])


@dataclass(frozen=True)
class Threshold:
    """At which values of an axis most trials are stationary, for one group of trials."""

    title: str
    """Of the group; empty if there is only one."""
    axis: str
    values: tuple[Any, ...]
    """Tried, ascending."""
    most: tuple[bool, ...]
    """Whether most trials are stationary, at each of them."""

    @property
    def below(self) -> Any:
        """The largest value at which they are not; None if all are."""
        lacking = [value for value, most in zip(self.values, self.most, strict=True) if not most]
        return lacking[-1] if lacking else None

    @property
    def at(self) -> Any:
        """The smallest value from which on they are; None if the largest is not."""
        return next((v for v in self.values if self.below is None or v > self.below), None)

    def sentence(self) -> str:
        """The threshold in words."""
        name = short(self.axis)
        start = f"{self.title}: " if self.title else ""
        settled = [word(value) for value, most in zip(self.values, self.most, strict=True) if most]
        if not settled:
            return f"{start}training does not become stationary up to {name} {word(self.values[-1])}."
        if self.below is None:
            return f"{start}training is stationary from the smallest {name} tried, {word(self.values[0])}, on."
        if self.at is not None:
            return f"{start}training becomes stationary between {name} {word(self.below)} and {word(self.at)}."
        if all(self.most[: len(settled)]):
            ends = word(self.values[len(settled)])
            return f"{start}training becomes stationary up to {name} {settled[-1]}, and no longer at {ends}."
        return f"{start}training becomes stationary at {name} {_listed(settled)} only."


def thresholds(results: Results) -> list[Threshold]:
    """One threshold for each group of the axes other than the main one and the seed; none if no axis is numeric."""
    axis, others = main_axes(results)
    if axis is None:
        return []
    shares = stationary_shares(results, [*others, axis])
    parts = [(group.title, group.of(shares).sort_values(axis)) for group in groups(results, others)]
    return [
        Threshold(title, axis, tuple(part[axis].tolist()), tuple((part.share >= MOST).tolist()))
        for title, part in parts
        if len(part)
    ]


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
