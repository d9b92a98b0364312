"""Slopes against width and means over seeds, as evidence for the ledger: the seed is the cluster everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from analysis.fitting import fit_law
from analysis.frames import Results, short
from analysis.layout import Group, groups, main_axes
from analysis.ledger import Evidence, Range

WIDTH = "encoder.width"
FEWEST_WIDTHS = 3


def over_width(
    results: Results, frame: pd.DataFrame, *, besides: str | None = None
) -> Iterator[tuple[Group, pd.DataFrame]]:
    """The rows by every swept setting other than width and seed; one group without rows where width is not swept."""
    if WIDTH not in results.axes:
        yield Group("", {}), frame.iloc[:0]
        return
    yield from split_groups(results, frame, WIDTH, besides)


def split_groups(results: Results, frame: pd.DataFrame, *along: str | None) -> Iterator[tuple[Group, pd.DataFrame]]:
    for group in groups(results, other_axes(results, *along)):
        part = group.of(frame)
        if len(part):
            yield group, part


def other_axes(results: Results, *along: str | None) -> list[str]:
    main, others = main_axes(results)
    return [axis for axis in ([] if main is None else [main]) + others if axis not in along]


def slope(
    part: pd.DataFrame,
    x: str,
    what: str,
    expected: Range | None,
    *,
    censored: str | None = None,
    fewest: int = FEWEST_WIDTHS,
    num_trials: int | None = None,
) -> Evidence:
    """Power of `x` in the column `value`, with the seed as the cluster."""
    counted = num_trials or len(part)
    if reason := too_few(part, x, fewest):
        return Evidence(what=what, reason=reason, num_trials=counted)
    try:
        fit = fit_law(part, law="power", y="value", x=x, censored=censored, hold_out=False)
    except ValueError as error:
        return Evidence(what=what, reason=str(error), num_trials=counted)
    a = fit.parameters["a"]
    points = pd.DataFrame({"x": part[x].astype(float), "y": part.value.astype(float), "seed": part.seed})
    if censored:
        points = points.assign(censored=part[censored].astype(bool))
    return Evidence(
        what=what,
        value=-a.value,
        low=-a.high,
        high=-a.low,
        expected=expected,
        num_trials=counted,
        points=points,
        fit=fit,
        variable=short(x),
    )


def too_few(part: pd.DataFrame, x: str = WIDTH, fewest: int = FEWEST_WIDTHS) -> str:
    """Why a slope against x cannot be estimated from these rows; empty if it can."""
    seen = part[x].nunique() if x in part else 0
    words = "width" if x == WIDTH else short(x)
    if seen < fewest:
        return f"usable trials have {seen} values of {words}; a slope needs {fewest}"
    if part.seed.nunique() < 3:
        return f"usable trials have {part.seed.nunique()} seeds; an interval needs 3"
    return ""


def mean_over_seeds(values: pd.Series, rows: pd.DataFrame, what: str, expected: Range) -> Evidence:
    """Mean over seeds of the seeds' means, with Student's interval."""
    by_seed = values.groupby(rows.seed).mean()
    if len(by_seed) < 3:
        return Evidence(what=what, reason=f"usable trials have {len(by_seed)} seeds; an interval needs 3")
    middle = float(by_seed.mean())
    half = float(stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std() / np.sqrt(len(by_seed)))
    counted = len(rows)
    return Evidence(
        what=what, value=middle, low=middle - half, high=middle + half, expected=expected, num_trials=counted
    )


def named(what: str, group: Group) -> str:
    return f"{what}, {group.title}" if group.title else what
