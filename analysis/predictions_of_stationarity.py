"""Lines of the ledger on whether, when and where training becomes stationary, and on the draw that it begins from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.fitting import fit_law
from analysis.frames import ENDED, Results, chosen_trials, passage_frame, short
from analysis.intervals import wilson_interval
from analysis.layout import labels
from analysis.ledger import INFINITY, Evidence, Word, predicts
from analysis.segments import segments
from analysis.slopes import FEWEST_WIDTHS, WIDTH, mean_over_seeds, named, other_axes, over_width, slope, too_few
from analysis.thresholds import MOST, stationary_shares

WEN = "arXiv 2002.06979"
JOINT_TRIALS = 40
"""Fewest trials that can show a share of 0.9 from below."""
ANGLE_ERROR = 0.05
RUNNING_MIN = "running_min_scaled_grad_norm_sq"
FLOOR_SHARE = 0.5
"""Of the smallest G seen, below which a floor must end for trials to show that it may be 0."""


@predicts("descent", WEN)
def descent(results: Results) -> Iterator[Evidence]:
    """Where no step violates descent, the slack of the descent inequality is at most 1. A check of the code."""
    trials = results.trials
    clean = trials[(trials.status == "finished") & (trials.violating_share == 0) & trials.slack.notna()]
    if clean.empty:
        yield Evidence(what="largest slack", reason="every trial violates descent at some step")
        return
    points = pd.DataFrame({"x": clean[WIDTH].astype(float), "y": clean.slack, "trial_id": clean.trial_id})
    yield _at_most_one("largest slack of the trials without a violation", points)


def _at_most_one(what: str, points: pd.DataFrame, *, variable: str = "width") -> Evidence:
    """The largest of the points, of which theory says that it is at most 1."""
    most = float(points.y.max())
    return Evidence(
        what=what,
        value=most,
        low=most,
        high=most,
        expected=(-INFINITY, 1.0),
        num_trials=points.trial_id.nunique(),
        points=points,
        is_level=True,
        variable=variable,
    )


@predicts("time-eps", WEN)
def time_eps(results: Results) -> Iterator[Evidence]:
    """T(ε) · ε ≤ 2 (L_0 − L_inf) / η with ε on scaled G: at most ε^-1 steps, or ε^-2 of the norm."""
    trials = chosen_trials(results, "descent")
    if "optimizer.name" in trials:
        trials = trials[trials["optimizer.name"] == "gd"]
    drop = trials.set_index("trial_id").loss_init - trials.set_index("trial_id").loss
    eta = trials.set_index("trial_id").learning_rate
    passed = results.passages[results.passages.reached.astype(bool) & results.passages.trial_id.isin(trials.trial_id)]
    passed = passed[~passed.relative.astype(bool) & ~passed.at_init.astype(bool)]
    share = passed.steps_to_stationarity * passed.epsilon * passed.trial_id.map(eta) / (2 * passed.trial_id.map(drop))
    what = "largest T(ε) · ε · η / (2 (L_0 − L at the end)), over trials and thresholds"
    if share.empty:
        yield Evidence(what=what, reason="no trial of gradient descent in the descent regime passed a threshold")
        return
    points = pd.DataFrame({"x": passed.epsilon, "y": share, "trial_id": passed.trial_id})
    yield _at_most_one(what, points, variable="ε")


@predicts("rate", WEN, records=("running_min_scaled_grad_norm_sq", "violating_share"))
def rate(results: Results) -> Iterator[Evidence]:
    """Local slopes of min G in T; theory bounds the level of min G, not its slope."""
    trials = chosen_trials(results, "descent")
    curves = dict(iter(results.records.groupby("trial_id", sort=False)))
    found = {i: [s for s in segments(curves[i]) if not s.violates] for i in trials.trial_id if i in curves}
    widths = trials.set_index("trial_id")[WIDTH].astype(float)
    for title, pick in (("first", 0), ("last", -1)):
        slopes = pd.Series({i: pieces[pick].slope for i, pieces in found.items() if pieces}, dtype=float)
        what = f"slope of min G in T on the {title} piece of a curve, median over trials, with the middle 95% of them"
        if slopes.empty:
            yield Evidence(what=what, reason="no curve of a trial in the descent regime is long enough")
            continue
        low, middle, high = np.quantile(slopes, [0.025, 0.5, 0.975])
        at = widths.loc[slopes.index].to_numpy()
        points = pd.DataFrame({"x": at, "y": slopes.to_numpy(), "trial_id": slopes.index})
        yield Evidence(
            what=what,
            value=float(middle),
            low=float(low),
            high=float(high),
            num_trials=len(slopes),
            points=points,
            is_level=True,
        )


@predicts("width-floor", WEN, records=("running_min_scaled_grad_norm_sq",))
def width_floor(results: Results) -> Iterator[Evidence]:
    """Wider pairs get closer to G = 0: in min G = E + A T^-a the floor E falls with width, or is 0 with intervals that
    end below half of the smallest G that was seen."""
    trials = chosen_trials(results, "descent")
    records = results.records[(results.records.step > 0) & results.records.trial_id.isin(trials.trial_id)]
    rows = records.merge(trials[["trial_id", "seed", WIDTH, *other_axes(results, WIDTH)]], on="trial_id")
    for group, part in over_width(results, rows):
        found = [(width, _floor(curve)) for width, curve in part.groupby(WIDTH)]
        levels = [(width, floor) for width, floor in found if floor is not None]
        what = named("floor E of min G, the largest over widths", group)
        unfitted = "" if len(levels) >= FEWEST_WIDTHS else "no offset power could be fitted at three widths"
        if reason := too_few(part) or unfitted:
            yield Evidence(what=what, reason=reason)
            continue
        above = [floor for _, floor in levels if floor[1] > 0]
        value, low, high = max(floor for _, floor in levels)
        smallest = part.groupby(WIDTH)[RUNNING_MIN].min()
        is_low = all(floor[2] <= FLOOR_SHARE * smallest[width] for width, floor in levels)
        falls = len(above) > 1 and all(a[1] > b[2] for a, b in pairwise(above))
        rises = len(above) > 1 and all(a[2] < b[1] for a, b in pairwise(above))
        settled = falls or (not above and is_low)
        word: Word = "consistent" if settled else "inconsistent" if rises else "undecided"
        counted = part.trial_id.nunique()
        points = pd.DataFrame([(width, *floor) for width, floor in levels], columns=["x", "y", "low", "high"])
        yield Evidence(
            what=what,
            value=value,
            low=low,
            high=high,
            decided=word,
            num_trials=counted,
            points=points,
            is_level=True,
        )


def _floor(curve: pd.DataFrame) -> tuple[float, float, float] | None:
    """E of the last two decades of a width's curves, with its interval."""
    late = curve[curve.step >= curve.step.max() / 100]
    try:
        fit = fit_law(late, law="offset-power", y=RUNNING_MIN, x="step", hold_out=False)
    except ValueError:
        return None
    offset = fit.parameters["E"]
    return offset.value, offset.low, offset.high


