"""Lines of the ledger on the tangent kernel, and on what is near to a model with a fixed one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.frames import Results, chosen_trials, passage_frame
from analysis.ledger import INFINITY, Evidence, predicts
from analysis.passing import interpolated
from analysis.slopes import WIDTH, mean_over_seeds, named, over_width, slope, split_groups, too_few

JACOT = "arXiv 1806.07572"
SIMILARITY = "loss.similarity"
HALF = (-0.6, -0.4)
"""m^-1/2 with its margin."""
UNMEASURED = "the kernel was not measured"
KERNEL_CURVES = ("time", "kernel_drift_query", "kernel_drift_key")


@predicts("ntk-drift", JACOT, records=KERNEL_CURVES)
def ntk_drift(results: Results) -> Iterator[Evidence]:
    """The relative drift of the tangent kernel, at one time η t, falls at least as m^-0.4."""
    frame, reason = _drifts(results)
    what = "slope of the kernel's drift at one time η t"
    if reason:
        yield Evidence(what=what, reason=reason)
        return
    for group, part in over_width(results, frame):
        at = frame["at_time"].iloc[0]
        yield slope(part, WIDTH, named(f"slope of the kernel's drift at η t = {at:.3g}", group), (-INFINITY, -0.4))


def _drifts(results: Results) -> tuple[pd.DataFrame, str]:
    """Trials in the descent regime with `value`, their kernel's drift at a time that all have reached."""
    trials, curves = chosen_trials(results, "descent"), _kernel_curves(results)
    curves = {i: curves[i] for i in trials.trial_id if i in curves}
    long_enough = {i: c for i, c in curves.items() if len(c) >= 3}
    if not long_enough:
        return trials.iloc[:0], f"{UNMEASURED} along the way: ask for measure: {{kernel: [start, decades, end]}}"
    at = min(float(c.time.max()) for c in long_enough.values())
    values = {i: interpolated(c, "drift", "time", at) for i, c in long_enough.items()}
    frame = trials.assign(value=trials.trial_id.map(values), at_time=at)
    return frame[frame.value.notna()], ""


def _kernel_curves(results: Results) -> dict[str, pd.DataFrame]:
    """Of each trial, time and drift at records after the start where the kernel was measured."""
    records = results.records
    if "kernel_drift_query" not in records:
        return {}
    drift = (records.kernel_drift_query + records.kernel_drift_key) / 2
    there = records.assign(drift=drift)[drift.notna() & (records.step > 0)]
    columns = there[["trial_id", "step", "time", "drift"]]
    return {str(trial_id): curve for trial_id, curve in columns.groupby("trial_id", sort=False)}


@predicts("ntk-init", JACOT, records=("kernel_trace_query", "kernel_trace_key"))
def ntk_init(results: Results) -> Iterator[Evidence]:
    """The tangent kernel at the draw varies over seeds, relative to its mean, as m^-1/2."""
    what = "slope of the relative standard deviation over seeds of the kernel's trace at the draw"
    starts = results.records[results.records.step == 0]
    if "kernel_trace_query" not in starts or starts.kernel_trace_query.isna().all():
        yield Evidence(what=what, reason=f"{UNMEASURED} at the start: ask for measure: {{kernel: start}}")
        return
    traces = starts.set_index("trial_id")[["kernel_trace_query", "kernel_trace_key"]]
    frame = results.trials.join(traces.rename(columns=lambda name: f"start_{name}"), on="trial_id")
    for group, part in over_width(results, frame[frame.start_kernel_trace_query > 0]):
        yield _spread_slope(part, named(what, group))


def _spread_slope(part: pd.DataFrame, what: str) -> Evidence:
    """Jackknife over seeds of the slope of the relative standard deviation."""
    seeds = sorted(part.seed.unique())
    reason = too_few(part)
    if reason or len(seeds) < 4:
        return Evidence(what=what, reason=reason or f"{len(seeds)} seeds show no spread; it needs 4")
    value, points = _spreads(part)
    left_out = np.array([_spreads(part[part.seed != seed])[0] for seed in seeds])
    s = len(seeds)
    half = float(stats.t.ppf(0.975, s - 1) * np.sqrt((s - 1) / s * ((left_out - left_out.mean()) ** 2).sum()))
    low, high = value - half, value + half
    return Evidence(what=what, value=value, low=low, high=high, expected=HALF, num_trials=len(part), points=points)


