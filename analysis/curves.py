"""The exponent with which one trial's curve falls, with an interval that knows its records are not independent."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.fitting import Estimate
from analysis.intervals import check_confidence
from analysis.laws import Array

NUM_BLOCKS = 6
"""Blocks that the curve is long."""
NUM_PLACES = 16
"""Places of a block per block's length."""
FEWEST_RECORDS = 10


def decay_exponent(
    records: pd.DataFrame,
    *,
    y: str = "running_min_scaled_grad_norm_sq",
    from_step: int | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """a of y ~ step^-a for the records of one trial: minus the slope of log y against log step.

    Each record counts by the length in log step that it stands for, half-way to its neighbours on both sides, so that
    the density of records does not matter. The part fitted begins where the curve starts to fall: at the last record
    before y is first below its first value. `from_step` begins elsewhere. Step 0 has no logarithm and is left out.

    The interval is that of a moving-block jackknife (Künsch 1989, section 2) whose blocks have a fixed length in log
    step, a sixth of the curve, and go around its end; t with 5 degrees of freedom. Residuals are to be correlated
    over less than a block. More records of the same curve do not make it narrower, and one that is bent, whose slope is
    not one number, has a wide one.

    Raises:
        ValueError: the curve never falls, or fewer than ten records are left.
    """
    check_confidence(confidence)
    curve = records.sort_values("step")
    curve = curve[np.isfinite(curve[y].astype(float)) & (curve[y] > 0)]
    start = fall_step(curve, y) if from_step is None else from_step
    curve = curve[(curve.step >= start) & (curve.step > 0)]
    if len(curve) < FEWEST_RECORDS:
        raise ValueError(f"{len(curve)} records of {y!r} from step {start} on; an exponent needs {FEWEST_RECORDS}")
    log_step, log_y = (np.log(curve[name].to_numpy(dtype=float)) for name in ("step", y))
    edges = np.concatenate([log_step[:1], (log_step[1:] + log_step[:-1]) / 2, log_step[-1:]])
    value = _slopes(log_step, log_y, np.diff(edges)[None])[0]
    slopes = _slopes(log_step, log_y, np.diff(edges) - _deleted(edges))
    variance = (NUM_BLOCKS - 1) * float(np.mean((slopes - slopes.mean()) ** 2))
    half = float(stats.t.ppf(0.5 + confidence / 2, NUM_BLOCKS - 1)) * np.sqrt(variance)
    return Estimate(float(-value), float(-value - half), float(-value + half))


def fall_step(curve: pd.DataFrame, y: str) -> int:
    """The step of the last record before y is first below its first value; the records are in the order of steps.

    Raises:
        ValueError: it never is.
    """
    fallen = (curve[y] < curve[y].iloc[:1].max()).to_numpy()
    if not fallen.any():
        raise ValueError(f"{y!r} never falls below its first value")
    return int(curve.step.iloc[max(0, int(fallen.argmax()) - 1)])


def _deleted(edges: Array) -> Array:
    """How much of each record's length every block covers: (blocks, n). A block that ends beyond begins again."""
    length = edges[-1] - edges[0]
    block = length / NUM_BLOCKS
    starts = edges[0] + block / NUM_PLACES * np.arange(NUM_BLOCKS * NUM_PLACES)

    def covered(low: Array) -> Array:
        inside = np.minimum(edges[None, 1:], low[:, None] + block) - np.maximum(edges[None, :-1], low[:, None])
        return np.maximum(inside, 0.0)

    return covered(starts) + covered(starts - length)


def _slopes(x: Array, y: Array, weights: Array) -> Array:
    """Slope of y on x by weighted least squares, for each row of weights (k, n): (k,)."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    centred = x[None] - (shares @ x)[:, None]
    return np.asarray((shares * centred) @ y / (shares * centred**2).sum(axis=1))
