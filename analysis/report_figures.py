"""Figures of a sweep as its report shows them: each takes results and composes panels of analysis.figures, or is None
where there is nothing to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures
from analysis.first_passages import ended_passages, median_steps
from analysis.fitting import fit_law
from analysis.frames import Results, law_frame, passage_frame, short
from analysis.laws_of_sweep import SweepFit, number, variable
from analysis.layout import Group, groups, is_numeric, main_axes
from analysis.scales import Scale, number_word, scale_of
from analysis.theme import plt, ramp, wrapped
from analysis.thresholds import stationary_shares

MOST_GROUPS = 8
"""Panels or colours in one figure, at most."""
GROUP = "group"
"""The column that tells the groups of a figure apart."""
MOST_ENTRIES = 10
"""Of a legend for each row of panels, where values are numbers: colours between them are easily guessed."""


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

    @property
    def hue(self) -> str | None:
        """The column of `grouped` that makes colours; None where there is one group."""
        return GROUP if len(self.groups) > 1 else None

    @property
    def hues(self) -> Scale:
        """The labels of the groups, in their order."""
        words = [self.label(group) for group in self.groups]
        return Scale(GROUP, words, words, False)

    def grouped(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of the groups that are shown, with the label of theirs."""
        return pd.concat([group.of(frame).assign(**{GROUP: self.label(group)}) for group in self.groups])


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
    hue, level = scale.axis if scale else None, results.experiment["stationary_below"]
    for ax, (group, part) in zip(axes.flat, panels, strict=False):
        figures.gradient_norm_curves(part, hue, ax, level=level, hues=scale)
        ax.set(title=wrapped(group.title), xlabel="", ylabel="")
        _without_legend(ax)
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


def passages(results: Results, fits: list[SweepFit]) -> Figure | None:
    """T(eps) in steps along x by group; open triangles mark trials that did not get there in their budget."""
    layout = layout_of(results)
    if layout.scale is None or results.passages.empty:
        return None
    shown = shown_threshold(results, fits)
    frame = layout.grouped(passage_frame(results, epsilon=[shown.epsilon], relative=shown.relative, among="finished"))
    if frame.empty:
        return None
    figure, ax = plt.subplots(figsize=_size(layout))
    figures.steps_to_stationarity(frame, layout.scale.axis, layout.hue, ax, xs=layout.scale, hues=layout.hues)
    ax.set_ylabel(f"steps until {shown.condition}")
    _legend_beside(ax, layout)
    return figure


def grid_axes(results: Results) -> tuple[str, str] | None:
    """The first two numeric axes that are swept, of which each value of one is tried with several of the other."""
    first, others = main_axes(results)
    second = next((axis for axis in others if is_numeric(results.trials[axis])), None)
    return None if first is None or second is None else (first, second)


def heat(results: Results, fits: list[SweepFit]) -> Figure | None:
    """Median T(eps) over the first two numeric axes, a panel for each group of the other axes."""
    axes_of_grid = grid_axes(results)
    if axes_of_grid is None or results.passages.empty:
        return None
    x, y = axes_of_grid
    shown = shown_threshold(results, fits)
    frame = ended_passages(results, shown.epsilon, relative=shown.relative)
    panels = heat_groups(results, frame)
    middle = pd.concat([median_steps(part, x, y)["median"] for _, part in panels] or [pd.Series(dtype=float)])
    if middle.isna().all():
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = (0.6 + max(4.6, 1.6 + 0.62 * frame[x].nunique()) * columns, (0.9 + 0.55 * frame[y].nunique()) * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, (group, part) in zip(axes.flat, panels, strict=False):
        figures.heat_map(part, x, y, ax=ax, limits=(middle.min(), middle.max()))
        ax.set_title(wrapped(group.title))
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    return figure


def heat_groups(results: Results, frame: pd.DataFrame) -> list[tuple[Group, pd.DataFrame]]:
    """The rows of each panel of the heat map, as many panels as there is room for."""
    axes_of_grid = grid_axes(results) or ()
    others = [axis for axis in main_axes(results)[1] if axis not in axes_of_grid]
    parts = [(group, group.of(frame)) for group in groups(results, others)]
    return [(group, part) for group, part in parts if len(part)][:MOST_GROUPS]


def _legend_beside(ax: Axes, layout: Layout) -> None:
    """A legend to the right of the panel, if there is something to tell."""
    if ax.get_legend_handles_labels()[1]:
        title = layout.legend or None
        ax.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")


def _without_legend(ax: Axes) -> None:
    """Where the figure has one legend for all its panels."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()


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
    if len(first.x) == 1:
        for fitted, color in zip(fits, ramp(len(fits), ordered=False), strict=True):
            assert fitted.fit is not None
            points = "0.25" if fitted is first else None
            figures.fitted_law(frame, fitted.fit, ax=ax, color=color, points=points)
        ax.legend(fontsize="small")
    else:
        assert first.fit is not None
        second = first.x[1]
        values = sorted(frame[second].unique().tolist())
        for value, color in zip(values, ramp(len(values), ordered=True), strict=True):
            label = number_word(value)
            figures.fitted_law(frame, first.fit, ax=ax, at={second: value}, color=color, points=color, label=label)
        ax.legend(title=variable(second), loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    ax.set_title(wrapped(title))


def displacement(results: Results) -> Figure | None:
    """How far weights moved by the end of training, along x by group, with the slope in the legend."""
    layout = layout_of(results)
    frame = results.trials[(results.trials.status == "finished") & (results.trials.displacement > 0)]
    if layout.scale is None or frame.empty:
        return None
    scale = layout.scale
    figure, ax = plt.subplots(figsize=_size(layout, extra=1.2))
    slopes = {layout.label(group): _slope(group.of(frame), scale) for group in layout.groups}
    words = ["\n".join(text for text in pair if text) for pair in slopes.items()]
    hues = Scale(GROUP, list(slopes), words, False)
    figures.weight_displacement(layout.grouped(frame), scale.axis, GROUP, ax, xs=scale, hues=hues)
    ax.set_ylabel("displacement (Frobenius)")
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
    if stationary_shares(results, [*layout.groups[0].values, layout.scale.axis]).empty:
        return None
    width, height = _size(layout)
    figure, (left, right) = plt.subplots(1, 2, figsize=(width + 4.4, height))
    trials, axis = layout.grouped(results.trials), layout.scale.axis
    figures.stationary_share(trials, axis, layout.hue, left, xs=layout.scale, hues=layout.hues)
    figures.violating_share(trials, axis, layout.hue, right, xs=layout.scale, hues=layout.hues)
    _without_legend(left)
    _legend_beside(right, layout)
    return figure


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