def _spreads(part: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Slope against width of the relative standard deviation, both towers together, and its points."""
    by_width = part.groupby(WIDTH)[["start_kernel_trace_query", "start_kernel_trace_key"]]
    relative = (by_width.std() / by_width.mean()) ** 2
    spread = np.sqrt(relative.mean(axis=1))
    slope = np.polyfit(np.log(spread.index.to_numpy(dtype=float)), np.log(spread.to_numpy()), 1)[0]
    return float(slope), pd.DataFrame({"x": spread.index.astype(float), "y": spread.to_numpy()})


@predicts("similarity", "docs/science.md", records=KERNEL_CURVES)
def similarity(results: Results) -> Iterator[Evidence]:
    """Under inner products the kernel drifts more than under cosines at the same time η t, and ever more so."""
    what = "ratio of the kernel's drift, inner product over cosine"
    trials = chosen_trials(results, "descent")
    if SIMILARITY not in trials or set(trials[SIMILARITY]) != {"dot", "cosine"}:
        yield Evidence(what=what, reason="only one similarity has trials in the descent regime")
        return
    curves = _kernel_curves(results)
    rows = pd.concat([curves[i].assign(trial_id=i) for i in trials.trial_id if i in curves] or [pd.DataFrame()])
    if rows.empty:
        yield Evidence(what=what, reason=f"{UNMEASURED} along the way")
        return
    keyed = rows.merge(trials[["trial_id", WIDTH, "seed", SIMILARITY]], on="trial_id")
    cells = keyed.pivot_table(index=[WIDTH, "seed", "step", "time"], columns=SIMILARITY, values="drift")
    wide = cells.dropna().reset_index()
    wide["log_ratio"] = np.log(wide["dot"] / wide["cosine"])
    last = wide.sort_values("time").groupby([WIDTH, "seed"]).tail(1)
    if wide.groupby([WIDTH, "seed"]).size().min() < 2 or last.seed.nunique() < 3:
        yield Evidence(what=what, reason="too few times or seeds at which both were measured")
        return
    above = (0.0, INFINITY)
    found = mean_over_seeds(
        last.log_ratio, last, f"{what}, logarithm of it at the last common time, of all widths together", above
    )
    yield replace(found, points=_against_width(last, last.log_ratio), is_level=True)
    growth = pd.DataFrame(
        [
            {WIDTH: key[0], "seed": key[1], "slope": np.polyfit(np.log(cell.time), cell.log_ratio, 1)[0]}
            for key, cell in wide.groupby([WIDTH, "seed"])
        ]
    )
    found = mean_over_seeds(
        growth.slope, growth, f"slope in time of the logarithm of the {what}, of all widths together", above
    )
    yield replace(found, points=_against_width(growth, growth.slope), is_level=True)


def _against_width(rows: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"x": rows[WIDTH].astype(float), "y": values, "seed": rows.seed})


@predicts("twin", "arXiv 1902.06720")
def twin(results: Results) -> Iterator[Evidence]:
    """The curve of G comes closer to that of the linearized twin as width grows (cosine)."""
    what = "slope of the mean distance of ln G to the twin's"
    trials = chosen_trials(results, "descent")
    if "twin_distance" not in trials or trials.twin_distance.isna().all():
        yield Evidence(what=what, reason="no trial has a linearized twin")
        return
    there = trials[trials.twin_distance > 0].assign(value=lambda rows: rows.twin_distance)
    yield slope(there, WIDTH, what, (-INFINITY, 0.0))


@predicts("separation", "arXiv 1811.03962", records=("kernel_smallest_query",))
def separation(results: Results) -> Iterator[Evidence]:
    """With planted close pairs, the loss's decrease and the kernel's smallest eigenvalue grow with their distance."""
    axis = results.axis("separation")
    what = "slope against the distance"
    if axis is None:
        yield Evidence(what=what, reason="the distance of planted pairs is not swept")
        return
    trials = chosen_trials(results, "descent")
    trials = trials.assign(decrease=trials.loss_init - trials.loss)
    starts = results.records[results.records.step == 0].set_index("trial_id")
    columns = [("decrease", "decrease of the loss", (0.0, INFINITY))]
    if "kernel_smallest_query" in starts and starts.kernel_smallest_query.notna().any():
        trials = trials.assign(smallest=trials.trial_id.map(starts.kernel_smallest_query))
        columns.append(("smallest", "kernel's smallest eigenvalue at the draw", (0.0, INFINITY)))
    else:
        unmeasured = "slope of the kernel's smallest eigenvalue against the distance"
        yield Evidence(what=unmeasured, reason=f"{UNMEASURED} at the start")
    for group, part in split_groups(results, trials, axis):
        for column, words, expected in columns:
            usable = part[part[column] > 0].assign(value=part[column])
            yield slope(usable, axis, named(f"slope of the {words} against the distance", group), expected)
        yield from _time_slope(results, part, axis, named("slope of T(ε) against the distance", group))


def _time_slope(results: Results, part: pd.DataFrame, axis: str, what: str) -> Iterator[Evidence]:
    """Reported: how long training takes, at the smallest threshold that half of the trials or more have passed."""
    frame = passage_frame(results)
    frame = frame[frame.trial_id.isin(part.trial_id)]
    passed = 1 - frame.groupby("epsilon").censored.mean()
    if passed[passed >= 0.5].empty:
        return
    level = passed[passed >= 0.5].index.min()
    rows = frame[frame.epsilon == level].assign(value=lambda rows: rows.steps_to_stationarity)
    yield slope(rows, axis, f"{what}, ε = {level:.3g}", None, censored="censored")
