"""Measurements that are asked for: in the YAML, afterwards from checkpoints, and in a notebook."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import Terminal

from analysis import load_results
from suite import load_checkpoint, load_experiment, measure
from suite.loading import ExperimentError
from suite.measurement.catalog import CHOSEN
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS
from suite.trials import expand

SMALL = """
name: small
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 40, stop_below: 0}
records_per_decade: 4
sweep: {seed: {range: 3}}
"""
CURVATURE = ["lambda_max", "lambda_min", "lambda_max_residual", "lambda_min_residual", "edge_of_stability"]


@pytest.fixture
def ran(terminal: Terminal) -> Terminal:
    terminal.write("small.yaml", SMALL)
    terminal("run", "small.yaml", "--set", "measure=none")
    return terminal


def trained(folder: Path) -> pd.DataFrame:
    """What training alone determines."""
    frame = load_results(folder / "results" / "small").records
    return frame[["trial_id", "step", "loss", "grad_norm_sq", "scaled_grad_norm_sq", "displacement"]]


def test_what_is_asked_for_later_is_measured_at_checkpoints_and_training_stays_as_it_was(ran: Terminal):
    before = trained(ran.folder)
    results = load_results(ran.folder / "results" / "small")
    assert results.trials.kind.isna().all()
    assert results.trials.measured.tolist() == [""] * 3
    assert results.records.alignment.isna().all()

    printed = ran("run", "small.yaml", "--set", "measure.curvature=[start,end]")
    assert "3 trials ended before some measurements were asked for" in printed
    assert "3 trials measured" in printed
    assert "trials trained" not in printed
    pd.testing.assert_frame_equal(trained(ran.folder), before)
    results = load_results(ran.folder / "results" / "small")
    assert results.trials.kind.notna().all()
    assert results.trials[CURVATURE].notna().all(axis=None)
    at_end = results.records.step == 40
    assert results.records[at_end][[*CURVATURE, "alignment"]].notna().all(axis=None)
    assert results.records[~at_end][[*CURVATURE, "alignment"]].isna().all(axis=None)

    again = ran("run", "small.yaml", "--set", "measure.curvature=[start,end]")
    assert "nothing left to train" in again
    assert "asked for" not in again
    for known in results.trials.itertuples():
        mine = measure(load_checkpoint(ran.folder / "results" / "small", known.trial_id), "curvature")
        assert mine["lambda_max"] == pytest.approx(known.lambda_max, rel=1e-5)


def test_without_a_checkpoint_what_is_asked_for_later_stays_empty_with_a_notice(terminal: Terminal):
    terminal.write("small.yaml", f"{SMALL}checkpoints: none\n")
    terminal("run", "small.yaml", "--set", "measure=none")
    printed = terminal("run", "small.yaml")
    assert "3 trials ended before some measurements were asked for, and kept no checkpoint" in printed
    assert "nothing left to train" in printed
    assert load_results(terminal.folder / "results" / "small").trials.kind.isna().all()


def test_a_finished_trial_whose_checkpoint_is_damaged_is_not_trained_again_to_be_measured(ran: Terminal):
    before = trained(ran.folder)
    for commit in (ran.folder / "results" / "small" / "lanes").rglob("*.zip"):
        commit.write_bytes(commit.read_bytes()[:-30])
    printed = ran("run", "small.yaml")
    assert "kept no checkpoint: theirs stay empty" in " ".join(printed.split())
    assert "nothing left to train" in printed
    pd.testing.assert_frame_equal(trained(ran.folder), before)


def test_a_finished_trial_whose_checkpoint_is_gone_is_not_trained_again_to_be_measured(ran: Terminal):
    before = trained(ran.folder)
    shutil.rmtree(ran.folder / "results" / "small" / "lanes")
    printed = ran("run", "small.yaml")
    assert "kept no checkpoint: theirs stay empty" in " ".join(printed.split())
    assert "nothing left to train" in printed
    pd.testing.assert_frame_equal(trained(ran.folder), before)


def test_one_measurement_alone_is_none_and_that_one(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: a\nmeasure: none\n")
    measure_of = load_experiment(path, overrides=["measure.kernel=always"]).measure
    assert measure_of == dict.fromkeys(CHOSEN, Moments.NEVER) | {"kernel": Moments.ALWAYS}


def test_another_level_of_stationarity_is_judged_anew_and_measured_where_it_has_to_be(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    terminal("run", "small.yaml", "--set", "stationary_below=1e-12")
    assert set(load_results(terminal.folder / "results" / "small").trials.kind) == {"not-stationary"}
    relative = "stationary_below_relative=1"
    printed = terminal("run", "small.yaml", "--set", "stationary_below=1", "--set", relative)
    assert "3 trials measured" in printed
    trials = load_results(terminal.folder / "results" / "small").trials
    assert trials.lambda_min.notna().all()
    assert set(trials.kind) <= {"saddle-like", "minimum-like", "undetermined"}
    assert trials.stationary.all()
    assert "nothing left to train" in terminal("run", "small.yaml", "--set", "stationary_below=1", "--set", relative)


def test_measurements_lie_at_their_moments(terminal: Terminal):
    terminal.write("small.yaml", f"{SMALL}measure: {{curvature: decades, kernel: [start], angles: {{every: 3}}}}\n")
    terminal("run", "small.yaml")
    records = load_results(terminal.folder / "results" / "small").records
    steps = sorted(records.step.unique())

    def measured(column: str) -> list[int]:
        found = records[records[column].notna()].groupby("step").trial_id.nunique()
        assert (found == 3).all()
        return found.index.tolist()

    assert measured("lambda_max") == [1, 10]
    assert measured("kernel_trace_query") == [0]
    assert measured("median_angle_by_layer") == sorted({*steps[::3], 40})
    assert measured("alignment") == steps


def test_a_trial_is_measured_at_its_start_in_either_precision(tmp_path: Path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    trial = expand(load_experiment(path)).trials[0]
    single, double = measure(trial), measure(trial.settings, precision="float64")
    assert single["kind"] == double["kind"] == "not-stationary"
    assert single["loss"] == pytest.approx(double["loss"], rel=1e-6)
    assert double["gradient_noise_sq"] == 0
    assert measure(trial, "kernel")["kernel_drift_query"] == 0
    assert set(measure(trial, "curvature")) == set(CURVATURE)
    with pytest.raises(ValueError, match="give a trial or a"):
        measure("results/small")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unknown measurement 'curvatur'\. Known: .*curvature"):
        measure(trial, "curvatur")


def test_a_checkpoint_that_is_not_there_is_told(ran: Terminal):
    folder = ran.folder / "results" / "small"
    with pytest.raises(ValueError, match="no trial 's7'; its trials are like"):
        load_checkpoint(folder, "s7")
    with pytest.raises(ValueError, match="holds no results"):
        load_checkpoint(ran.folder, "s0")
    checkpoint = load_checkpoint(folder, "s1")
    assert measure(checkpoint)["displacement"] > 0
    assert checkpoint.settings.seed == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("measure: {curvatur: end}", "measure.curvatur: unknown measurement; did you mean 'curvature'? Known: angles"),
        ("measure: {kernel: always, curvature: {every: 0}}", "measure.curvature: every: got 0; write a whole number"),
        ("measure: {curvature: sometimes}", "measure.curvature: got 'sometimes'; write start, end, decades"),
        ("measure: {certificate: start}", "measure.certificate: it is made at the end of a trial"),
        ("measure: {gradient: never}", "measure.gradient: it costs nothing and is always made; leave it out"),
        ("measure: {kernel: [never, end]}", "measure.kernel: got ['never', 'end']; write start, end"),
        ("measure: {kernel: []}", "measure.kernel: got []; write start, end"),
        ("measure: {kernel: [{every: 2}, {every: 3}]}", "measure.kernel: got every 2 and every 3 records; write one"),
        ("measure: everything", "measure: got 'everything'; write none, or a mapping"),
    ],
)
def test_a_measure_that_makes_no_sense_is_told_with_its_line(tmp_path: Path, line: str, words: str):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: a\n{line}\n")
    with pytest.raises(ExperimentError) as told:
        load_experiment(path)
    assert f"x.yaml:2: {words}" in str(told.value)


def test_measure_is_kept_as_it_was_written_and_is_no_part_of_an_id(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: a\nmeasure: {curvature: [start, end], kernel: {every: 4}, angles: never}\n")
    experiment, plain = load_experiment(path), load_experiment(path, overrides=["measure={}"])
    assert experiment.model_dump(mode="json")["measure"] == {
        "curvature": ["start", "end"],
        "kernel": {"every": 4},
        "angles": "never",
    }
    assert [t.trial_id for t in expand(experiment).trials] == [t.trial_id for t in expand(plain).trials]
    assert load_experiment(path, overrides=["measure=none"]).measure == dict.fromkeys(CHOSEN, Moments.NEVER)
    assert not any(MEASUREMENTS[name].default for name in ("curvature", "kernel", "dominance"))


def test_plan_says_what_measurements_take(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    printed = " ".join(terminal("plan", "small.yaml").split())
    assert "usual measurements (" in printed
    assert "curvature is off; once per trial: about" in printed
    printed = " ".join(terminal("plan", "small.yaml", "--set", "measure.curvature=[start,end]").split())
    assert "curvature (start, end): about" in printed
