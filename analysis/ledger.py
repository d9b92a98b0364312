"""The ledger: every prediction of the theory as an object, and its verdict on the results of a sweep.

A verdict follows from an interval and a range alone: consistent if the 95% interval lies inside the range, inconsistent
if it lies outside, else undecided. Where a prediction does not say anything about these trials it is not applicable,
and where theory says nothing the estimate is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from analysis.fitting import Fit
from analysis.frames import Results

Word = Literal["consistent", "inconsistent", "undecided", "not-applicable", "reported"]
Range = tuple[float, float]
INFINITY = float("inf")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One estimate from one group of trials, or why there is none."""

    what: str
    """Such as `slope of the displacement at G = 0.001 against width, depth 2`."""
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    """Its 95% interval."""
    expected: Range | None = None
    """Where theory puts it, margins included; None where it says nothing."""
    decided: Word | None = None
    """The verdict where another rule than the range decides."""
    reason: str = ""
    """Why the prediction does not apply here; empty if it does."""
    num_trials: int = 0
    points: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    """What is estimated from: columns `x`, `y`, those of `trial_id` or `seed` if known, and `low` and `high` where a
    point has an interval of its own."""
    is_level: bool = False
    """Whether the estimate is a level of `y`, and not its slope against `x`."""
    fit: Fit | None = field(default=None, repr=False, compare=False)
    """The law through the points, if one was fitted."""
    variable: str = "width"
    """What `x` of the points is."""
    kinds: tuple[str, ...] = ()
    """Names of its values, in their order, where they are kinds and not numbers."""

    @property
    def word(self) -> Word:
        """The verdict."""
        if self.reason:
            return "not-applicable"
        if self.decided is not None:
            return self.decided
        if self.expected is None:
            return "reported"
        if not (np.isfinite(self.value) and self.low <= self.high):
            return "undecided"
        low, high = self.expected
        if low <= self.low and self.high <= high:
            return "consistent"
        return "inconsistent" if self.high < low or self.low > high else "undecided"


Estimator = Callable[[Results], Iterable[Evidence]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A line of the ledger."""

    name: str
    claim: str
    """What theory says, in a sentence."""
    source: str
    estimate: Estimator
    records: tuple[str, ...] = ()
    """Columns of records that it reads, beside `trial_id` and `step`, where they are there."""


@dataclass(frozen=True)
class Verdict:
    """What these results say about a prediction."""

    prediction: Prediction
    evidence: tuple[Evidence, ...]

    @property
    def word(self) -> Word:
        """Of all the evidence together: the worst of what applies."""
        words = [evidence.word for evidence in self.evidence]
        order: tuple[Word, ...] = ("inconsistent", "undecided", "consistent", "reported")
        return next((word for word in order if word in words), "not-applicable")


ORDER = (
    *("descent", "time-eps", "rate", "grad-width", "lr-width", "displacement", "rel-displacement", "ntk-drift"),
    *("ntk-init", "flips", "angles", "separation", "width-floor", "similarity", "coupling", "threshold", "twin"),
)
_KNOWN: dict[str, Prediction] = {}


def predicts(name: str, source: str, *, records: tuple[str, ...] = ()) -> Callable[[Estimator], Estimator]:
    """Register an estimator as the line of the ledger with this name; its docstring is the claim."""

    def add(estimate: Estimator) -> Estimator:
        if name in _KNOWN or name not in ORDER:
            raise ValueError(f"{name!r} is registered twice, or has no place in ORDER")
        claim = " ".join((estimate.__doc__ or "").split())
        _KNOWN[name] = Prediction(name=name, claim=claim, source=source, estimate=estimate, records=records)
        return estimate

    return add


def ledger() -> dict[str, Prediction]:
    """Every line by its name, in their order."""
    from analysis import predictions_of_kernels, predictions_of_stationarity, predictions_of_width  # noqa: F401

    return {name: _KNOWN[name] for name in ORDER}


def judge(results: Results, names: Iterable[str]) -> list[Verdict]:
    """The verdicts of these results on the predictions of these names, in the order of the ledger.

    Raises:
        ValueError: there is no such prediction.
    """
    wanted, known = list(names), ledger()
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no prediction {unknown[0]!r}; there are {', '.join(known)}")
    return [Verdict(p, tuple(p.estimate(results))) for name, p in known.items() if name in wanted]
