"""A trial's curve of min G against T as straight pieces in logarithms, found from the data, each with its slope."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.laws import Array

FEWEST = 5
"""Records of a piece."""
MOST_PIECES = 6


@dataclass(frozen=True)
class Segment:
    """A piece of a curve on which it falls as a power."""

    first_step: int
    last_step: int
    slope: float
    """Of log min G against log T."""
    num_records: int
    violates: bool
    """Whether a step in it lowered the loss by less than half of the promise: such pieces are left out of estimates."""


def segments(records: pd.DataFrame, *, y: str = "running_min_scaled_grad_norm_sq") -> list[Segment]:
    """Pieces of one trial's curve from step 1 on, in the order of steps; none where there are too few records.

    The curve is cut first where descent is violated, then each stretch into pieces by dynamic programming over records
    (Bai & Perron 1998), as many as have the lowest criterion of Liu, Wu & Zidek 1997: BIC finds too many cuts.
    """
    curve = records.sort_values("step")
    curve = curve[(curve.step > 0) & (curve[y] > 0) & np.isfinite(curve[y].astype(float))]
    if len(curve) < FEWEST:
        return []
    violated = (curve.violating_share * curve.step).diff().fillna(curve.violating_share * curve.step) > 0.5
    stretch = (violated != violated.shift()).cumsum()
    return [piece for _, part in curve.groupby(stretch) for piece in _pieces(part, y, bool(violated[part.index[0]]))]


def _pieces(curve: pd.DataFrame, y: str, violates: bool) -> list[Segment]:
    if len(curve) < FEWEST:
        return []
    steps = curve.step.to_numpy()
    log_x, log_y = np.log(steps.astype(float)), np.log(curve[y].to_numpy(dtype=float))
    cuts = [0, len(curve)] if violates else _best_cuts(log_x, log_y)
    return [
        Segment(int(steps[i]), int(steps[j - 1]), _line(log_x[i:j], log_y[i:j])[0], j - i, violates)
        for i, j in pairwise(cuts)
    ]


def _best_cuts(log_x: Array, log_y: Array) -> list[int]:
    """Bounds of the best pieces, the first 0 and the last n; each has two parameters and a cut."""
    n = len(log_x)
    cost = _costs(log_x, log_y)
    best, before = [cost[0]], []
    for _ in range(1, min(MOST_PIECES, n // FEWEST)):
        total = best[-1][:, None] + cost  # the pieces so far end where the last begins
        before.append(np.argmin(total, axis=0))
        best.append(total.min(axis=0))
    floor = 1e-12 * n
    penalty = 3 * 0.299 * np.log(n) ** 2.1
    scores = [n * np.log(max(b[n], floor) / n) + penalty * (k + 1) for k, b in enumerate(best)]
    cuts = [n]
    for k in range(int(np.argmin(scores)), 0, -1):
        cuts.append(int(before[k - 1][cuts[-1]]))
    return [0, *reversed(cuts)]


def _costs(log_x: Array, log_y: Array) -> Array:
    """Squared residuals of a line through the records from i up to j, left out: (n + 1, n + 1), infinite if too few."""
    n = len(log_x)
    sums = [np.concatenate([[0.0], np.cumsum(v)]) for v in (log_x, log_y, log_x**2, log_x * log_y, log_y**2)]
    i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    count = np.maximum(j - i, 1)
    x, y, xx, xy, yy = (s[j] - s[i] for s in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        sxx, sxy, syy = xx - x * x / count, xy - x * y / count, yy - y * y / count
        residual = np.where(sxx > 0, syy - sxy**2 / sxx, syy)
    return np.where(j - i >= FEWEST, np.maximum(residual, 0.0), np.inf)


def _line(x: Array, y: Array) -> Array:
    return np.asarray(np.polyfit(x, y, 1))
