"""What is seen in the figures of a report, in numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.first_passages import median_steps
from analysis.frames import ENDED, Results, short
from analysis.laws_of_sweep import SweepFit, interval, number
from analysis.layout import main_axes, word
from analysis.report_figures import Layout, drawn_laws, layout_of
from analysis.thresholds import judged

MOST_TOLD = 3
"""Groups or laws that a caption tells of."""


def counted(frame: pd.DataFrame) -> str:
    """`40 trials, 4 seeds`."""
    trials, seeds = frame.trial_id.nunique(), frame.seed.nunique()
    return f"{trials} trial{'s' if trials != 1 else ''}, {seeds} seed{'s' if seeds != 1 else ''}"


def directions(results: Results, frame: pd.DataFrame, column: str, what: str) -> str:
    """How the median of a column moves from the smallest to the largest value along x, for each group.

    Such as `The median number of steps falls from 810 at width 32 to 240 at width 512 (depth 1)`; of words along x, the
    smallest and the largest median.
    """
    layout = layout_of(results)
    told = [
        text for text in (_direction(layout, group.of(frame), column, group.title) for group in layout.groups) if text
    ]
    if not told:
        return ""
    rest = len(told) - MOST_TOLD
    more = f"; {rest} more groups are in the figure" if rest > 0 else ""
    return f" Seen: {what} {'; '.join(told[:MOST_TOLD])}{more}."


def _direction(layout: Layout, part: pd.DataFrame, column: str, title: str) -> str:
    known = part[np.isfinite(part[column].astype(float))]
    suffix = f" ({title})" if title else ""
    if known.empty:
        return ""
    if layout.scale is None:
        return f"is {number(float(known[column].median()))}{suffix}"
    middle = known.groupby(layout.scale.axis)[column].median()
    words = dict(zip(layout.scale.values, layout.scale.words, strict=True))
    middle = middle.sort_index() if layout.scale.is_numeric else middle.sort_values()
    name, (first, last) = short(layout.scale.axis), (middle.index[0], middle.index[-1])
    if len(middle) == 1:
        return f"is {number(float(middle.iloc[0]))} at {name} {words[first]}{suffix}"
    low, high = float(middle.iloc[0]), float(middle.iloc[-1])
    if not layout.scale.is_numeric:
        return f"lies between {number(low)} ({words[first]}) and {number(high)} ({words[last]}){suffix}"
    verb = (
        "stays near" if abs(np.log(max(high, 1e-300) / max(low, 1e-300))) < 0.05 else "falls" if high < low else "rises"
    )
    if verb == "stays near":
        return f"stays near {number(low)} from {name} {words[first]} to {words[last]}{suffix}"
    return f"{verb} from {number(low)} at {name} {words[first]} to {number(high)} at {name} {words[last]}{suffix}"


def seen_shares(results: Results) -> str:
    """How many of the judged trials are stationary."""
    trials = judged(results)
    if trials.empty:
        return ""
    start = f" Seen: {int(trials.stationary.sum())} of {len(trials)} trials are stationary"
    axis, _ = main_axes(results)
    if axis is None:
        return f"{start}; n = {counted(trials)}."
    by_value = trials.groupby(axis).stationary.agg(["sum", "size"]).sort_index()
    ends = [
        f"{int(row['sum'])} of {int(row['size'])} at {short(axis)} {word(value)}" for value, row in by_value.iterrows()
    ]
    return f"{start}, {ends[0]} and {ends[-1]}; n = {counted(trials)}."


def seen_heat(frame: pd.DataFrame, x: str, y: str) -> str:
    """The shortest and the longest median of the cells, and how many cells are not whole."""
    cells = median_steps(frame, x, y)
    known = cells.dropna(subset="median")
    if known.empty:
        return ""
    ordered = known.sort_values("median").to_dict("records")
    at = [f"{number(c['median'])} steps at {short(x)} {c[x]:g}, {short(y)} {c[y]:g}" for c in (ordered[0], ordered[-1])]
    lacking = int((cells.reached < cells.trials).sum())
    whole = (
        f"in {lacking} of {len(cells)} cells not all trials got there"
        if lacking
        else "in every cell all trials got there"
    )
    return f" Seen: from {at[0]} to {at[1]}; {whole}; n = {counted(frame)}."


def seen_laws(fits: list[SweepFit]) -> str:
    """Exponents of the first laws drawn."""
    told = list(_exponents(fits))
    rest = len(told) - MOST_TOLD
    more = f"; {rest} more are in the table of laws" if rest > 0 else ""
    return f" Seen: {'; '.join(told[:MOST_TOLD])}{more}." if told else ""


def _exponents(fits: list[SweepFit]) -> Iterator[str]:
    for title, laws in drawn_laws(fits).items():
        for fitted in laws:
            assert fitted.fit is not None
            found = {name: e for name, e in fitted.fit.parameters.items() if name.startswith("a")}
            words = [f"{name} = {number(e.value)} {interval(e, fitted.fit.confidence)}" for name, e in found.items()]
            yield f"{title}: {fitted.spec['law']} with {' and '.join(words)}, n = {fitted.fit.num_points}"


def seen_residuals(fits: list[SweepFit]) -> str:
    """How far trials scatter about the law that fits best and the one that fits worst."""
    laws = [f for found in drawn_laws(fits).values() for f in found if f.fit is not None]
    if not laws:
        return ""
    spread = [(fitted.fit.sigma, fitted.title) for fitted in laws if fitted.fit is not None]
    low, high = min(spread), max(spread)
    text = f" Seen: a standard deviation of {number(low[0])}, which is a factor of {np.exp(low[0]):.3g} ({low[1]})"
    more = f", up to {number(high[0])}, a factor of {np.exp(high[0]):.3g} ({high[1]})" if high[0] > low[0] else ""
    return f"{text}{more}."


def seen_unreached(results: Results) -> str:
    """The share not reached at the largest and at the smallest threshold."""
    ended = results.trials.loc[results.trials.status.isin(ENDED), ["trial_id", "seed"]]
    absolute = results.passages[~results.passages.relative.astype(bool)] if len(results.passages) else results.passages
    frame = absolute.merge(ended, on="trial_id")
    if frame.empty:
        return ""
    share = 1 - frame.assign(reached=frame.reached.astype(bool)).groupby("epsilon").reached.mean().sort_index()
    ends = [f"{share[epsilon]:.0%} at ε = {epsilon:.3g}" for epsilon in (share.index.max(), share.index.min())]
    return f" Seen, over all trials: {ends[0]} and {ends[1]}; n = {counted(frame)}."
