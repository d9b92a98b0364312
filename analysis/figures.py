"""Figures of one panel each: functions that draw a frame on an Axes and return it, for notebooks and for the report.

A frame is a pandas table with settings by their full paths, as in the tables of results. `x` and `hue` name columns;
numbers have a log axis where they span a factor of three, and colours from light to dark; words lie side by side and
have distinct colours. `ax` is the current one of matplotlib if left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.patches import Rectangle

from analysis.first_passages import median_steps
from analysis.fitting import Fit
from analysis.frames import short
from analysis.laws_of_sweep import WORDS, number, variable
from analysis.scales import Scale, number_word, readable_log, scale_of_column
from analysis.theme import MARKERS, plt, ramp
from analysis.thresholds import shares_of

MISSED: dict[str, Any] = {"facecolors": "none", "marker": "^", "s": 34}
"""Marks of trials that did not get there."""
LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Shares of red, green and blue in how light a colour is."""


@dataclass(frozen=True)
class Look:
    """How the rows of one hue are drawn."""

    index: int
    count: int
    """Of all hues."""
    color: Any
    marker: str
    label: str | None


def gradient_norm_curves(
    records: pd.DataFrame,
    hue: str | None = None,
    ax: Axes | None = None,
    *,
    y: str = "scaled_grad_norm_sq",
    level: float | None = None,
    hues: Scale | None = None,
) -> Axes:
    """G against step by hue: median over trials with a band from the smallest to the largest.

    A trial that stopped early keeps its last value. `records` has `trial_id`, `step` and y; `level` is dotted.
    """
    ax = plt.gca() if ax is None else ax
    frame = records[(records.step > 0) & (records[y] > 0) & np.isfinite(records[y].astype(float))]
    for look, part in _by_hue(frame, hue, hues):
        curves = part.pivot(index="step", columns="trial_id", values=y).ffill()
        spread = curves.agg(["min", "median", "max"], axis=1)
        ax.plot(spread.index, spread["median"], color=look.color, label=look.label, linewidth=1.5)
        ax.fill_between(spread.index, spread["min"], spread["max"], color=look.color, alpha=0.2, linewidth=0)
    if level is not None:
        ax.axhline(level, color="0.35", linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="scaled squared gradient norm G")
    return _finish(ax, hue)


def steps_to_stationarity(
    passages: pd.DataFrame,
    x: str,
    hue: str | None = None,
    ax: Axes | None = None,
    *,
    y: str = "steps_to_stationarity",
    xs: Scale | None = None,
    hues: Scale | None = None,
) -> Axes:
    """T(eps) against x by hue: a mark per trial, and the median of those that got there with a bar over their range.

    `passages` is that of `analysis.frames.passage_frame` for one threshold: open triangles are its `censored` rows.
    """
    ax = plt.gca() if ax is None else ax
    scale = xs or scale_of_column(passages[x])
    for look, part in _by_hue(passages, hue, hues):
        reached, missed = part[~part.censored], part[part.censored]
        _marks(ax, scale, reached, y, look)
        at = scale.at(missed[x], look.index, look.count)
        ax.scatter(at, missed[y], edgecolors=[look.color], **MISSED)
    if passages.censored.any():
        ax.scatter([], [], edgecolors="0.3", label="not reached", **MISSED)
    ax.set(yscale="log", ylabel=WORDS.get(y, y))
    scale.draw(ax)
    readable_log(ax)
    return _finish(ax, hue)


def weight_displacement(
    trials: pd.DataFrame,
    x: str,
    hue: str | None = None,
    ax: Axes | None = None,
    *,
    y: str = "displacement",
    xs: Scale | None = None,
    hues: Scale | None = None,
) -> Axes:
    """How far weights moved against x by hue: a mark per trial, and the median with a bar over the range."""
    ax = plt.gca() if ax is None else ax
    scale = xs or scale_of_column(trials[x])
    for look, part in _by_hue(trials[trials[y] > 0], hue, hues):
        _marks(ax, scale, part, y, look)
    ax.set(yscale="log", ylabel=WORDS.get(y, y))
    scale.draw(ax)
    readable_log(ax)
    return _finish(ax, hue)


