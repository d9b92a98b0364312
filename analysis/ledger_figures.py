"""A figure for each verdict: what was estimated from, the law through it, and the slope that theory expects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.laws_of_sweep import number
from analysis.ledger import Evidence, Verdict
from analysis.scales import readable_log
from analysis.theme import plt, wrapped
from analysis.verdict_words import range_words

MOST_PANELS = 6
ESTIMATE = "#0173b2"
"""Colour of estimates."""


def evidence_figure(verdict: Verdict) -> Figure | None:
    """A panel for each piece of evidence that has points; None where none has."""
    shown = [evidence for evidence in verdict.evidence if is_drawn(evidence)]
    if not shown:
        return None
    shown = shown[:MOST_PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.9 * columns, 3.1 * rows), squeeze=False)
    for ax, evidence in zip(axes.flat, shown, strict=False):
        (_level_panel if evidence.is_level else _slope_panel)(ax, evidence)
    for ax in list(axes.flat)[len(shown) :]:
        ax.set_axis_off()
    return figure


def is_drawn(evidence: Evidence) -> bool:
    """Whether it has a panel in the figure of its verdict."""
    return evidence.points is not None and len(evidence.points) > 0 and not evidence.reason


def _level_panel(ax: Axes, evidence: Evidence) -> None:
    """What the points say of a level: a line with the band of its interval, dashed the limits of the range."""
    points = evidence.points
    assert points is not None
    ax.scatter(points.x, points.y, color="0.25", s=14, alpha=0.6, linewidths=0, zorder=3)
    if "low" in points:
        ax.vlines(points.x, points.low, points.high, color="0.25", linewidth=1)
    interval = f" [{number(evidence.low)}, {number(evidence.high)}]" if evidence.low < evidence.high else ""
    ax.axhline(evidence.value, color=ESTIMATE, label=f"{number(evidence.value)}{interval}")
    ax.axhspan(evidence.low, evidence.high, color=ESTIMATE, alpha=0.18, linewidth=0)
    for index, limit in enumerate(limit for limit in evidence.expected or () if np.isfinite(limit)):
        label = f"expected {range_words(evidence.expected)}" if index == 0 else None
        ax.axhline(limit, color="0.5", linestyle="--", linewidth=1, label=label)
    is_wide = points.x.min() > 0 and points.x.max() >= 8 * points.x.min()
    ax.set(xscale="log" if is_wide else "linear", xlabel=evidence.variable, title=wrapped(evidence.what))
    _mark(ax, evidence)
    ax.legend(fontsize="small")


def _mark(ax: Axes, evidence: Evidence) -> None:
    """Ticks at the values of x, where they are kinds, or few and whole."""
    assert evidence.points is not None
    ticks = sorted(evidence.points.x.unique())
    if evidence.kinds or (len(ticks) <= 9 and all(float(tick).is_integer() for tick in ticks)):
        ax.set_xticks(ticks, evidence.kinds or [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    if len(evidence.kinds) > 3:
        for label in ax.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")


def _slope_panel(ax: Axes, evidence: Evidence) -> None:
    """The law through the points, or a power of the estimated exponent, and dashed those of the range."""
    points = evidence.points
    assert points is not None
    censored = points["censored"] if "censored" in points else np.zeros(len(points), dtype=bool)
    ax.scatter(points.x[~censored], points.y[~censored], color="0.25", s=14, zorder=3)
    ax.scatter(points.x[censored], points.y[censored], facecolors="none", edgecolors="0.25", marker="^", s=28)
    grid = np.geomspace(points.x.min(), points.x.max(), 60)
    of = "difference" if evidence.kinds else "slope"
    label = f"{of} {number(evidence.value)} [{number(evidence.low)}, {number(evidence.high)}]"
    if evidence.fit is not None:
        name = evidence.fit.x[0]
        middle, (low, high) = evidence.fit.predict({name: grid}), evidence.fit.interval({name: grid})
    else:
        middle, low, high = (
            _through_the_middle(points, grid, s) for s in (evidence.value, evidence.low, evidence.high)
        )
    ax.plot(grid, middle, color=ESTIMATE, label=label)
    ax.fill_between(grid, low, high, color=ESTIMATE, alpha=0.18, linewidth=0)
    if evidence.expected is not None:
        _expected(ax, evidence, grid)
    ax.set(xscale="log", yscale="log", xlabel=evidence.variable, title=wrapped(_shown(evidence)))
    _mark(ax, evidence)
    readable_log(ax)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")


def _expected(ax: Axes, evidence: Evidence, grid: np.ndarray) -> None:
    """Lines of the limits of the range."""
    assert evidence.points is not None
    assert evidence.expected is not None
    slopes = [slope for slope in evidence.expected if np.isfinite(slope)]
    for index, slope in enumerate(slopes):
        label = f"expected {range_words(evidence.expected)}" if index == 0 else None
        line = _through_the_middle(evidence.points, grid, slope)
        ax.plot(grid, line, color="0.5", linestyle="--", linewidth=1, label=label)


def _through_the_middle(points: pd.DataFrame, grid: np.ndarray, slope: float) -> np.ndarray:
    """A power through the geometric mean of the points."""
    return np.exp(np.log(points.y).mean() + slope * (np.log(grid) - np.log(points.x).mean()))


def _shown(evidence: Evidence) -> str:
    """What the points are, of which the slope is estimated."""
    return evidence.what.removeprefix("slope of the ").removeprefix("slope of ").replace(" against the distance", "")
