"""Two sweeps side by side: what was set differently, and which differences of the outcomes are more than chance.

A difference is called real if its 95% interval excludes 0. Intervals of differences are made from those of the two
values (MOVER: Zou & Donner 2008; for shares Newcombe 1998), which takes the sweeps as independent. Sweeps that share
draws are positively correlated, so for them these intervals are too wide rather than too narrow. Times to stationarity
are compared in pairs of one draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.fitting import Estimate
from analysis.frames import Results, passage_frame
from analysis.intervals import wilson_interval
from analysis.laws_of_sweep import SweepFit, fit_sweep
from analysis.layout import word
from analysis.thresholds import judged

FEWEST_SEEDS = 3
"""Of an interval over paired seeds."""
COMMON_SHARE = 0.75
"""Of the trials of both sweeps that must have passed the threshold at which times are compared."""


@dataclass(frozen=True)
class Difference:
    """One quantity in both sweeps."""

    what: str
    first: Estimate
    second: Estimate
    difference: Estimate
    """Second less first; of times, the second over the first."""
    unchanged: float = 0.0
    """The difference of two that are the same."""
    note: str = ""

    @property
    def is_decided(self) -> bool:
        """Whether the data set both ends of its interval."""
        return math.isfinite(self.difference.low) and math.isfinite(self.difference.high)

    @property
    def is_real(self) -> bool:
        """Whether the interval of the difference excludes that of two that are the same."""
        return self.is_decided and not self.difference.low <= self.unchanged <= self.difference.high

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.is_decided:
            return "undecided by these data"
        if not self.is_real:
            return "not told apart"
        return "larger" if self.difference.value > self.unchanged else "smaller"


@dataclass(frozen=True)
class Comparison:
    """Two sweeps; the verdict of a difference is about the second."""

    names: tuple[str, str]
    settings: list[tuple[str, str, str]]
    """Those that differ: path, and the values in each."""
    statuses: tuple[dict[str, int], dict[str, int]]
    num_common: int
    """Trials that are in both, by their ids."""
    num_common_seeds: int
    differences: list[Difference]
    left_out: list[str]
    """What could not be compared, and why."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; an open limit is None."""
        differences = [asdict(each) | {"verdict": each.verdict, "is_real": each.is_real} for each in self.differences]
        content: dict[str, Any] = _closed(asdict(self) | {"differences": differences})
        return content


