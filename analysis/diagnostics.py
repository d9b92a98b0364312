"""Figures that say how far to trust a law: what it leaves over, and what was not reached in time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.frames import ENDED, Results, law_frame, short
from analysis.intervals import wilson_interval
from analysis.laws_of_sweep import SweepFit
from analysis.report_figures import MOST_GROUPS, drawn_laws, layout_of
from analysis.scales import readable_log
from analysis.theme import plt, ramp, wrapped

NORMAL_RANGE = 1.96
"""Standard deviations within which 95% of normal residuals lie."""


def residuals(results: Results, fits: list[SweepFit]) -> Figure | None:
    """Log residuals of every fitted law against its value, a panel each; None where no law was fitted."""
    shown = [fitted for laws in drawn_laws(fits).values() for fitted in laws if fitted.fit is not None][:MOST_GROUPS]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    size = (max(4.6, 3.6 * columns), 2.9 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, fitted in zip(axes.flat, shown, strict=False):
        _residual_panel(ax, fitted, fitted.group.of(law_frame(results, fitted.spec)))
    for ax in list(axes.flat)[len(shown) :]:
        ax.set_axis_off()
    return figure


def _residual_panel(ax: Axes, fitted: SweepFit, frame: pd.DataFrame) -> None:
    """Dots are rows, triangles lower bounds; the line joins medians of the rows that share their x."""
    assert fitted.fit is not None
    value = fitted.fit.predict(frame)
    left = pd.Series(np.log(frame[fitted.y].to_numpy(dtype=float) / value), index=frame.index)
    censored = frame["censored"].to_numpy(dtype=bool) if "censored" in frame else np.zeros(len(frame), dtype=bool)
    ax.axhspan(*(sign * NORMAL_RANGE * fitted.fit.sigma for sign in (-1, 1)), color="0.93", zorder=0)
    ax.axhline(0, color="0.35", linewidth=1)
    ax.scatter(value[~censored], left[~censored], color="0.25", s=13, zorder=3)
    ax.scatter(value[censored], left[censored], facecolors="none", edgecolors="0.25", marker="^", s=26)
    middle = left.groupby(value).median()
    ax.plot(middle.index, middle, color="#0173b2", linewidth=1.4, zorder=2)
    title = f"{fitted.title}: {fitted.law_words}"
    ax.set(xscale="log", xlabel="value of the law", ylabel="log residual", title=wrapped(title))
    readable_log(ax, "x", most=5)


def unreached(results: Results) -> Figure | None:
    """Share of trials that never came below ε, over all ε, by the value along x; None where all reached every one."""
    layout = layout_of(results)
    scale = layout.scale
    settings = ["trial_id", *([scale.axis] if scale else []), *layout.groups[0].values]
    ended = results.trials.loc[results.trials.status.isin(ENDED), settings]
    frame = results.passages[~results.passages.relative.astype(bool)].merge(ended, on="trial_id")
    frame = frame.assign(unreached=~frame.reached.astype(bool))
    if frame.empty or not frame.unreached.any():
        return None
    panels = [(group, part) for group in layout.groups if len(part := group.of(frame))]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.6 + 3.3 * columns, 0.4 + 2.8 * rows), sharex=True, sharey=True, squeeze=False
    )
    values = [None] if scale is None else scale.values
    words = [""] if scale is None else scale.words
    colors = ramp(len(values), ordered=scale is None or scale.is_numeric)
    for ax, (group, part) in zip(axes.flat, panels, strict=False):
        for value, label, color in zip(values, words, colors, strict=True):
            some = part if scale is None else part[part[scale.axis] == value]
            if some.empty:
                continue  # all of these trials failed
            counts = some.groupby("epsilon").unreached.agg(["sum", "size"])
            bounds = [wilson_interval(int(n), int(of)) for n, of in zip(counts["sum"], counts["size"], strict=True)]
            share = counts["sum"] / counts["size"]
            ax.plot(share.index, share, color=color, marker="o", markersize=3, label=label)
            ax.vlines(share.index, *np.transpose(bounds), color=color, linewidth=0.8, alpha=0.6)
        ax.set(xscale="log", title=wrapped(group.title))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    for ax in axes.flat[: len(panels)]:
        ax.set_xlabel("ε")
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("not below ε in time")
    if scale is not None:
        handles, texts = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, texts, title=short(scale.axis), loc="outside right center")
    return figure