@predicts("coupling", WEN)
def coupling(results: Results) -> Iterator[Evidence]:
    """Trained jointly, nearly all pairs become stationary: the lower bound of their share is at least 0.9."""
    axis = results.axis("coupling")
    trials = results.trials[results.trials.status.isin(ENDED)]
    names = trials[axis] if axis is not None else pd.Series("joint", trials.index)
    joint = trials[(names == "joint") & trials.descent_regime.fillna(False).astype(bool)]
    settled = int(joint.stationary.fillna(False).astype(bool).sum())
    low, high = wilson_interval(settled, len(joint))
    what = "share of the jointly trained pairs in the descent regime that become stationary, with Wilson's interval"
    reason = "" if len(joint) >= JOINT_TRIALS else f"{len(joint)} such trials; it needs {JOINT_TRIALS}"
    share = settled / len(joint) if len(joint) else float("nan")
    in_regime = trials.descent_regime.fillna(False).astype(bool)
    points, kinds = _shares(trials[in_regime], names[in_regime])
    yield Evidence(
        what=what,
        value=share,
        low=low,
        high=high,
        expected=(0.9, 1.0),
        num_trials=len(joint),
        reason=reason,
        points=points,
        is_level=True,
        variable="coupling",
        kinds=kinds,
    )
    if axis is not None:
        yield from _contrasts(results, axis)


def _shares(trials: pd.DataFrame, names: pd.Series) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Share of stationary trials of each coupling with Wilson's interval, in the order of the names given back."""
    settled = trials.stationary.fillna(False).astype(bool).groupby(names.to_numpy()).agg(["sum", "count"])
    order = (
        ["joint", *(name for name in settled.index if name != "joint")] if "joint" in settled.index else settled.index
    )
    rows = [(x, k / n, *wilson_interval(k, n)) for x, (k, n) in enumerate(settled.loc[list(order)].to_numpy(), start=1)]
    return pd.DataFrame(rows, columns=["x", "y", "low", "high"]), tuple(map(str, order))


def _contrasts(results: Results, axis: str) -> Iterator[Evidence]:
    """How many times as long as joint training each coupling takes, by a log-normal accelerated failure time."""
    frame = passage_frame(results, among="finished")
    reached = 1 - frame[frame[axis] == "joint"].groupby("epsilon").censored.mean()
    if reached[reached >= MOST].empty:
        return
    level = reached[reached >= MOST].index.min()
    rows = frame[frame.epsilon == level]
    titles = labels(results, axis)
    for other in [value for value in rows[axis].unique() if value != "joint"]:
        pair = rows[rows[axis].isin(["joint", other])]
        title = titles.get(other, other)
        what = f"log of T({level:.3g}) under {title} over that under joint"
        behind = pair[axis] == other
        if pair.censored[behind].all():
            reason = f"none of {int(behind.sum())} trials under {title} reached it"
            yield Evidence(what=what, reason=reason, num_trials=len(pair))
            continue
        pair = pair.assign(value=pair.steps_to_stationarity, is_other=np.where(behind, np.e, 1.0))
        found = slope(pair, "is_other", what, None, censored="censored", fewest=2)
        yield replace(found, variable="coupling", kinds=("joint", title))


