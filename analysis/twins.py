"""How far a trial's curve is from that of its linearized twin, whose tangent kernel is fixed at the draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.frames import Results

LINEARIZED = "encoder.linearized"
G = "scaled_grad_norm_sq"


def twins(results: Results) -> pd.DataFrame:
    """`trial_id` of each trial that is not linearized and `twin_id` of the one that differs in nothing else."""
    trials = results.trials
    if LINEARIZED not in trials or trials[LINEARIZED].nunique() < 2:
        return pd.DataFrame({"trial_id": [], "twin_id": []}, dtype=str)
    same = [name for name in _settings(trials.columns) if trials[name].nunique(dropna=False) > 1]
    keys = trials.groupby(same, dropna=False).ngroup() if same else pd.Series(0, trials.index)
    keyed = trials[["trial_id"]].assign(key=keys)
    linear = trials[LINEARIZED].fillna(False).astype(bool)
    pairs = keyed[~linear].merge(keyed[linear].rename(columns={"trial_id": "twin_id"}), on="key", validate="one_to_one")
    return pairs[["trial_id", "twin_id"]]


def _settings(columns: Iterable[str]) -> list[str]:
    """What must be equal in twins: every setting, but not the word for a swept `encoder` that tells the two apart."""
    names = list(columns)
    inside = names[2 : names.index("status")]
    return [name for name in inside if not f"{LINEARIZED}.".startswith(f"{name.removesuffix('.choice')}.")]


def twin_distances(results: Results) -> pd.DataFrame:
    """`trial_id`, `step` and `twin_distance` = |ln G_t - ln G_t of the twin|, at each step that both recorded.

    The rows are those of the trials that are not linearized. A step at which either G is 0 or no number is left out.
    """
    pairs = twins(results)
    curves = results.records[["trial_id", "step", G]]
    own = curves.merge(pairs, on="trial_id")
    other = curves.rename(columns={"trial_id": "twin_id", G: "twin"})
    both = own.merge(other[other.twin_id.isin(pairs.twin_id)], on=["twin_id", "step"])
    values = both[[G, "twin"]]
    both = both[((values > 0) & (values < np.inf)).all(axis=1)]
    distance = (np.log(both[G]) - np.log(both.twin)).abs()
    return both[["trial_id", "step"]].assign(twin_distance=distance).reset_index(drop=True)


def with_twin_distances(results: Results) -> Results:
    """The results with `twin_distance` in records, and in trials its mean over the steps that both recorded.

    Both are NaN where there is none; results that hold no twins are given back as they are.
    """
    if twins(results).empty:
        return results
    distances = twin_distances(results)
    means = distances.groupby("trial_id").twin_distance.mean()
    records = results.records.merge(distances, on=["trial_id", "step"], how="left", validate="many_to_one")
    trials = results.trials.assign(twin_distance=results.trials.trial_id.map(means).astype(float))
    return replace(results, records=records, trials=trials)
