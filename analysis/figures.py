"""Figures of a sweep. Each takes results and returns a figure, or None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.frames import Results, passage_frame
from analysis.laws_of_sweep import WORDS, SweepFit, number, short, word
from analysis.thresholds import main_axes, stationary_shares

FORMATS = ("svg", "png", "pdf")
MOST_GROUPS = 8
"""Panels or colours in one figure, at most."""
MARKERS = "osD^vPX*"


@contextmanager
def theme() -> Iterator[None]:
    """One look for all figures, safe for colour-blind readers, and files that do not differ without reason."""
    settings: dict[Any, Any] = {
        "svg.hashsalt": "stillpoint",
        "svg.fonttype": "path",
        "axes.grid": True,
        "grid.alpha": 0.35,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    }
    with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=1.1), plt.rc_context(settings):
        yield


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write the figure as SVG, PNG and PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in FORMATS:
        undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        figure.savefig(folder / f"{name}.{kind}", dpi=160, metadata=undated)


def curves(results: Results) -> Figure | None:
    """Scaled G against step by width: median over seeds with their range, one panel per value of the other axes."""
    axis, others = main_axes(results)
    columns = ["trial_id", *([axis] if axis else []), *others]
    frame = results.records.merge(results.trials[columns], on="trial_id")
    frame = frame[(frame.step > 0) & (frame.scaled_grad_norm_sq > 0)]
    if frame.empty:
        return None
    panels = _groups(frame, others)
    figure, axes = plt.subplots(1, len(panels), figsize=(1.2 + 3.3 * len(panels), 3.4), sharey=True, squeeze=False)
    for ax, (title, part) in zip(axes[0], panels, strict=True):
        values = sorted(part[axis].unique()) if axis else [None]
        for value, color in zip(values, _ramp(len(values)), strict=True):
            _band(ax, part if value is None else part[part[axis] == value], color, word(value))
        ax.axhline(results.experiment["stationary_below"], color="0.35", linestyle=":", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="step", title=title)
    axes[0][0].set_ylabel("scaled squared gradient norm G")
    if axis:
        axes[0][-1].legend(title=short(axis), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _band(ax: Axes, part: pd.DataFrame, color: Any, label: str) -> None:
    curves = part.pivot(index="step", columns="trial_id", values="scaled_grad_norm_sq").ffill()
    spread = curves.agg(["min", "median", "max"], axis=1)
    ax.plot(spread.index, spread["median"], color=color, label=label, linewidth=1.5)
    ax.fill_between(spread.index, spread["min"], spread["max"], color=color, alpha=0.2, linewidth=0)


def passages(results: Results, fits: list[SweepFit]) -> Figure | None:
    """T(eps) in steps against width by depth; open triangles mark trials that did not get there in their budget."""
    axis, others = main_axes(results)
    if axis is None or results.passages.empty:
        return None
    epsilon = shown_epsilon(results, fits)
    frame = passage_frame(results, epsilon=[epsilon], among="finished")
    if frame.empty:
        return None
    figure, ax = plt.subplots(figsize=(5.4, 3.6))
    for (title, part), color, marker in _styled(_groups(frame, others)):
        reached = part[~part.censored]
        middle = reached.groupby(axis).steps_to_stationarity.median()
        ax.plot(middle.index, middle, color=color, linewidth=1.2)
        ax.scatter(
            reached[axis], reached.steps_to_stationarity, color=color, marker=marker, s=22, label=title or "trials"
        )
        _censored_marks(ax, part[part.censored], axis, color)
    if frame.censored.any():
        ax.scatter([], [], facecolors="none", edgecolors="0.3", marker="^", s=34, label="not reached")
    ax.set(yscale="log", ylabel=f"steps until G ≤ {epsilon:g}", xlabel=short(axis))
    _value_ticks(ax, results.trials[axis])
    _readable_log(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _censored_marks(ax: Axes, part: pd.DataFrame, axis: str, color: Any) -> None:
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": [color], "marker": "^", "s": 34}
    ax.scatter(part[axis], part.steps_to_stationarity, **style)


def laws(results: Results, fits: list[SweepFit]) -> Figure | None:
    """Fitted laws of one variable with the interval of their median, over the points they are fitted to."""
    shown: dict[str, list[SweepFit]] = {}
    for fitted in fits:
        if fitted.fit is not None and len(fitted.x) == 1 and fitted.x[0] != "epsilon":
            shown.setdefault(fitted.title, []).append(fitted)
    if not shown:
        return None
    titles = list(shown)[:MOST_GROUPS]
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.3 * columns, 3.1 * rows), squeeze=False)
    for ax, title in zip(axes.flat, titles, strict=False):
        _law_panel(ax, results, shown[title], title)
    for ax in list(axes.flat)[len(titles) :]:
        ax.set_axis_off()
    return figure


def _law_panel(ax: Axes, results: Results, fits: list[SweepFit], title: str) -> None:
    from analysis.frames import law_frame

    first = fits[0]
    frame = law_frame(results, first.spec)
    frame = frame if first.by is None else frame[frame[first.by] == first.group]
    x = first.x[0]
    censored = frame.get("censored", pd.Series(False, frame.index))
    ax.scatter(frame[x][~censored], frame[first.y][~censored], color="0.25", s=16, zorder=3)
    ax.scatter(frame[x][censored], frame[first.y][censored], facecolors="none", edgecolors="0.25", marker="^", s=30)
    grid = np.geomspace(frame[x].min(), frame[x].max(), 60)
    for fitted, color in zip(fits, sns.color_palette("colorblind", len(fits)), strict=True):
        assert fitted.fit is not None
        low, high = fitted.fit.interval({x: grid})
        a = next((e.value for name, e in fitted.fit.parameters.items() if name.startswith("a")), None)
        label = fitted.spec["law"] if a is None else f"{fitted.spec['law']}, a = {number(a)}"
        ax.plot(grid, fitted.fit.predict({x: grid}), color=color, label=label)
        ax.fill_between(grid, low, high, color=color, alpha=0.18, linewidth=0)
    ax.set(yscale="log", title=title, xlabel=short(x), ylabel=WORDS.get(first.spec["y"], first.spec["y"]))
    _value_ticks(ax, frame[x])
    _readable_log(ax)
    ax.legend(fontsize="small")


def displacement(results: Results) -> Figure | None:
    """How far weights moved by the end of training, against width by depth, with the slope in the legend."""
    axis, others = main_axes(results)
    frame = results.trials[results.trials.status == "finished"]
    if axis is None or frame.empty or not (frame.displacement > 0).any():
        return None
    figure, ax = plt.subplots(figsize=(5.4, 3.6))
    for (title, part), color, marker in _styled(_groups(frame[frame.displacement > 0], others)):
        slope = ""
        settled = part[part.descent_regime.fillna(False).astype(bool)]
        if settled[axis].nunique() >= 2 and (settled[axis] > 0).all():
            value = np.polyfit(np.log(settled[axis].astype(float)), np.log(settled.displacement), 1)[0]
            slope = f"slope {number(value)} in the descent regime"
        middle = part.groupby(axis).displacement.median()
        ax.plot(middle.index, middle, color=color, linewidth=1.2)
        label = "\n".join(words for words in (title, slope) if words) or "trials"
        ax.scatter(part[axis], part.displacement, color=color, marker=marker, s=22, label=label)
    ax.set(yscale="log", xlabel=short(axis), ylabel="displacement of trained weights (Frobenius)")
    _value_ticks(ax, results.trials[axis])
    _readable_log(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def shares(results: Results) -> Figure | None:
    """Share of stationary trials, and of steps that violate descent, against width by depth."""
    axis, others = main_axes(results)
    if axis is None:
        return None
    frame = stationary_shares(results, [*others, axis])
    if frame.empty:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
    ended = results.trials[results.trials.violating_share.notna()]
    violations = dict(_groups(ended, others))
    for (title, part), color, marker in _styled(_groups(frame, others)):
        part = part.sort_values(axis)
        errors = np.abs(np.stack([part.share - part.low, part.high - part.share]))
        left.errorbar(part[axis], part.share, yerr=errors, color=color, marker=marker, capsize=3, label=title or None)
        if title in violations:
            middle = violations[title].groupby(axis).violating_share.agg(["min", "median", "max"])
            right.plot(middle.index, middle["median"], color=color, marker=marker, label=title or None)
            right.fill_between(middle.index, middle["min"], middle["max"], color=color, alpha=0.2, linewidth=0)
    left.set(ylabel="share of stationary trials", ylim=(-0.04, 1.04), xlabel=short(axis))
    right.set(ylabel="share of steps violating descent", ylim=(-0.04, 1.04), xlabel=short(axis))
    for ax in (left, right):
        _value_ticks(ax, results.trials[axis])
    if others:
        right.legend()
    return figure


def shown_epsilon(results: Results, fits: list[SweepFit]) -> float:
    """The threshold to draw: the first that a law names, else the smallest that most trials reach."""
    named = [epsilon for fitted in fits for epsilon in fitted.spec.get("epsilon") or []]
    if named:
        return float(named[0])
    absolute = results.passages[~results.passages.relative.astype(bool)]
    reached = absolute.groupby("epsilon").reached.mean()
    most = reached[reached >= 0.5]
    return float(most.index.min() if len(most) else absolute.epsilon.max())


def _groups(frame: pd.DataFrame, others: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Parts by the values of the other axes, with their titles; the first few if there are many."""
    if not others:
        return [("", frame)]
    parts = frame.groupby(others[0] if len(others) == 1 else others, observed=True)
    named = [(values if isinstance(values, tuple) else (values,), part) for values, part in parts]
    titled = [(", ".join(f"{short(a)} {word(v)}" for a, v in zip(others, vs, strict=True)), p) for vs, p in named]
    return titled[:MOST_GROUPS]


