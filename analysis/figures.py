"""Figures of a sweep. Each takes results and returns a figure, or None where there is nothing to show."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.descent import DESCENT_REGIME, descent_frame
from analysis.end_points import KINDS, NOT_STATIONARY, STATIONARY
from analysis.fitting import fit_law
from analysis.frames import Results, law_frame, passage_frame, short
from analysis.laws_of_sweep import WORDS, SweepFit, number, variable
from analysis.layout import Group, groups, main_axes
from analysis.pictures import FORMATS
from analysis.scales import Scale, number_word, readable_log, scale_of
from analysis.thresholds import stationary_shares

MOST_GROUPS = 8
"""Panels or colours in one figure, at most."""
MOST_ENTRIES = 10
"""Of a legend for each row of panels, where values are numbers: colours between them are easily guessed."""
MARKERS = "osD^vPX*"
MOST_MARKS = 2000
"""Marks in one figure that are drawn as shapes in SVG and PDF; more become a picture in each panel, so that files stay
small and quick to draw."""


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
    """Write the figure as SVG, PNG and PDF, laid out once for all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    _keep_small(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for kind in FORMATS:
        undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        figure.savefig(folder / f"{name}.{kind}", dpi=160, metadata=undated)


def _keep_small(figure: Figure) -> None:
    """Let many marks be a picture."""
    marks = [artist for ax in figure.axes for artist in ax.collections if isinstance(artist, PathCollection)]
    if sum(np.shape(artist.get_offsets())[0] for artist in marks) > MOST_MARKS:
        for artist in marks:
            artist.set_rasterized(True)


@dataclass(frozen=True)
class Layout:
    """What lies along x, and the groups that have a colour or a panel each."""

    scale: Scale | None
    """None where only seeds are swept."""
    groups: list[Group]
    legend: str
    """Title of the legend: the setting that makes the groups, if it is one; else empty."""

    def label(self, group: Group) -> str:
        """The group under the legend's title."""
        return group.title.removeprefix(f"{self.legend} ")

    def styled(self) -> Iterator[tuple[int, Group, Any, str]]:
        """Index, group, colour and marker."""
        colors = sns.color_palette("colorblind", len(self.groups))
        for index, (group, color, marker) in enumerate(zip(self.groups, colors, MARKERS, strict=False)):
            yield index, group, color, marker


def layout_of(results: Results) -> Layout:
    """The numeric axis along x, or the first axis of words if there is none; the others make groups, the first few."""
    axis, others = main_axes(results)
    if axis is None and others:
        axis, *others = others
    found = groups(results, others)[:MOST_GROUPS]
    named = len(others) == 1 and all(group.title.startswith(f"{short(others[0])} ") for group in found)
    return Layout(None if axis is None else scale_of(results, axis), found, short(others[0]) if named else "")


def num_hidden_groups(results: Results) -> int:
    """Groups that the figures leave out, because they are too many."""
    axis, others = main_axes(results)
    others = others[1:] if axis is None else others
    return max(0, len(groups(results, others)) - MOST_GROUPS)


def curves(results: Results) -> Figure | None:
    """Scaled G against step by the value along x: median over seeds with their range, one panel per group."""
    layout = layout_of(results)
    scale = layout.scale
    columns = ["trial_id", *([scale.axis] if scale else []), *layout.groups[0].values]
    frame = results.records.merge(results.trials[columns], on="trial_id")
    frame = frame[(frame.step > 0) & (frame.scaled_grad_norm_sq > 0) & np.isfinite(frame.scaled_grad_norm_sq)]
    panels = [(group, part) for group in layout.groups if len(part := group.of(frame))]
    if not panels:
        return None
    width = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    height = -(-len(panels) // width)
    legend = 0.6 + 0.08 * max(map(len, scale.words)) if scale else 0.0
    size = (1.0 + legend + 3.3 * width, 0.4 + 3.0 * height)
    figure, axes = plt.subplots(height, width, figsize=size, sharex=True, sharey=True, squeeze=False)
    colors = ramp(len(scale.values), ordered=scale.is_numeric) if scale else ramp(1, ordered=True)
    for ax, (group, part) in zip(axes.flat, panels, strict=False):
        for value, label, color in zip(
            *((scale.values, scale.words) if scale else ([None], [""])), colors, strict=True
        ):
            some = part if scale is None else part[part[scale.axis] == value]
            if len(some):
                _band(ax, some, color, label)
        ax.axhline(results.experiment["stationary_below"], color="0.35", linestyle=":", linewidth=1)
        ax.set(xscale="log", yscale="log", title=wrapped(group.title))
    _outer_labels(axes, len(panels), "step", "scaled squared gradient norm G")
    if scale:
        pairs = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes.flat]
        handles = {text: handle for pair in pairs for handle, text in pair}
        texts = [text for text in scale.words if text in handles]
        texts = spread_out(texts, MOST_ENTRIES * height) if scale.is_numeric else texts
        title = short(scale.axis)
        figure.legend([handles[text] for text in texts], texts, title=title, loc="outside right center")
    return figure


def spread_out(texts: list[str], most: int) -> list[str]:
    """At most so many of the texts, evenly spaced, with the first and the last."""
    if len(texts) <= most:
        return texts
    return [texts[round(index * (len(texts) - 1) / (most - 1))] for index in range(most)]


def _along(scale: Scale | None, part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows at each value along x, with its word."""
    if scale is None:
        return [("", part)]
    return [(label, part[part[scale.axis] == value]) for value, label in zip(scale.values, scale.words, strict=True)]


def _outer_labels(axes: Any, used: int, x: str, y: str) -> None:
    """Labels at the left and the lower edge of a grid of panels, of which the last may be unused."""
    height, width = axes.shape
    for index, ax in enumerate(axes.flat):
        if index >= used:
            ax.set_axis_off()
            continue
        if index + width >= used:
            ax.set_xlabel(x)
            ax.tick_params(labelbottom=True)
        if index % width == 0:
            ax.set_ylabel(y if height == 1 else y.replace(" gradient", "\ngradient"))


def _band(ax: Axes, part: pd.DataFrame, color: Any, label: str) -> None:
    curves = part.pivot(index="step", columns="trial_id", values="scaled_grad_norm_sq").ffill()
    spread = curves.agg(["min", "median", "max"], axis=1)
    ax.plot(spread.index, spread["median"], color=color, label=label, linewidth=1.5)
    ax.fill_between(spread.index, spread["min"], spread["max"], color=color, alpha=0.2, linewidth=0)


def passages(results: Results, fits: list[SweepFit]) -> Figure | None:
    """T(eps) in steps along x by group; open triangles mark trials that did not get there in their budget."""
    layout = layout_of(results)
    if layout.scale is None or results.passages.empty:
        return None
    shown = shown_threshold(results, fits)
    frame = passage_frame(results, epsilon=[shown.epsilon], relative=shown.relative, among="finished")
    if frame.empty:
        return None
    scale = layout.scale
    figure, ax = plt.subplots(figsize=_size(layout))
    for index, group, color, marker in layout.styled():
        part = group.of(frame)
        reached, missed = part[~part.censored], part[part.censored]
        _medians(ax, layout, reached, "steps_to_stationarity", index, color)
        style: dict[str, Any] = {"s": 22, "marker": marker, "label": layout.label(group) or None}
        at = scale.at(reached[scale.axis], index, len(layout.groups))
        ax.scatter(at, reached.steps_to_stationarity, color=color, **style)
        at = scale.at(missed[scale.axis], index, len(layout.groups))
        ax.scatter(at, missed.steps_to_stationarity, facecolors="none", edgecolors=[color], marker="^", s=34)
    if frame.censored.any():
        ax.scatter([], [], facecolors="none", edgecolors="0.3", marker="^", s=34, label="not reached")
    ax.set(yscale="log", ylabel=f"steps until {shown.condition}")
    scale.draw(ax)
    readable_log(ax)
    _legend_beside(ax, layout)
    return figure


def _legend_beside(ax: Axes, layout: Layout) -> None:
    """A legend to the right of the panel, if there is something to tell."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(title=layout.legend or None, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _medians(ax: Axes, layout: Layout, part: pd.DataFrame, column: str, index: int, color: Any) -> None:
    """A line through the medians over seeds; words along x have none between them."""
    scale = layout.scale
    assert scale is not None
    if scale.is_numeric:
        middle = part.groupby(scale.axis)[column].median()
        ax.plot(scale.at(list(middle.index), index, len(layout.groups)), middle, color=color, linewidth=1.2)


def drawn_laws(fits: list[SweepFit]) -> dict[str, list[SweepFit]]:
    """Laws that a panel can show, of one variable or two, by their title."""
    shown: dict[str, list[SweepFit]] = {}
    for fitted in fits:
        if fitted.fit is not None and len(fitted.x) <= 2:
            shown.setdefault(fitted.title, []).append(fitted)
    return shown


def laws(results: Results, fits: list[SweepFit]) -> Figure | None:
    """Fitted laws with the interval of their median, over the points they are fitted to."""
    shown = drawn_laws(fits)
    if not shown:
        return None
    titles = list(shown)[:MOST_GROUPS]
    columns = min(2, len(titles)) if len(titles) <= 4 else 3
    rows = -(-len(titles) // columns)
    extra = 1.0 if any(len(shown[title][0].x) == 2 for title in titles) else 0.0
    figure, axes = plt.subplots(rows, columns, figsize=((4.3 + extra) * columns, 3.1 * rows), squeeze=False)
    for ax, title in zip(axes.flat, titles, strict=False):
        _law_panel(ax, results, shown[title], title)
    for ax in list(axes.flat)[len(titles) :]:
        ax.set_axis_off()
    return figure


def _law_panel(ax: Axes, results: Results, fits: list[SweepFit], title: str) -> None:
    """Points, and a line with its band for each law of one variable, or for each value of a law's second variable."""
    first = fits[0]
    frame = first.group.of(law_frame(results, first.spec))
    x, second = first.x[0], first.x[1] if len(first.x) == 2 else None
    colors = sns.color_palette("colorblind", len(fits))
    if second is None:
        _points(ax, frame, first, "0.25")
        for fitted, color in zip(fits, colors, strict=True):
            _law_line(ax, frame, fitted, color, _law_label(fitted))
    else:
        values = sorted(frame[second].unique().tolist())
        for value, color in zip(values, ramp(len(values), ordered=True), strict=True):
            part = frame[frame[second] == value]
            _points(ax, part, first, color)
            _law_line(ax, part, first, color, number_word(value), {second: value})
    values = sorted(frame[x].unique().tolist())
    Scale(variable(x), values, [number_word(value) for value in values], True).draw(ax)
    ax.set(yscale="log", title=wrapped(title), ylabel=WORDS.get(first.spec["y"], first.spec["y"]))
    readable_log(ax)
    if second is None:
        ax.legend(fontsize="small")
    else:
        ax.legend(title=variable(second), loc="center left", bbox_to_anchor=(1.0, 0.5))


def _points(ax: Axes, frame: pd.DataFrame, fitted: SweepFit, color: Any) -> None:
    x, y = frame[fitted.x[0]], frame[fitted.y]
    censored = frame.get("censored", pd.Series(False, frame.index))
    ax.scatter(x[~censored], y[~censored], color=[color], s=16, zorder=3)
    ax.scatter(x[censored], y[censored], facecolors="none", edgecolors=[color], marker="^", s=30)


def _law_line(
    ax: Axes, frame: pd.DataFrame, fitted: SweepFit, color: Any, label: str, at: dict[str, Any] | None = None
) -> None:
    assert fitted.fit is not None
    x = fitted.x[0]
    grid = np.geomspace(frame[x].min(), frame[x].max(), 60)
    low, high = fitted.fit.interval({x: grid, **(at or {})})
    ax.plot(grid, fitted.fit.predict({x: grid, **(at or {})}), color=color, label=label)
    ax.fill_between(grid, low, high, color=color, alpha=0.18, linewidth=0)


def _law_label(fitted: SweepFit) -> str:
    assert fitted.fit is not None
    a = next((e.value for name, e in fitted.fit.parameters.items() if name.startswith("a")), None)
    return fitted.spec["law"] if a is None else f"{fitted.spec['law']}, a = {number(a)}"


def displacement(results: Results) -> Figure | None:
    """How far weights moved by the end of training, along x by group, with the slope in the legend."""
    layout = layout_of(results)
    frame = results.trials[(results.trials.status == "finished") & (results.trials.displacement > 0)]
    if layout.scale is None or frame.empty:
        return None
    scale = layout.scale
    figure, ax = plt.subplots(figsize=_size(layout, extra=1.2))
    for index, group, color, marker in layout.styled():
        part = group.of(frame)
        if part.empty:
            continue
        _medians(ax, layout, part, "displacement", index, color)
        label = "\n".join(words for words in (layout.label(group), _slope(part, scale)) if words) or None
        at = scale.at(part[scale.axis], index, len(layout.groups))
        ax.scatter(at, part.displacement, color=color, marker=marker, s=22, label=label)
    ax.set(yscale="log", ylabel="displacement (Frobenius)")
    scale.draw(ax)
    readable_log(ax)
    _legend_beside(ax, layout)
    return figure


def _slope(part: pd.DataFrame, scale: Scale) -> str:
    """The exponent of displacement in the descent regime with its 95% interval, where the trials set it."""
    settled = part[part.descent_regime.fillna(False).astype(bool)]
    if not scale.is_log or settled[scale.axis].nunique() < 3:
        return ""
    try:
        fit = fit_law(settled, law="power", y="displacement", x=scale.axis, hold_out=False)
    except ValueError:
        return ""
    a = fit.parameters["a"]
    return f"slope {number(-a.value)} [{number(-a.high)}, {number(-a.low)}]"


def shares(results: Results) -> Figure | None:
    """Share of stationary trials, and of steps that violate descent, along x by group."""
    layout = layout_of(results)
    if layout.scale is None:
        return None
    scale, count = layout.scale, len(layout.groups)
    frame = stationary_shares(results, [*layout.groups[0].values, scale.axis])
    if frame.empty:
        return None
    width, height = _size(layout)
    figure, (left, right) = plt.subplots(1, 2, figsize=(width + 4.4, height))
    ended = results.trials[results.trials.violating_share.notna()]
    line = "-" if scale.is_numeric else ""
    for index, group, color, marker in layout.styled():
        style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": line, "markersize": 5, "capsize": 3}
        part = group.of(frame)
        part = part.sort_values(scale.axis) if scale.is_numeric else part
        errors = np.abs(np.stack([part.share - part.low, part.high - part.share]))
        left.errorbar(scale.at(part[scale.axis], index, count), part.share, yerr=errors, **style)
        spread = group.of(ended).groupby(scale.axis).violating_share.agg(["min", "median", "max"])
        errors = np.stack([spread["median"] - spread["min"], spread["max"] - spread["median"]])
        at = scale.at(list(spread.index), index, count)
        right.errorbar(at, spread["median"], yerr=errors, label=layout.label(group) or None, **style)
    left.set(ylabel="share of stationary trials", ylim=(-0.04, 1.04))
    right.set(ylabel="share of steps violating descent", ylim=(-0.04, 1.04))
    for ax in (left, right):
        scale.draw(ax)
    _legend_beside(right, layout)
    return figure


MOST_KINDS = 5
"""Kinds of end points that have a marker each; more are told apart only as stationary or not."""
BAND = 1.2
"""Width of the band for shares of exactly 0, in decades."""


def descent(results: Results) -> Figure | None:
    """Final G against the share of steps that violate descent, coloured by the value along x."""
    frame = descent_frame(results)
    scale = layout_of(results).scale
    if frame.empty:
        return None
    frame = frame if scale is None else frame.sort_values(scale.axis, key=lambda column: column.map(_rank(scale)))
    colors = ramp(len(scale.values), ordered=scale.is_numeric) if scale else ramp(1, ordered=True)
    figure, ax = plt.subplots(figsize=(7.0, 3.9))
    left = _share_axis(ax, frame.violating_share)
    marked = _marked(frame)
    rim = 0.4 if len(frame) <= MOST_MARKS else 0.0
    marks = dict(zip(sorted(marked.unique(), key=_mark_order), MARKERS, strict=False))
    at = _share_places(frame.violating_share.astype(float), left)
    height = _above_zero(frame.scaled_grad_norm_sq)
    for (_, part), color in zip(_along(scale, frame), colors, strict=True):
        for name, marker in marks.items():
            some = part.index[marked[part.index] == name]
            style: dict[str, Any] = {"marker": marker, "s": 26, "edgecolors": "white", "linewidths": rim}
            ax.scatter(at[some], height[some], color=[color], zorder=3, **style)
    ax.axhline(results.experiment["stationary_below"], color="0.35", linestyle=":", linewidth=1)
    ax.axvline(np.log10(DESCENT_REGIME), color="0.35", linestyle="--", linewidth=1)
    ax.set(yscale="log", xlabel="share of steps violating descent", ylabel="final scaled G")
    readable_log(ax)
    handles: list[Artist] = [_heading("end point")]
    handles += [Line2D([], [], color="0.3", marker=mark, linestyle="", label=name) for name, mark in marks.items()]
    if scale:
        handles.append(_heading(short(scale.axis)))
        handles += [Patch(color=color, label=text) for color, text in zip(colors, scale.words, strict=True)]
    figure.legend(handles=handles, loc="outside right center", handlelength=1.0)
    return figure


def _rank(scale: Scale) -> dict[Any, int]:
    """The place of each value among the others."""
    return {value: place for place, value in enumerate(scale.values)}


def _heading(text: str) -> Artist:
    """An entry of a legend that heads those after it."""
    return Line2D([], [], linestyle="", label=text)


def _marked(frame: pd.DataFrame) -> pd.Series[str]:
    """The kind of each trial's end point if all have one and they are few, else whether it is stationary."""
    if "kind" in frame and frame.kind.notna().all() and frame.kind.nunique() <= MOST_KINDS:
        return frame.kind.astype(str)
    return frame.stationary.map({True: STATIONARY, False: NOT_STATIONARY})


def _mark_order(name: str) -> tuple[int, str]:
    order = [*KINDS, STATIONARY, NOT_STATIONARY]
    return (order.index(name) if name in order else len(order), name)


def _share_axis(ax: Axes, shares: pd.Series[float]) -> float:
    """Shares in decades along x, left of them a band for exactly 0; gives where the band ends."""
    positive = shares[shares > 0]
    left = min(-3.0, np.floor(np.log10(positive.min()))) if len(positive) else -3.0
    ax.axvspan(left - BAND, left, color="0.94", linewidth=0, zorder=0)
    decades = np.arange(left + (left < -3), 1)
    ax.set_xticks([left - BAND / 2, *decades], ["0", *(f"{100 * 10.0**decade:g} %" for decade in decades)])
    ax.set_xlim(left - BAND, 0.1)
    return float(left)


def _share_places(shares: pd.Series[float], left: float) -> pd.Series[float]:
    """Where shares lie; those of 0 side by side in the band, in the order of the rows."""
    zero = shares == 0
    rank = (zero.cumsum() - 0.5) / max(1, zero.sum())
    decades = pd.Series(np.log10(shares.where(~zero, 1.0)), shares.index)
    return decades.where(~zero, left - BAND * (0.97 - 0.94 * rank))


def _above_zero(values: pd.Series[float]) -> pd.Series[float]:
    """The values; those of exactly 0, which a log axis does not have, lie below all others."""
    positive = values[values > 0]
    return values.clip(lower=positive.min() / 3 if len(positive) else 1.0)


@dataclass(frozen=True)
class Shown:
    """The threshold that a figure shows."""

    epsilon: float
    relative: bool

    @property
    def condition(self) -> str:
        """When it is passed."""
        return f"G ≤ {self.epsilon:.3g}" + (" of its largest" if self.relative else "")


def shown_threshold(results: Results, fits: list[SweepFit]) -> Shown:
    """The threshold to draw: the first that a law names, else the smallest that three quarters of trials reach."""
    for fitted in fits:
        for epsilon in fitted.spec.get("epsilon") or []:
            return Shown(float(epsilon), bool(fitted.spec.get("relative")))
    absolute = results.passages[~results.passages.relative.astype(bool)]
    reached = absolute.groupby("epsilon").reached.mean()
    most = reached[reached >= 0.75]
    return Shown(float(most.index.min() if len(most) else absolute.epsilon.max()), False)


def _size(layout: Layout, *, extra: float = 0.0) -> tuple[float, float]:
    """Room for the panel and for a legend beside it."""
    longest = max((len(group.title) for group in layout.groups), default=0)
    is_words = layout.scale is not None and not layout.scale.is_numeric
    words = max(0, len(layout.scale.values) - 4) if layout.scale and is_words else 0
    return 4.6 + 0.6 * words + min(3.0, 0.09 * longest) + extra, 4.0 if is_words else 3.6


def wrapped(title: str) -> str:
    """A title in lines that a panel has room for."""
    return textwrap.fill(title, 44)


def ramp(count: int, *, ordered: bool) -> list[Any]:
    """Colours from light to dark for numbers, distinct ones for words."""
    return (
        list(sns.color_palette("viridis_r", count + 1))[1:] if ordered else list(sns.color_palette("colorblind", count))
    )
