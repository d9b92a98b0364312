"""The figure that sets final G beside the share of steps that violate descent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.descent import DESCENT_REGIME, descent_frame
from analysis.end_points import KINDS, NOT_STATIONARY, STATIONARY
from analysis.frames import Results, short
from analysis.report_figures import layout_of
from analysis.scales import Scale, readable_log
from analysis.theme import MARKERS, MOST_MARKS, plt, ramp

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


def _along(scale: Scale | None, part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows at each value along x, with its word."""
    if scale is None:
        return [("", part)]
    return [(label, part[part[scale.axis] == value]) for value, label in zip(scale.values, scale.words, strict=True)]
