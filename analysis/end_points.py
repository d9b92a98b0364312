"""What the points are at which trials end, as the certificate names them: counts by kind, for people."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.frames import ENDED, Results, short
from analysis.layout import groups, main_axes, word


@dataclass(frozen=True)
class Kind:
    """What an end point can be."""

    heading: str
    """Under which it stands in the table: stationary, or not."""
    meaning: str


STATIONARY, NOT_STATIONARY, OTHER = "stationary", "not stationary", "other"
KINDS = {
    "minimum-like": Kind(STATIONARY, "the loss curves upwards, or is flat, in every direction"),
    "saddle-like": Kind(STATIONARY, "the loss still curves downwards in some direction"),
    "escaping": Kind(STATIONARY, "the embeddings grow without end and the loss flattens: its infimum is not attained"),
    "collapsed": Kind(STATIONARY, "a tower gives nearly the same embedding to every sample"),
    "undetermined": Kind(
        STATIONARY,
        "neither a clear saddle nor shown to be a minimum",
    ),
    "not-stationary": Kind(NOT_STATIONARY, "G is still above the level"),
    "noise-floor": Kind(NOT_STATIONARY, "G is above the level, but rounding errors of the gradient are as large"),
    "flat-start": Kind(NOT_STATIONARY, "G is below the level, but hardly below its own largest: it began there"),
    "dead": Kind(NOT_STATIONARY, "most embeddings of a tower are exactly zero, so no gradient passes"),
    "diverged": Kind(NOT_STATIONARY, "the loss or its gradient is no longer a finite number"),
}
"""The kinds in the order in which they are shown."""


@dataclass(frozen=True)
class Row:
    """Trials of one group at one value of the main axis."""

    value: str
    counts: list[int]
    """By kind, in the order of the table's columns."""


@dataclass(frozen=True)
class EndPoints:
    """Counts of end points by kind."""

    axis: str
    """Whose values the rows are; empty where no numeric setting is swept."""
    kinds: list[str]
    """Those that occur: the columns."""
    groups: list[tuple[str, list[Row]]]
    """Title and rows of each group of trials."""
    num_examined: int
    num_without: int
    """Trials that ended without a certificate."""

    @property
    def headings(self) -> list[tuple[str, int]]:
        """Headings over the columns, and how many columns each spans."""
        found = [heading_of(kind) for kind in self.kinds]
        return [(heading, found.count(heading)) for heading in dict.fromkeys(found)]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Each kind with its meaning."""
        return [(kind, meaning_of(kind)) for kind in self.kinds]

    @property
    def is_grouped(self) -> bool:
        """Whether the rows need the title of their group."""
        return any(title for title, _ in self.groups)


def heading_of(kind: str) -> str:
    """Whether a kind is stationary, in words; `other` for one that a newer version names."""
    return KINDS[kind].heading if kind in KINDS else OTHER


def meaning_of(kind: str) -> str:
    """What a kind means, in words; empty for one that a newer version names."""
    return KINDS[kind].meaning if kind in KINDS else ""


def examined(results: Results) -> pd.DataFrame:
    """Trials that have a kind; empty for results that are older than the certificate."""
    trials = results.trials
    return trials[trials["kind"].notna()] if "kind" in trials else trials.iloc[:0]


def end_points(results: Results) -> EndPoints | None:
    """The table of kinds; None where no trial has one."""
    trials = examined(results)
    if trials.empty:
        return None
    axis, others = main_axes(results)
    kinds = _ordered(trials.kind.unique().tolist())
    parts = [(group.title or "all", group.of(trials)) for group in groups(results, others)]
    return EndPoints(
        axis="" if axis is None else short(axis),
        kinds=kinds,
        groups=[(title, _rows(part, axis, kinds)) for title, part in parts if len(part)],
        num_examined=len(trials),
        num_without=int(results.trials.status.isin(ENDED).sum() - trials.status.isin(ENDED).sum()),
    )


def _ordered(kinds: list[str]) -> list[str]:
    known = [kind for kind in KINDS if kind in kinds]
    return known + sorted(set(kinds) - set(known))


def _rows(part: pd.DataFrame, axis: str | None, kinds: list[str]) -> list[Row]:
    parts = [(None, part)] if axis is None else list(part.groupby(axis, dropna=False))
    counts = [[int((some.kind == kind).sum()) for kind in kinds] for _, some in parts]
    return [Row("" if pd.isna(value) else word(value), row) for (value, _), row in zip(parts, counts, strict=True)]


def end_points_line(results: Results) -> str | None:
    """`end points: 12 minimum-like, 2 saddle-like`, most frequent first; None where no trial has a kind."""
    trials = examined(results)
    if trials.empty:
        return None
    counts = trials.kind.value_counts()
    order = sorted(_ordered(counts.index.tolist()), key=lambda kind: -counts[kind])
    unstable = unstable_words(results)
    line = "end points: " + ", ".join(f"{counts[kind]} {kind}" for kind in order)
    return f"{line}; unstable: {unstable}" if unstable else line


def unstable_words(results: Results) -> str | None:
    """How many trials have a G that rose again long after it first passed a threshold; None where none has."""
    if "unstable" not in results.trials:
        return None
    known = results.trials.unstable.dropna().astype(bool)
    return f"{known.sum()} of {len(known)} ({known.mean():.0%})" if known.any() else None


def cut_short_words(results: Results) -> str | None:
    """How many trials were stopped at a small G that is still too large a share of their largest; None where none was.

    It counts as a flat start, which it may not be: the two levels and the stop do not fit together.
    """
    trials, relative = examined(results), results.experiment.get("stationary_below_relative")
    if trials.empty or "ended_by" not in trials or relative is None:
        return None
    cut = int(((trials.kind == "flat-start") & (trials.ended_by == "stop_below") & (trials.steps > 0)).sum())
    if not cut:
        return None
    return (
        f"stop_below ended {cut} of the flat starts before G could fall to {relative:g} of its largest: "
        "a smaller budget.stop_below trains them on"
    )
