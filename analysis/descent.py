"""Whether the share of steps that violate descent tells the trials that settle from those that do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.frames import Results
from analysis.thresholds import judged

DESCENT_REGIME = 0.01
"""Trials in which at most this share of the steps violates descent are in the descent regime."""
EDGE = 0.5
"""Above this share, trials are at the edge of stability."""


@dataclass(frozen=True)
class Cut:
    """The share of violating steps that best tells settled trials, at or below it, from the others, above."""

    low: float
    high: float
    """Every share from `low` up to, but not, `high` is as good: no trial lies between."""
    num_wrong: int
    """Trials on the wrong side."""


def descent_frame(results: Results) -> pd.DataFrame:
    """Judged trials whose steps were checked and whose final G is a number."""
    trials = judged(results)
    return trials[trials.violating_share.notna() & np.isfinite(trials.scaled_grad_norm_sq.astype(float))]


def best_cut(share: pd.Series[float], settled: pd.Series[bool]) -> Cut:
    """The cut with the fewest trials on the wrong side; of equals, the widest in logarithms, then the lowest."""
    frame = pd.DataFrame({"share": share.astype(float), "settled": settled.astype(bool)})
    counts = frame.groupby("share").settled.agg(["sum", "size"])
    low = np.concatenate([[-np.inf], counts.index.to_numpy()])
    high = np.concatenate([counts.index.to_numpy(), [np.inf]])
    settled_above = counts["sum"].sum() - np.concatenate([[0], counts["sum"].cumsum()])
    others_below = np.concatenate([[0], (counts["size"] - counts["sum"]).cumsum()])
    wrong = settled_above + others_below
    width = np.log(np.clip(high, 1e-6, 2)) - np.log(np.clip(low, 1e-6, 2))
    best = min(range(len(low)), key=lambda i: (wrong[i], -width[i], low[i]))
    return Cut(float(low[best]), float(high[best]), int(wrong[best]))


def descent_sentences(trials: pd.DataFrame) -> str:
    """What the trials say, in numbers; the frame has `violating_share` and `stationary`, both without gaps."""
    share, settled = trials.violating_share.astype(float), trials.stationary.astype(bool)
    parts = [
        _counted(settled[share <= DESCENT_REGIME], "with up to 1 % of violating steps"),
        _counted(settled[(share > DESCENT_REGIME) & (share <= EDGE)], "from 1 % to 50 %"),
        _counted(settled[share > EDGE], "above 50 %"),
    ]
    told = "; ".join(words for words in parts if words)
    return f"{told[:1].upper()}{told[1:]}. {_verdict(share, settled)}"


def _counted(settled: pd.Series[bool], where: str) -> str:
    """How many of the trials with a share `where` are stationary."""
    count, stationary = len(settled), int(settled.sum())
    if not count:
        return ""
    if count == 1:
        return f"the one trial {where} is {'' if stationary else 'not '}stationary"
    if stationary == count:
        return f"all {count} trials {where} are stationary"
    if not stationary:
        return f"none of the {count} trials {where} is stationary"
    return f"{stationary} of the {count} trials {where} {'is' if stationary == 1 else 'are'} stationary"


def _verdict(share: pd.Series[float], settled: pd.Series[bool]) -> str:
    if settled.nunique() < 2:
        return "There is nothing to tell apart."
    cut, without = best_cut(share, settled), int(min(settled.sum(), (~settled).sum()))
    if cut.num_wrong == without:
        return "The share of violating steps does not tell the two apart: no cut is better than none."
    span = _span(cut.low, cut.high)
    if cut.num_wrong == 0:
        return f"Any cut {span} tells the two apart."
    return (
        f"No cut tells all of them apart: the best, {span}, leaves {cut.num_wrong} of {len(share)} trials on the wrong "
        f"side, where guessing the more frequent outcome leaves {without}."
    )


def _span(low: float, high: float) -> str:
    """Both shares in percent, with as many digits as tell them apart."""
    pairs = [(f"{100 * low:.{digits}g}", f"{100 * high:.{digits}g}") for digits in range(2, 9)]
    plain = [pair for pair in pairs if "e" not in "".join(pair)]
    first, last = next((pair for pair in plain if pair[0] != pair[1]), pairs[-1])
    return f"from {first} % to {last} %"
