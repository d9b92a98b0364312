"""What was measured of a trial when its G first came below a threshold, between two records."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.frames import Results, chosen_trials


def common_threshold(results: Results, trials: pd.DataFrame) -> float | None:
    """The smallest threshold on G that all of these trials have passed, and none at its start; None without one."""
    passages = results.passages[~results.passages.relative.astype(bool)]
    mine = passages[passages.trial_id.isin(trials.trial_id)]
    passed = (mine.reached.astype(bool) & ~mine.at_init.astype(bool)).groupby(mine.epsilon).sum()
    usable = passed[passed == len(trials)]
    return None if usable.empty else float(usable.index.min())


def at_passage(results: Results, column: str, epsilon: float) -> pd.DataFrame:
    """Trials in the descent regime that passed the threshold, with `value`: the column at T(epsilon), its logarithm
    interpolated in that of the step between the records before and after."""
    passages = results.passages[~results.passages.relative.astype(bool) & results.passages.reached.astype(bool)]
    passed = passages[(passages.epsilon / epsilon - 1).abs() < 1e-4].set_index("trial_id").steps_to_stationarity
    trials = chosen_trials(results, "descent")
    trials = trials[trials.trial_id.isin(passed.index)]
    curves = dict(iter(results.records[results.records.step > 0].groupby("trial_id", sort=False)))
    values = [interpolated(curves.get(i), column, "step", float(passed[i])) for i in trials.trial_id]
    found = trials.assign(value=values, steps_to_stationarity=trials.trial_id.map(passed))
    return found[found.value.notna()]


def interpolated(curve: pd.DataFrame | None, column: str, along: str, at: float) -> float:
    """The column where `along` is `at`, both in logarithms; NaN outside the records that have it."""
    if curve is None:
        return float("nan")
    there = curve[(curve[column] > 0) & (curve[along] > 0) & np.isfinite(curve[column].astype(float))].sort_values(
        along
    )
    if there.empty or not there[along].iloc[0] <= at <= there[along].iloc[-1]:
        return float("nan")
    log_x, log_y = (np.log(there[name].to_numpy(dtype=float)) for name in (along, column))
    return float(np.exp(np.interp(np.log(at), log_x, log_y)))
