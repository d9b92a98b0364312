"""Two sweeps beside one another: differences that are there are found, and those of chance are not called real."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.comparison import compare, difference
from analysis.fitting import Estimate
from analysis.frames import Results
from analysis.intervals import wilson_interval

WIDTHS = (32, 64, 128, 256, 512)
LAW = {"law": "power", "y": "steps_to_stationarity", "x": ["width"], "epsilon": [1e-3]}
COMPARE = [str(Path(sys.executable).with_name("stillpoint")), "compare"]


def sweep(
    generator: int, *, name: str, exponent: float = 0.5, factor: float = 1.0, widths: tuple[int, ...] = WIDTHS
) -> Results:
    """Steps to stationarity as a power of width, with noise of each seed and each trial."""
    rng = np.random.default_rng(generator)
    trials = pd.MultiIndex.from_product([widths, range(8)], names=["encoder.width", "seed"]).to_frame(index=False)
    steps = factor * 5000 * trials["encoder.width"] ** -exponent
    steps = np.round(steps * np.exp(0.1 * rng.normal(size=8)[trials.seed] + 0.1 * rng.normal(size=len(trials))))
    trial_ids = [f"{name}-{index}" for index in range(len(trials))]
    trials.insert(0, "name", trial_ids)
    trials.insert(0, "trial_id", trial_ids)
    trials = trials.assign(status="finished", descent_regime=True, stationary=True, steps=9999, time=1.0)
    passages = pd.DataFrame({"trial_id": trial_ids, "epsilon": 1e-3, "relative": False, "at_init": False})
    passages = passages.assign(reached=True, steps_to_stationarity=steps, time_to_stationarity=steps / 1e4)
    experiment = {"name": name, "laws": [LAW], "budget": {"steps": 9999}}
    return Results(trials, passages, pd.DataFrame(), experiment, ["encoder.width", "seed"], None)


def test_the_interval_of_a_difference_of_shares_is_newcombes():
    """56 of 70 and 48 of 80: Newcombe 1998, table II, example (a), method 10."""
    shares = [Estimate(s / n, *wilson_interval(s, n)) for s, n in ((48, 80), (56, 70))]
    found = difference(*shares)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_exponents_that_are_the_same_are_called_different_about_as_often_as_they_should():
    real = 0
    for generator in range(50):
        pair = (sweep(2 * generator, name="one"), sweep(2 * generator + 1, name="other"))
        (exponent,) = [each for each in compare(*pair).differences if each.what.endswith(", a")]
        assert exponent.is_decided
        real += exponent.is_real
    assert real <= 9  # of 50, 5% are expected; more than 9 come up in three of ten thousand such tests


@pytest.mark.parametrize(("exponent", "verdict"), [(0.8, "larger"), (0.2, "smaller")])
def test_exponents_that_differ_are_found(exponent: float, verdict: str):
    compared = compare(sweep(0, name="one"), sweep(1, name="other", exponent=exponent))
    (found,) = [each for each in compared.differences if each.what.endswith(", a")]
    assert found.verdict == verdict
    assert found.difference.value == pytest.approx(exponent - 0.5, abs=0.1)


def test_times_are_compared_in_pairs_of_one_draw():
    compared = compare(sweep(0, name="one"), sweep(0, name="other", factor=1.3))
    (ratio,) = [each for each in compared.differences if each.unchanged == 1]
    assert ratio.verdict == "larger"
    assert ratio.difference.value == pytest.approx(1.3, rel=0.01)
    assert ratio.difference.high - ratio.difference.low < 0.02, "what the draws share goes out"
    assert "40 pairs of 8 seeds" in ratio.note


def test_a_pair_of_which_one_did_not_get_there_is_left_out_and_told():
    first, second = sweep(0, name="one"), sweep(1, name="other")
    second.passages.loc[:2, "reached"] = False
    (ratio,) = [each for each in compare(first, second).differences if each.unchanged == 1]
    assert "37 pairs" in ratio.note
    assert "left out: 3 pairs" in ratio.note


def test_a_sweep_beside_itself_differs_in_nothing():
    compared = compare(sweep(0, name="one"), sweep(0, name="one"))
    assert compared.num_common == 40
    assert compared.settings == []
    assert {each.verdict for each in compared.differences} == {"not told apart"}
    assert any("only the very same trial" in reason for reason in compared.left_out)


def test_shares_are_those_of_common_cells():
    first, second = sweep(0, name="one", widths=(32, 64)), sweep(1, name="other", widths=(64, 128))
    first.trials["stationary"] = first.trials["encoder.width"] == 64
    (share,) = [each for each in compare(first, second).differences if each.what == "share of stationary trials"]
    assert (share.first.value, share.second.value) == (1, 1)
    assert "8 and 8" in share.note
    apart = compare(sweep(0, name="one", widths=(32,)), sweep(1, name="other", widths=(64,)))
    assert any("no cell in common" in reason for reason in apart.left_out)


def test_an_exponent_of_a_fit_that_is_in_doubt_is_undecided():
    narrow = sweep(0, name="one", widths=(32, 64, 128))
    pair = [
        replace(each, experiment={"laws": [LAW | {"law": "offset-power"}]}) for each in (narrow, sweep(1, name="other"))
    ]
    for each in pair:
        each.experiment["name"] = "named"
    (found,) = [each for each in compare(*pair).differences if each.what.endswith(", a")]
    assert found.verdict == "undecided by these data"
    assert compare(*pair).to_dict()["differences"][1]["difference"]["low"] is None


TINY = """
name: tiny
data: {source: sphere, samples: 16, input_dim: 4}
encoder: {depth: 1, embedding_dim: 4}
budget: {steps: 60}
sweep: {encoder.width: [8, 16, 32], seed: {range: 3}}
laws: [{law: power, y: displacement, x: width, among: finished}]
"""


def test_the_command_on_two_real_sweeps(trained: Callable[[str], Path]):
    first, second = trained(TINY), trained(TINY.replace("steps: 60", "steps: 90"))
    shown = subprocess.run([*COMPARE, first, second], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    assert "budget.steps" in shown.stdout
    said = json.loads(subprocess.run([*COMPARE, "--json", first, second], capture_output=True, check=True).stdout)
    assert {each["what"] for each in said["differences"]} >= {"displacement: power in width, a"}
    refused = subprocess.run([*COMPARE, first, first.parent / "none"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "holds no results" in refused.stderr