def stationary_share(
    trials: pd.DataFrame,
    x: str,
    hue: str | None = None,
    ax: Axes | None = None,
    *,
    xs: Scale | None = None,
    hues: Scale | None = None,
) -> Axes:
    """Share of stationary trials against x by hue, of those judged, with its Wilson 95% interval."""

    def spread(part: pd.DataFrame) -> pd.DataFrame:
        return shares_of(part, [x]).set_index(x)[["low", "share", "high"]]

    return _errorbars(trials, spread, x, hue, ax, ylabel="share of stationary trials", xs=xs, hues=hues)


def violating_share(
    trials: pd.DataFrame,
    x: str,
    hue: str | None = None,
    ax: Axes | None = None,
    *,
    xs: Scale | None = None,
    hues: Scale | None = None,
) -> Axes:
    """Share of steps that violate descent against x by hue: median over trials with a bar over their range."""

    def spread(part: pd.DataFrame) -> pd.DataFrame:
        return part[part.violating_share.notna()].groupby(x).violating_share.agg(["min", "median", "max"])

    return _errorbars(trials, spread, x, hue, ax, ylabel="share of steps violating descent", xs=xs, hues=hues)


def heat_map(
    passages: pd.DataFrame,
    x: str = "encoder.width",
    y: str = "encoder.depth",
    epsilon: float | None = None,
    ax: Axes | None = None,
    *,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Median T(eps) in steps over the seeds of each cell of x and y, where a trial not there counts as longer than all.

    Each cell has its number; one where not all trials got there is hatched and says how many did, and is grey where
    fewer than half did, which leaves the median open. `passages` is that of
    `analysis.first_passages.ended_passages`; `limits` of the colours are those of its medians if left out.
    """
    ax = plt.gca() if ax is None else ax
    if epsilon is not None:
        passages = passages[(passages.epsilon / epsilon - 1).abs() < 1e-4]
    cells = median_steps(passages, x, y)
    across, up = (sorted(passages[name].unique().tolist()) for name in (x, y))
    table = cells.pivot(index=y, columns=x, values="median").reindex(index=up, columns=across)
    low, high = limits or (float(cells["median"].min()), float(cells["median"].max()))
    low, high = max(1.0, low), max(1.01 * max(1.0, low), high)
    norm = LogNorm(low, high)
    colors = ListedColormap(ramp(255, ordered=True)).with_extremes(bad="0.88")
    mesh = ax.pcolormesh(table.clip(lower=1.0).to_numpy(), norm=norm, cmap=colors, edgecolors="white", linewidth=1.5)
    for cell in cells.to_dict("records"):
        _heat_cell(ax, cell, (across.index(cell[x]), up.index(cell[y])), norm, colors)
    ax.set_xticks(np.arange(len(across)) + 0.5, [number_word(value) for value in across])
    ax.set_yticks(np.arange(len(up)) + 0.5, [number_word(value) for value in up])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set(xlabel=short(x), ylabel=short(y))
    bar = ax.figure.colorbar(mesh, ax=ax, label="median T(ε) in steps")
    ticks = np.geomspace(low, high, 4).tolist()
    bar.set_ticks(ticks, labels=[number_word(tick) for tick in ticks], minor=False)
    bar.minorticks_off()
    return ax


def _heat_cell(ax: Axes, cell: dict[Any, Any], corner: tuple[int, int], norm: LogNorm, colors: Colormap) -> None:
    """The number of a cell, and where not all trials got there hatching and how many did."""
    known, whole = not np.isnan(cell["median"]), cell["reached"] == cell["trials"]
    words = [number_word(cell["median"])] if known else []
    if not whole:
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="0.35", linewidth=0))
        words.append(f"{cell['reached']} of {cell['trials']}")
    color = colors(norm(max(1.0, cell["median"]))) if known else (0.88, 0.88, 0.88, 1.0)
    is_dark = float(np.dot(color[:3], LUMINANCE)) < 0.45
    box = None if whole else {"facecolor": color, "edgecolor": "none", "pad": 1.5}
    place = (corner[0] + 0.5, corner[1] + 0.5)
    text = "\n".join(words)
    ax.text(*place, text, ha="center", va="center", fontsize="small", color="white" if is_dark else "black", bbox=box)


def fitted_law(
    frame: pd.DataFrame,
    fit: Fit,
    x: str | None = None,
    ax: Axes | None = None,
    *,
    at: Mapping[str, Any] | None = None,
    color: Any = "#0173b2",
    label: str | None = None,
    points: Any = "0.25",
) -> Axes:
    """The rows that a law was fitted to and the law along x with the 95% interval of its median.

    Open triangles are rows with only a lower bound, those of a column `censored`. `at` holds the law's other variables,
    and only rows with these values are drawn. `points` is the colour of the rows; None leaves them out.
    """
    ax = plt.gca() if ax is None else ax
    x = x or fit.x[0]
    values = sorted(frame[x].unique().tolist())
    for name, value in (at or {}).items():
        frame = frame[frame[name] == value]
    if points is not None:
        _points(ax, frame, x, fit.y, points)
    grid = np.geomspace(frame[x].min(), frame[x].max(), 60)
    table = {x: grid, **{name: np.full(len(grid), value) for name, value in (at or {}).items()}}
    low, high = fit.interval(table)
    ax.plot(grid, fit.predict(table), color=color, label=label or law_label(fit))
    ax.fill_between(grid, low, high, color=color, alpha=0.18, linewidth=0)
    Scale(variable(x), values, [number_word(value) for value in values], True).draw(ax)
    ax.set(yscale="log", ylabel=WORDS.get(fit.y, fit.y))
    readable_log(ax)
    return ax


def law_label(fit: Fit) -> str:
    """The law's name with its exponent, the first if it has several."""
    a = next((e.value for name, e in fit.parameters.items() if name.startswith("a")), None)
    return fit.law if a is None else f"{fit.law}, a = {number(a)}"


def _points(ax: Axes, frame: pd.DataFrame, x: str, y: str, color: Any) -> None:
    censored = frame.get("censored", pd.Series(False, frame.index)).astype(bool)
    ax.scatter(frame[x][~censored], frame[y][~censored], color=[color], s=16, zorder=3)
    ax.scatter(frame[x][censored], frame[y][censored], edgecolors=[color], **MISSED | {"s": 30})


def _by_hue(frame: pd.DataFrame, hue: str | None, hues: Scale | None) -> Iterator[tuple[Look, pd.DataFrame]]:
    """The rows of each hue with how they look; hues without rows keep their place and colour."""
    if hue is None:
        yield Look(0, 1, ramp(1, ordered=False)[0], MARKERS[0], None), frame
        return
    scale = hues or scale_of_column(frame[hue])
    count = len(scale.values)
    colors = ramp(count, ordered=scale.is_numeric)
    for index, (value, word, color) in enumerate(zip(scale.values, scale.words, colors, strict=True)):
        part = frame[frame[hue] == value]
        if len(part):
            yield Look(index, count, color, MARKERS[index % len(MARKERS)], word or None), part


def _marks(ax: Axes, scale: Scale, part: pd.DataFrame, y: str, look: Look) -> None:
    """A mark per row; the median at each x with a bar over the range, joined by a line where x are numbers."""
    at = scale.at(part[scale.axis], look.index, look.count)
    ax.scatter(at, part[y], color=[look.color], marker=look.marker, s=22, label=look.label)
    spread = part.groupby(scale.axis)[y].agg(["min", "median", "max"])
    middle = scale.at(list(spread.index), look.index, look.count)
    ax.vlines(middle, spread["min"], spread["max"], color=look.color, linewidth=1)
    if scale.is_numeric:
        ax.plot(middle, spread["median"], color=look.color, linewidth=1.2)


def _errorbars(
    frame: pd.DataFrame,
    spread: Callable[[pd.DataFrame], pd.DataFrame],
    x: str,
    hue: str | None,
    ax: Axes | None,
    *,
    ylabel: str,
    xs: Scale | None,
    hues: Scale | None,
) -> Axes:
    """Low, middle and high, the columns of `spread` by x, for each hue."""
    ax = plt.gca() if ax is None else ax
    scale = xs or scale_of_column(frame[x])
    for look, part in _by_hue(frame, hue, hues):
        found = spread(part)
        found = found.sort_index() if scale.is_numeric else found
        low, middle, high = (found[name].to_numpy(dtype=float) for name in found)
        style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 5, "capsize": 3}
        style |= {"linestyle": "-" if scale.is_numeric else "", "label": look.label}
        at = scale.at(list(found.index), look.index, look.count)
        ax.errorbar(at, middle, yerr=np.abs(np.stack([middle - low, high - middle])), **style)
    ax.set(ylabel=ylabel, ylim=(-0.04, 1.04))
    scale.draw(ax)
    return _finish(ax, hue)


def _finish(ax: Axes, hue: str | None) -> Axes:
    """A legend where there are labels."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(title=None if hue is None else short(hue), fontsize="small")
    return ax
