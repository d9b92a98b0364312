"""Captions say what is seen, with numbers that the tables have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import captions, load_results
from analysis.drawings import drawings
from analysis.first_passages import ended_passages
from analysis.frames import Results
from analysis.laws_of_sweep import fit_sweep, number

WIDTH, DEPTH = "encoder.width", "encoder.depth"
SWEEP = """
name: captions
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 600}
stationary_below: 0.02
stationary_below_relative: 1.0
laws:
- {law: power, y: displacement, x: encoder.width, by: depth, among: finished}
sweep: {encoder.width: [8, 16, 32, 64], encoder.depth: [1, 2], seed: {range: 3}}
"""


@pytest.fixture
def results(trained: Callable[[str], Path]) -> Results:
    return load_results(trained(SWEEP))


def test_a_direction_names_the_medians_at_both_ends(results: Results):
    said = captions.directions(results, results.trials, "displacement", "the median")
    for depth in (1, 2):
        part = results.trials[results.trials[DEPTH] == depth]
        low, high = (float(part[part[WIDTH] == width].displacement.median()) for width in (8, 64))
        verb = "falls" if high < low else "rises"
        assert f"{verb} from {number(low)} at width 8 to {number(high)} at width 64 (depth {depth})" in said


def test_what_hardly_moves_stays_and_words_lie_between(results: Results):
    flat = results.trials.assign(displacement=2.0)
    assert "stays near 2 from width 8 to 64 (depth 1)" in captions.directions(
        results, flat, "displacement", "the median"
    )
    kinds = flat.assign(kind_of=np.where(flat.seed == 0, "first", "other"), displacement=1.0 + (flat.seed == 0))
    words = replace(results, trials=kinds, axes=["kind_of", "seed"])
    said = captions.directions(words, kinds, "displacement", "the median")
    assert said == " Seen: the median lies between 1 (other) and 2 (first)."


def test_groups_beyond_three_are_counted():
    trials = pd.DataFrame(
        [
            {"trial_id": f"{w}-{d}", WIDTH: w, DEPTH: d, "seed": 0, "displacement": 10.0 / w}
            for w in (8, 16)
            for d in range(1, 6)
        ]
    )
    results = Results(trials, pd.DataFrame(), pd.DataFrame(), {}, [WIDTH, DEPTH, "seed"], None)
    said = captions.directions(results, trials, "displacement", "the median")
    assert said.count("falls from 1.25 at width 8 to 0.625 at width 16") == 3
    assert said.endswith("; 2 more groups are in the figure.")


def test_the_grid_is_told_by_its_fastest_and_slowest_cell(results: Results):
    frame = ended_passages(results, 1e-1)
    said = captions.seen_heat(frame, WIDTH, DEPTH)
    cells = (
        frame.assign(t=frame.steps_to_stationarity.where(~frame.censored, np.inf)).groupby([WIDTH, DEPTH]).t.median()
    )
    known = cells[np.isfinite(cells)]
    assert f"from {number(known.min())} steps at" in said
    assert f"to {number(known.max())} steps at" in said
    assert said.endswith("n = 24 trials, 3 seeds.")


def test_every_drawn_figure_says_how_many_trials_or_what_is_seen(results: Results):
    told = {drawing.name: drawing.caption for drawing in drawings(results, fit_sweep(results))}
    assert {"shares", "passages", "grid", "laws", "residuals", "unreached", "curves", "displacement"} <= set(told)
    for name, caption in told.items():
        if name != "descent":  # which has sentences of its own
            assert "Seen" in caption, name
    assert all("n = " in told[name] for name in told if name not in ("descent", "residuals"))