def compare(first: Results, second: Results) -> Comparison:
    """What differs between two sweeps."""
    left_out: list[str] = []
    differences = [
        *_shares(first, second, left_out),
        *_exponents(first, second, left_out),
        *_times(first, second, left_out),
    ]
    seeds = set(first.trials.get("seed", [])) & set(second.trials.get("seed", []))
    statuses = [{str(k): int(n) for k, n in r.trials.status.value_counts().items()} for r in (first, second)]
    return Comparison(
        names=(_name(first), _name(second)),
        settings=_settings(first, second),
        statuses=(statuses[0], statuses[1]),
        num_common=len(set(first.trials.trial_id) & set(second.trials.trial_id)),
        num_common_seeds=len(seeds),
        differences=differences,
        left_out=left_out,
    )


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Second less first, with its interval: Zou & Donner 2008, eq. 3, for independent estimates."""
    value = second.value - first.value
    low = value - math.hypot(second.value - second.low, first.high - first.value)
    high = value + math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(value, low, high)


def _shares(first: Results, second: Results, left_out: list[str]) -> Iterator[Difference]:
    """Of the trials of cells that both sweeps have."""
    axes = [axis for axis in _common_axes(first, second) if axis != "seed"]
    known = [judged(results) for results in (first, second)]
    if axes and not (known[0].empty or known[1].empty):
        cells = known[0][axes].drop_duplicates().merge(known[1][axes].drop_duplicates())
        known = [rows.merge(cells, on=axes) for rows in known]
    if known[0].empty or known[1].empty:
        left_out.append("stationary trials: the sweeps have no cell in common in which trials were judged")
        return
    shares = []
    for rows in known:
        low, high = wilson_interval(int(rows.stationary.sum()), len(rows))
        shares.append(Estimate(float(rows.stationary.mean()), low, high))
    note = f"of {len(known[0])} and {len(known[1])} in common cells"
    yield Difference("share of stationary trials", shares[0], shares[1], difference(*shares), note=note)


def _common_axes(first: Results, second: Results) -> list[str]:
    """What either sweeps, where both have the setting."""
    return [a for a in dict.fromkeys([*first.axes, *second.axes]) if a in first.trials and a in second.trials]


def _exponents(first: Results, second: Results, left_out: list[str]) -> Iterator[Difference]:
    """Of the laws that both experiments ask for, of the same groups of trials."""
    known = {_key(fitted): fitted for fitted in fit_sweep(first)}
    found = {_key(fitted): fitted for fitted in fit_sweep(second)}
    if not known.keys() & found.keys():
        left_out.append("exponents: the experiments ask for no law in common")
    for key in known:
        if key not in found:
            continue
        pair = known[key], found[key]
        what = f"{pair[0].title}: {pair[0].law_words}"
        if reason := next((fitted.reason for fitted in pair if fitted.fit is None), ""):
            left_out.append(f"{what}: {reason}")
            continue
        yield from _parameters(what, pair)


def _key(fitted: SweepFit) -> tuple[str, ...]:
    return fitted.title, fitted.law_words, str(fitted.spec.get("among"))


def _parameters(what: str, pair: tuple[SweepFit, SweepFit]) -> Iterator[Difference]:
    one, other = pair[0].fit, pair[1].fit
    assert one is not None
    assert other is not None
    doubt = next((fit.status for fit in (one, other) if fit.status != "converged"), "")
    for name in one.exponents:
        before, after = one.parameters[name], other.parameters[name]
        changed = difference(before, after)
        if doubt:
            changed = Estimate(changed.value, -math.inf, math.inf)
        yield Difference(f"{what}, {name}", before, after, changed, note=f"one fit is {doubt}" if doubt else "")


def _times(first: Results, second: Results, left_out: list[str]) -> Iterator[Difference]:
    """Ratio of steps to stationarity in pairs of one cell and one seed, and its interval over seeds."""
    if first.passages.empty or second.passages.empty:
        left_out.append("times to stationarity: no passages are known of one of the sweeps")
        return
    keys = [*dict.fromkeys([*_common_axes(first, second), "seed"]), "epsilon"]
    rows = [passage_frame(results, among="finished") for results in (first, second)]
    pairs = rows[0].merge(rows[1], on=keys, suffixes=("", "_second"))
    pairs = pairs[pairs.trial_id != pairs.trial_id_second]
    if pairs.empty:
        left_out.append("times to stationarity: no cell and seed has a trial in both, or only the very same trial")
        return
    reached = ~(pairs.censored | pairs.censored_second)
    share = reached.groupby(pairs.epsilon).mean()
    epsilon = share[share >= COMMON_SHARE].index.min() if (share >= COMMON_SHARE).any() else share.idxmax()
    at = pairs[(pairs.epsilon == epsilon) & reached]
    what = f"steps until G ≤ {epsilon:.3g}"
    if at.seed.nunique() < FEWEST_SEEDS:
        left_out.append(f"{what}: {at.seed.nunique()} seeds in common got there in both; it takes {FEWEST_SEEDS}")
        return
    yield _ratio(what, at, num_missed=int((pairs.epsilon == epsilon).sum()) - len(at))


def _ratio(what: str, pairs: pd.DataFrame, *, num_missed: int) -> Difference:
    times = pairs[["steps_to_stationarity", "steps_to_stationarity_second"]].astype(float)
    ratios = times.iloc[:, 1] / times.iloc[:, 0]
    logs = ratios.map(math.log).groupby(pairs.seed).mean()
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    low, middle, high = (float(np.exp(logs.mean() + side * half)) for side in (-1, 0, 1))
    before, after = (Estimate(float(v), float(v), float(v)) for v in times.median())
    missed = f"; left out: {num_missed} pairs of which one did not get there" if num_missed else ""
    note = f"{len(pairs)} pairs of {len(logs)} seeds{missed}; medians, and the ratio of a pair"
    return Difference(what, before, after, Estimate(middle, low, high), unchanged=1.0, note=note)


def _settings(first: Results, second: Results) -> list[tuple[str, str, str]]:
    """Settings of which the sweeps have not the same values."""
    columns = [list(r.trials.columns[2 : r.trials.columns.get_loc("status")]) for r in (first, second)]
    found = []
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        before, after = _values(first, name), _values(second, name)
        if before != after:
            found.append((name, before, after))
    budgets = [results.experiment.get("budget") or {} for results in (first, second)]
    for key in sorted(set(budgets[0]) | set(budgets[1])):
        values = [word(budget[key]) if budget.get(key) is not None else "–" for budget in budgets]
        if values[0] != values[1]:
            found.append((f"budget.{key}", values[0], values[1]))
    return found


def _values(results: Results, name: str) -> str:
    """Distinct values of a setting, a few of them; a dash where the sweep does not have it."""
    if name not in results.trials:
        return "–"
    values = list(dict.fromkeys(word(value) for value in results.trials[name].dropna().tolist()))
    shown = ", ".join(values[:6]) or "–"
    return f"{shown}, … ({len(values)} values)" if len(values) > 6 else shown


def _name(results: Results) -> str:
    return str(results.folder) if results.folder is not None else str(results.experiment["name"])


def _closed(value: Any) -> Any:
    """Without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _closed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_closed(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