@predicts("threshold", "no exponent is predicted")
def threshold(results: Results) -> Iterator[Evidence]:
    """The width m*(n) from which on 90% of trials are stationary grows with the number of samples; where depth is
    swept instead, how it goes with that is reported."""
    other = next((axis for name in ("samples", "depth") if (axis := results.axis(name)) is not None), None)
    what = "power with which the width from which on 90% of trials are stationary grows"
    if other is None or WIDTH not in results.axes:
        yield Evidence(what=what, reason="width is not swept together with samples or depth")
        return
    shares = stationary_shares(results, [other, WIDTH])
    brackets = {value: _bracket(part) for value, part in shares.groupby(other)}
    known = {float(str(value)): bracket for value, bracket in brackets.items() if bracket is not None}
    what += f" with {short(other)}, least and most that the widths tried allow"
    if 2 <= len(known) < len(brackets):
        open_ended = ", ".join(f"{float(str(value)):g}" for value in brackets if float(str(value)) not in known)
        what += f"; left out: {short(other)} {open_ended}, whose width is outside those tried"
    if len(known) < 2:
        lacking = "a width that is stationary and a smaller one that is not are there for fewer than two values"
        yield Evidence(what=what, reason=lacking)
        return
    log_x = np.log(np.array(list(known)))
    weights = (log_x - log_x.mean()) / ((log_x - log_x.mean()) ** 2).sum()
    ends = weights[:, None] * np.log(np.array(list(known.values())))
    value, low, high = (float(f(ends, axis=1).sum().round(12)) for f in (np.mean, np.min, np.max))
    points = pd.DataFrame({"x": list(known), "y": [float(np.sqrt(a * b)) for a, b in known.values()]})
    yield Evidence(
        what=what,
        value=value,
        low=low,
        high=high,
        num_trials=int(shares.trials.sum()),
        points=points,
        variable=short(other),
    )


def _bracket(part: pd.DataFrame) -> tuple[float, float] | None:
    """The largest width below which most are not stationary, and the smallest from which on they are."""
    part = part.sort_values(WIDTH)
    settled = (part.share >= MOST).to_numpy()
    if settled.all() or not settled[-1]:
        return None
    last = int(np.flatnonzero(~settled)[-1])
    return float(part[WIDTH].iloc[last]), float(part[WIDTH].iloc[last + 1])


@predicts("angles", "Cho & Saul 2009", records=("median_angle_by_layer",))
def angles(results: Results) -> Iterator[Evidence]:
    """At the draw, angles between samples follow the ReLU map from layer to layer within 5%."""
    what = "ratio of the median angle at the draw to the map's"
    trials = results.trials
    residual = trials.get("encoder.residual")
    activation = trials.get("encoder.activation")
    keep = pd.Series(True, trials.index)
    if residual is not None:
        keep &= ~residual.fillna(False).astype(bool)
    if activation is not None:
        keep &= activation == "relu"
    starts = results.records[results.records.step == 0].set_index("trial_id")
    if "median_angle_by_layer" not in starts or not keep.any():
        yield Evidence(what=what, reason="no plain ReLU tower whose angles were measured at the start")
        return
    frame = trials[keep & (trials[WIDTH] == trials[keep][WIDTH].max())]
    ratios = pd.DataFrame([_angle_ratios(starts.median_angle_by_layer.get(i)) for i in frame.trial_id], frame.index)
    for depth, part in frame.groupby("encoder.depth") if "encoder.depth" in frame else [("", frame)]:
        mine = ratios.loc[part.index].dropna(axis=1)
        if mine.empty:
            yield Evidence(
                what=f"{what}, depth {depth}", reason="a trial of the widest towers has no angles at the start"
            )
            continue
        layer = int((mine.mean() - 1).abs().idxmax())
        width = f"width {part[WIDTH].iloc[0]:.0f}, depth {depth}"
        tower = "key" if layer >= 100 else "query"
        words = f"{what}, {width}, at its farthest layer ({layer % 100 + 1} of the {tower} tower)"
        found = mean_over_seeds(mine[layer], part, words, (1 - ANGLE_ERROR, 1 + ANGLE_ERROR))
        points = pd.DataFrame({"x": part.seed.astype(float), "y": mine[layer], "trial_id": part.trial_id})
        yield replace(found, points=points, is_level=True, variable="seed")


def _angle_ratios(measured: object) -> dict[int, float]:
    """Of each layer of both towers, the key's counted from 100: the measured angle over that which follows from h_0."""
    values = np.asarray([] if measured is None else measured, dtype=float)
    ratios = {}
    for tower, towers_angles in enumerate(values.reshape(2, -1) if len(values) >= 4 else []):
        angle = towers_angles[0]
        for layer, seen in enumerate(towers_angles[1:]):
            angle = np.arccos(np.clip((np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi, -1, 1))
            ratios[100 * tower + layer] = float(seen / angle)
    return ratios
