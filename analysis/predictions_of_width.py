"""Lines of the ledger on how gradients, learning rates and distances scale with width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.frames import ENDED, Results, chosen_trials
from analysis.ledger import Evidence, Range, predicts
from analysis.passing import at_passage, common_threshold
from analysis.slopes import WIDTH, named, other_axes, over_width, slope

ALLEN_ZHU = "arXiv 1811.03962"
SIMILARITY, PARAMETRIZATION = "loss.similarity", "encoder.parametrization"
HALF = (-0.6, -0.4)
"""m^-1/2 with its margin."""
EDGE_STEPS = 100


@predicts("grad-width", ALLEN_ZHU, records=("grad_norm_sq", "grad_norm_sq_by_layer"))
def grad_width(results: Results) -> Iterator[Evidence]:
    """The raw squared gradient of the hidden layers starts as m^1 (allen-zhu, standard) or m^0 (ntk)."""
    starts = results.records[results.records.step == 0].set_index("trial_id")
    hidden = _hidden(results.trials.set_index("trial_id"), starts)
    frame = results.trials.assign(value=results.trials.trial_id.map(hidden))
    for group, part in over_width(results, frame[frame.value > 0]):
        rule = part[PARAMETRIZATION].iloc[0] if len(part) else ""
        expected = {"allen-zhu": (0.9, 1.1), "standard": (0.9, 1.1), "ntk": (-0.1, 0.1)}.get(rule)
        yield slope(part, WIDTH, named("slope of the raw squared gradient at the start", group), expected)


def _hidden(trials: pd.DataFrame, starts: pd.DataFrame) -> pd.Series[float]:
    """Squared norm of the gradient in the hidden layers of both towers."""
    ends = trials["encoder.train_ends"].fillna(False).astype(bool) if "encoder.train_ends" in trials else None
    if ends is None or not ends.any():
        return starts.grad_norm_sq
    depths, found = trials["encoder.depth"].astype(int).to_dict(), dict[str, float]()
    with_ends = ends.to_dict()
    for trial_id, by_layer in starts.grad_norm_sq_by_layer.to_dict().items():
        layers, depth = np.asarray(by_layer, dtype=float), depths[trial_id]
        inside = layers[: 2 * (depth + 2)].reshape(2, -1)[:, 1:-1] if with_ends[trial_id] else layers[: 2 * depth]
        found[str(trial_id)] = float(inside.sum())
    return pd.Series(found, dtype=float)


@predicts("lr-width", ALLEN_ZHU, records=("loss", "scaled_grad_norm_sq_query", "grad_norm_sq_query"))
def lr_width(results: Results) -> Iterator[Evidence]:
    """The largest rate ηP of the weights at which the loss stays below its start for 100 steps goes as m^-1 (allen-zhu,
    standard) or m^0 (ntk), under inner products. It lies between two rates of the axis; so much wider is the interval.
    """
    what = f"slope of the largest ηP with L_t ≤ L_0 for t ≤ {EDGE_STEPS}"
    rate_axis = results.axis("c") or results.axis("value")
    trials = results.trials[results.trials.status.isin(ENDED) & (results.trials.get(SIMILARITY, "dot") == "dot")]
    if rate_axis is None or trials.empty:
        yield Evidence(what=what, reason="no axis of learning rates under inner products")
        return
    early = results.records[results.records.step <= EDGE_STEPS].merge(trials[["trial_id", "loss_init"]], on="trial_id")
    stays = (early.loss <= early.loss_init).groupby(early.trial_id).all()
    descends = trials.trial_id.map(stays).fillna(False) & (trials.status == "finished")
    trials = trials.assign(descends=descends, rate=_rates_of_weights(results, trials, rate_axis))
    keys = [WIDTH, "seed", *other_axes(results, WIDTH, rate_axis)]
    cells = [cell for _, cell in trials.groupby(keys, dropna=False)]
    below, above = np.array([_around_largest_rate(cell) for cell in cells]).T
    largest = pd.DataFrame([cell[keys].iloc[0] for cell in cells])
    largest = largest.assign(value=np.sqrt(below * above), error=np.log(above / below) / 2)
    if largest.value.isna().any():
        lacking = f"at {int(largest.value.isna().sum())} of {len(largest)} widths and seeds all rates descend, or none"
        yield Evidence(what=what, reason=lacking)
        return
    for group, part in over_width(results, largest, besides=rate_axis):
        rule = trials[PARAMETRIZATION].iloc[0]
        expected = {"allen-zhu": (-1.1, -0.9), "standard": (-1.1, -0.9), "ntk": (-0.1, 0.1)}.get(rule)
        found = slope(part, WIDTH, named(what, group), expected, num_trials=len(trials))
        log_width = np.log(part[WIDTH].astype(float))
        weights = (log_width - log_width.mean()) / log_width.var(ddof=0) / len(part)  # of each point in the slope
        most = float((weights.abs() * part.error).sum())
        yield replace(found, low=found.low - most, high=found.high + most)


def _rates_of_weights(results: Results, trials: pd.DataFrame, axis: str) -> pd.Series[float]:
    """Each trial's rate η P of the query tower's weights, of which theory speaks.

    η is the trained one, or as the axis has it where a trial that diverged does not say; P, by which the
    parametrization multiplies it, is G over the raw squared gradient of that tower (its mean over layers where they
    differ).
    """
    width = trials[WIDTH]
    eta = trials[axis] * (trials.learning_rate / trials[axis]).groupby(width).transform("median")
    starts = results.records[results.records.step == 0].set_index("trial_id")
    factor = trials.trial_id.map(starts.scaled_grad_norm_sq_query / starts.grad_norm_sq_query)
    return eta * factor.groupby(width).transform("median")


def _around_largest_rate(cell: pd.DataFrame) -> tuple[float, float]:
    """The last rate before the first that does not descend, and that one; NaN where the axis does not hold both."""
    cell = cell.sort_values("rate")
    failing = np.flatnonzero(~cell.descends.to_numpy())
    if not len(failing) or failing[0] == 0:
        return float("nan"), float("nan")
    below, above = cell.rate.iloc[failing[0] - 1 : failing[0] + 1]
    return float(below), float(above)


@predicts("displacement", ALLEN_ZHU, records=("displacement",))
def displacement(results: Results) -> Iterator[Evidence]:
    """The weights' distance from their draw, at one level of G, falls as m^-1/2."""
    yield from _at_level(results, "displacement", "displacement", HALF)