def _styled(groups: list[tuple[str, pd.DataFrame]]) -> list[tuple[tuple[str, pd.DataFrame], Any, str]]:
    return list(zip(groups, sns.color_palette("colorblind", len(groups)), MARKERS, strict=False))


def _ramp(count: int) -> list[Any]:
    return list(sns.color_palette("viridis_r", count + 1))[1:]


def _value_ticks(ax: Axes, column: pd.Series[Any]) -> None:
    """A tick at each value of the sweep; a log axis where all are positive and span more than a factor of four."""
    values = sorted(column.dropna().unique().tolist())
    if values[0] > 0 and values[-1] >= 3 * values[0]:
        ax.set_xscale("log")
    ticks = values if len(values) <= 10 else values[:: -(-len(values) // 10)]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value < 1000 else f"{value:.0f}"))


def _readable_log(ax: Axes) -> None:
    """Plain numbers on a log axis that spans less than two decades."""
    low, high = ax.get_ylim()
    if not (low > 0 and high / low < 100):
        return
    coarse, fine = (1, 1.5, 2, 3, 5, 7), tuple(k / 10 for k in range(10, 100))
    inside: list[float] = []
    for multiples in (coarse, fine[::2], fine):
        if len(inside) < 4:
            inside = [m * 10.0**k for k in range(-12, 13) for m in multiples if low <= m * 10.0**k <= high]
    inside = inside[:: -(-len(inside) // 8)]
    ax.yaxis.set_major_locator(FixedLocator(inside))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value < 1000 else f"{value:.0f}"))
