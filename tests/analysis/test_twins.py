"""The distance to the linearized twin's curve: who is whose twin, and what stands in the frames."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_results
from analysis.frames import Results, law_frame
from analysis.laws_of_sweep import fit_sweep
from analysis.twins import twin_distances, twins, with_twin_distances

SWEEP = """
name: twins
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 40}
laws: [{law: power, y: displacement, x: width, among: finished}]
sweep: {AXIS, encoder.width: [8, 16, 32], seed: {range: 2}}
"""
FLAGS = SWEEP.replace("AXIS", "encoder.linearized: [false, true]")
CONTROLS = SWEEP.replace(
    "AXIS",
    "zip: [{encoder.linearized: [false, true, false, false], encoder.train_hidden: [true, true, false, true], "
    "encoder.train_ends: [false, false, true, false], data.shuffled_positives: [false, false, false, true]}]",
)


@pytest.mark.parametrize("yaml", [FLAGS, CONTROLS])
def test_a_twin_differs_in_nothing_but_the_linearization(yaml: str, trained: Callable[[str], Path]):
    results = load_results(trained(yaml))
    pairs = twins(results)
    rows = results.trials.set_index("trial_id")
    assert len(pairs) == 6
    settings = list(rows.columns[1 : rows.columns.get_loc("status")])
    for pair in pairs.itertuples():
        own, other = rows.loc[pair.trial_id, settings], rows.loc[pair.twin_id, settings]
        differing = [name for name in settings if not (own[name] == other[name] or (pd.isna(own[name])))]
        assert differing == ["encoder.linearized"]
        assert not own["encoder.linearized"]


def test_distances_are_those_of_the_two_curves(trained: Callable[[str], Path]):
    results = load_results(trained(FLAGS))
    curves = {name: part.set_index("step").scaled_grad_norm_sq for name, part in results.records.groupby("trial_id")}
    held = {name: part.set_index("step").twin_distance for name, part in results.records.groupby("trial_id")}
    means = results.trials.set_index("trial_id").twin_distance
    for pair in twins(results).itertuples():
        by_hand = (np.log(curves[pair.trial_id]) - np.log(curves[pair.twin_id])).abs().dropna()
        assert len(by_hand) > 10
        assert by_hand[0] < 1e-4, "twins begin at the same weights"
        pd.testing.assert_series_equal(held[pair.trial_id].dropna(), by_hand, check_names=False, rtol=1e-12)
        assert means[pair.trial_id] == pytest.approx(by_hand.mean())
        assert np.isnan(means[pair.twin_id])
        assert held[pair.twin_id].isna().all()
    assert len(twin_distances(results)) == results.records.twin_distance.notna().sum()


def test_a_swept_encoder_has_twins_too(trained: Callable[[str], Path]):
    axis = "encoder: [{width: 16, linearized: false}, {width: 16, linearized: true}]"
    yaml = SWEEP.replace("AXIS", axis).replace(", encoder.width: [8, 16, 32]", "").replace("x: width", "x: seed")
    results = load_results(trained(yaml))
    assert len(twins(results)) == 2


def test_a_law_of_the_distance_is_fitted_to_those_that_have_a_twin(trained: Callable[[str], Path]):
    results = load_results(trained(FLAGS))
    law = {"law": "power", "y": "twin_distance", "x": ["width"], "among": "finished"}
    assert len(law_frame(results, law)) == 6
    (fitted,) = fit_sweep(replace(results, experiment=results.experiment | {"laws": [law]}))
    assert fitted.fit is not None, fitted.reason
    assert fitted.fit.num_points == 6


def test_without_twins_the_frames_are_as_they_were(trained: Callable[[str], Path]):
    yaml = SWEEP.replace("AXIS, ", "")
    results = load_results(trained(yaml))
    assert "twin_distance" not in results.trials
    assert "twin_distance" not in results.records
    assert twin_distances(results).empty
    assert with_twin_distances(results) is results


def large(linearized: list[bool]) -> Results:
    """2000 trials of 200 records each."""
    ids = [f"{i:012d}" for i in range(2000)]
    trials = pd.DataFrame({"trial_id": ids, "name": ids, "encoder.linearized": (linearized * 1000)[:2000]})
    trials = trials.assign(seed=np.arange(2000) // 2, status="finished")
    records = pd.DataFrame({"trial_id": np.repeat(ids, 200), "step": np.tile(np.arange(200), 2000)})
    return Results(trials, pd.DataFrame(), records.assign(scaled_grad_norm_sq=1.0), {}, ["seed"], None)


@pytest.mark.parametrize(("linearized", "limit"), [([False, False], 0.1), ([False, True], 5.0)])
def test_finding_twins_is_quick(linearized: list[bool], limit: float):
    results = large(linearized)
    began = time.perf_counter()
    found = with_twin_distances(results)
    assert time.perf_counter() - began < limit
    assert ("twin_distance" in found.trials) == (True in linearized)


def test_a_g_of_zero_or_no_number_is_no_distance():
    trials = pd.DataFrame(
        {"trial_id": ["a", "b"], "name": "x", "encoder.linearized": [False, True], "status": "finished"}
    )
    records = pd.DataFrame({"trial_id": ["a"] * 4 + ["b"] * 4, "step": [0, 1, 2, 3] * 2})
    records["scaled_grad_norm_sq"] = [1.0, 1.0, 0.0, np.inf, np.e, np.nan, 1.0, 1.0]
    found = twin_distances(Results(trials, pd.DataFrame(), records, {}, ["encoder.linearized"], None))
    assert found.step.tolist() == [0]
    assert found.twin_distance.tolist() == [pytest.approx(1.0)]