@predicts("rel-displacement", ALLEN_ZHU, records=("relative_spectral_displacement", "relative_displacement"))
def rel_displacement(results: Results) -> Iterator[Evidence]:
    """Relative to the draw it falls as m^-1/2 in the spectral norm and m^-1 in Frobenius's."""
    yield from _at_level(results, "relative_spectral_displacement", "relative spectral displacement", HALF)
    yield from _at_level(results, "relative_displacement", "relative Frobenius displacement", (-1.1, -0.9))


@predicts("flips", ALLEN_ZHU, records=("flipped_share",))
def flips(results: Results) -> Iterator[Evidence]:
    """The share of activations that flip falls with width, as a power between −0.6 and −0.23."""
    yield from _at_level(results, "flipped_share", "flipped share", (-0.6, -0.23))


def _at_level(results: Results, column: str, words: str, expected: Range) -> Iterator[Evidence]:
    """Slope against width of a column at the smallest threshold that all trials of a group have passed."""
    trials = chosen_trials(results, "descent")
    for group, part in over_width(results, trials):
        level = common_threshold(results, part)
        if level is None:
            reason = "no threshold was passed by all trials in the descent regime"
            yield Evidence(what=named(f"slope of the {words}", group), reason=reason)
            continue
        values = at_passage(results, column, level)
        what = named(f"slope of the {words} at G = {level:.3g}", group)
        yield slope(values[values.trial_id.isin(part.trial_id)], WIDTH, what, expected)
