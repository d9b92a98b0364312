"""Axes of figures: where the values of a setting lie along x, and readable ticks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.frames import Results, short
from analysis.layout import is_numeric, labels, word

ROOM = 48
"""Letters of tick labels along one panel."""


@dataclass(frozen=True)
class Scale:
    """How the values of an axis lie along x: numbers where they are, words side by side."""

    axis: str
    values: list[Any]
    """Ascending if they are numbers, in the order of the sweep if not."""
    words: list[str]
    is_numeric: bool

    @property
    def is_log(self) -> bool:
        """Whether the values are positive and span a factor of three or more."""
        return self.is_numeric and self.values[0] > 0 and self.values[-1] >= 3 * self.values[0]

    def at(self, column: pd.Series[Any] | list[Any], index: int = 0, count: int = 1) -> np.ndarray:
        """Where values lie; those of the `index`-th of `count` groups are moved a little, so that none is hidden."""
        shift = 0.0 if count == 1 else (index / (count - 1) - 0.5) * min(0.5, 0.12 * count)
        if not self.is_numeric:
            places = {value: place for place, value in enumerate(self.values)}
            return np.array([places[value] for value in column], dtype=float) + shift
        given = np.asarray(column, dtype=float)
        gaps = np.diff(np.log(self.values) if self.is_log else np.asarray(self.values, dtype=float))
        move = 0.6 * shift * (gaps.min() if len(gaps) else 0.0)
        return given * np.exp(move) if self.is_log else given + move

    def draw(self, ax: Axes) -> None:
        """A label, and a tick at each value, or at each k-th number where there is no room for all."""
        ax.set_xlabel(short(self.axis))
        ax.xaxis.set_minor_locator(NullLocator())
        if not self.is_numeric:
            is_long = sum(len(text) for text in self.words) > 40
            turned: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
            ax.set_xticks(range(len(self.values)), self.words, **turned)
            ax.set_xlim(-0.5, len(self.values) - 0.5)
            return
        if self.is_log:
            ax.set_xscale("log")
        step = next(k for k in range(1, 99) if len("  ".join(self.words[::k])) <= ROOM)
        ax.xaxis.set_major_locator(FixedLocator(self.values[::step]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_word(value)))


def number_word(value: float) -> str:
    """Three digits, without an exponent where it reads well."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"


def scale_of_column(column: pd.Series[Any]) -> Scale:
    """The scale of a column of any frame, with its values as their own words."""
    numeric, axis = is_numeric(column), str(column.name)
    if numeric:
        numbers = sorted(column.dropna().unique().tolist())
        return Scale(axis, numbers, [number_word(value) for value in numbers], True)
    values = column.dropna().unique().tolist()
    return Scale(axis, values, [word(value) for value in values], False)


def scale_of(results: Results, axis: str) -> Scale:
    """The scale of a swept setting."""
    column = results.trials[axis]
    numeric = is_numeric(column)
    values = column.dropna().unique().tolist() if numeric else column.unique().tolist()
    values = sorted(values) if numeric else values
    if numeric:
        return Scale(axis, values, [number_word(value) for value in values], True)
    named = labels(results, axis)
    truths = {True: "yes", False: "no"}
    return Scale(axis, values, [truths[v] if isinstance(v, bool) else named[v] for v in values], False)


def readable_log(ax: Axes, side: Literal["x", "y"] = "y", *, most: int = 8) -> None:
    """Plain numbers, `most` of them, on a log axis that spans less than two decades."""
    low, high = ax.get_ylim() if side == "y" else ax.get_xlim()
    axis = ax.yaxis if side == "y" else ax.xaxis
    if not (low > 0 and high / low < 100):
        return
    coarse, fine = (1, 1.5, 2, 3, 5, 7), tuple(k / 10 for k in range(10, 100))
    inside: list[float] = []
    for multiples in (coarse, fine[::2], fine):
        if len(inside) < 4:
            inside = [m * 10.0**k for k in range(-12, 13) for m in multiples if low <= m * 10.0**k <= high]
    if len(inside) < 2:  # too narrow even for steps of a tenth
        inside = np.linspace(low, high, 5)[1:-1].tolist()
    inside = inside[:: -(-len(inside) // most)]
    axis.set_major_locator(FixedLocator(inside))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value < 1000 else f"{value:.0f}"))
