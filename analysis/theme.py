"""One look for all figures, and how they are saved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

if matplotlib.get_backend(auto_select=False) is None:  # a notebook has chosen one that shows its figures
    matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.pictures import FORMATS

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


def wrapped(title: str) -> str:
    """A title in lines that a panel has room for."""
    return textwrap.fill(title, 44)


def ramp(count: int, *, ordered: bool) -> list[Any]:
    """Colours from light to dark for numbers, distinct ones for words."""
    return (
        list(sns.color_palette("viridis_r", count + 1))[1:] if ordered else list(sns.color_palette("colorblind", count))
    )
