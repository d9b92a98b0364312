"""Trials: the grid, ids that never change, and what is left to train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from suite import load_experiment
from suite.experiment import Budget, Encoder, Experiment, KeyEncoder, TrialSettings
from suite.measurement.catalog import CHOSEN
from suite.measurement.registry import MEASUREMENTS
from suite.reference import ROOT
from suite.tables import OUTCOMES
from suite.trials import Flattened, Trial, cells, expand, flat_settings, flatten, missing, trial_id

HERE = Path(__file__).parent
QUICKSTART = ROOT / "experiments" / "quickstart.yaml"


def experiment(**changes: object) -> Experiment:
    return Experiment(name="t", **changes)


def trials_of(sweep: dict[str, object]) -> list[Trial]:
    return expand(experiment(sweep=sweep)).trials


def test_ids_of_the_quickstart_never_change():
    """If this fails, results that users have already trained would be trained again."""
    known = (HERE / "quickstart_ids.txt").read_text().split()
    assert [trial.trial_id for trial in expand(load_experiment(QUICKSTART)).trials] == known


def test_ids_are_equal_in_processes_with_other_hash_seeds():
    code = f"""
from suite import load_experiment
from suite.trials import expand
print(*(t.trial_id for t in expand(load_experiment({str(QUICKSTART)!r})).trials))
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1
    assert outputs.pop().split() == (HERE / "quickstart_ids.txt").read_text().split()


def reordered(value: object, seed: int) -> object:
    """The same data with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: hash((seed, key)))
        return {key: reordered(value[key], seed) for key in keys}
    return [reordered(item, seed) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_keys_changes_no_id(tmp_path: Path, seed: int):
    from suite.yaml_source import read_yaml

    data = read_yaml(QUICKSTART).data
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(reordered(data, seed), sort_keys=False))
    ids = {trial.trial_id for trial in expand(load_experiment(path)).trials}
    assert ids == set((HERE / "quickstart_ids.txt").read_text().split())


def test_a_default_written_out_changes_no_id(tmp_path: Path):
    short, long = tmp_path / "short.yaml", tmp_path / "long.yaml"
    short.write_text("name: a\n")
    long.write_text(
        "name: a\ndata: {source: digits, samples: 64, center: true, views: halves}\n"
        "encoder: {width: 256, depth: 2, embedding_dim: 16, parametrization: allen-zhu, key: null}\n"
        "loss: {name: infonce, similarity: cosine, temperature: 0.5, symmetric: false}\n"
        "coupling: joint\noptimizer: {name: gd, learning_rate: {rule: width, c: 0.2}}\n"
        "seed: 0\nprecision: float32\nrecords_per_decade: 16\n"
    )
    one, two = (expand(load_experiment(path)).trials[0] for path in (short, long))
    assert one.trial_id == two.trial_id


def test_a_whole_number_and_its_float_are_one_value(tmp_path: Path):
    ids = set()
    for text in ("2", "2.0"):
        path = tmp_path / "x.yaml"
        path.write_text(f"name: a\nloss: {{name: infonce, temperature: {text}}}\n")
        ids.add(expand(load_experiment(path)).trials[0].trial_id)
    assert len(ids) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": "u"},
        {"description": "d"},
        {"budget": Budget(steps=5)},
        {"stationary_below": 1e-2},
        {"checkpoints": "none"},
    ],
)
def test_what_does_not_determine_the_numbers_is_not_in_the_id(change: dict[str, object]):
    plain, other = Experiment(name="t"), Experiment(**{"name": "t", **change})
    assert expand(plain).trials[0].trial_id == expand(other).trials[0].trial_id


SCALARS = {
    "encoder.width": st.integers(1, 64),
    "encoder.depth": st.integers(1, 4),
    "encoder.key.width": st.none() | st.integers(1, 64),
    "data.samples": st.integers(2, 100),
    "loss.temperature": st.floats(0.01, 10),
    "optimizer.learning_rate.c": st.floats(0.01, 10),
    "seed": st.integers(0, 50),
    "precision": st.sampled_from(["float32", "float64"]),
}


@st.composite
def sweeps(draw):
    paths = draw(st.lists(st.sampled_from(list(SCALARS)), unique=True, max_size=4))
    return {path: draw(st.lists(SCALARS[path], min_size=1, max_size=4)) for path in paths}


@settings(deadline=None)
@given(sweeps())
def test_expansion_is_the_product_of_the_axes_without_repeats(sweep):
    expansion = expand(experiment(sweep=sweep))
    product = 1
    for values in sweep.values():
        product *= len(values)
    ids = [trial.trial_id for trial in expansion.trials]
    assert len(set(ids)) == len(ids)
    assert len({trial.name for trial in expansion.trials}) == len(ids)
    assert len(ids) + expansion.num_duplicates == product
    by_settings = {trial.settings for trial in expansion.trials}
    assert len(by_settings) == len(ids)
    for trial in expansion.trials:
        flat = flatten(trial.settings)
        for path, value in trial.axes.items():
            assert flat[path] == value


@settings(deadline=None)
@given(sweeps(), st.randoms())
def test_the_order_of_axes_and_values_changes_no_id(sweep, random):
    shuffled = {path: random.sample(sweep[path], len(sweep[path])) for path in random.sample(list(sweep), len(sweep))}
    assert {t.trial_id for t in trials_of(sweep)} == {t.trial_id for t in trials_of(shuffled)}


@settings(deadline=None)
@given(sweeps())
def test_a_trial_of_a_sweep_has_the_id_of_its_settings_written_by_hand(sweep):
    trial = trials_of(sweep)[-1]
    fields = {name: getattr(trial.settings, name) for name in TrialSettings.model_fields}
    assert trial_id(TrialSettings.model_validate(fields)) == trial.trial_id
    assert trial_id(TrialSettings.model_validate(trial.settings.model_dump())) == trial.trial_id


def test_axes_of_one_zip_group_move_together():
    sweep = {"seed": [0, 1], "zip": [{"encoder.width": [8, 16], "data.samples": [4, 8]}]}
    rows = [(c["seed"], c["encoder.width"], c["data.samples"]) for c in cells(sweep)]
    assert rows == [(0, 8, 4), (0, 16, 8), (1, 8, 4), (1, 16, 8)]


def test_repeated_cells_are_left_out_and_counted():
    expansion = expand(experiment(sweep={"encoder.width": [8, 16, 8], "seed": [0, 1]}))
    assert (len(expansion.trials), expansion.num_duplicates) == (4, 2)


def test_a_key_tower_equal_to_the_query_tower_is_told_apart_only_if_written():
    plain, other = (Encoder(width=8, key=key) for key in (None, KeyEncoder(width=8)))
    assert plain.towers() == other.towers()


def test_flatten_names_every_setting_by_its_full_path():
    flat = flatten(TrialSettings())
    assert flat["encoder.width"] == 256
    assert flat["optimizer.learning_rate.rule"] == "width"
    assert flat["encoder.key.width"] is None
    assert flat["epsilons"].startswith("[0.1,")


def test_a_choice_swept_as_a_whole_has_a_column_with_a_word_for_each_of_its_values():
    momentum = {"name": "gd", "momentum": 0.9}
    adam = {"learning_rate": {"c": 0.02, "rule": "width"}, "name": "adam"}
    slow = {"name": "gd", "schedule": {"name": "inverse-sqrt", "steps": 9}}
    slower = {"name": "gd", "schedule": {"name": "inverse-sqrt", "steps": 99}}
    trials = trials_of({"optimizer": ["gd", momentum, adam, slow, slower], "loss": ["infonce", "dcl"]})
    flat = [flat_settings(trial) for trial in trials]
    words = [row["optimizer"] for row in flat][::2]
    assert words == [
        "gd",
        "gd-momentum=0.9",
        "adam-width-c=0.02",
        "gd-inverse-sqrt-steps=9",
        "gd-inverse-sqrt-steps=99",
    ]
    assert [row["loss.choice"] for row in flat][:2] == ["infonce", "dcl"], "`loss` is what is measured"
    assert not set(flat[0]) & (set(OUTCOMES.names) - {"trial_id"})


MEASURED = ",".join(name for name in CHOSEN if MEASUREMENTS[name].default.at_end)
LARGEST = "running_max_scaled_grad_norm_sq"
FINISHED = {
    "status": "finished",
    "steps": 100,
    "learning_rate": 0.2,
    "scaled_grad_norm_sq": 1e-2,
    "checkpoint": "c",
    "measured": MEASURED,
}


@pytest.mark.parametrize(
    ("known", "budget", "left", "from_step"),
    [
        ({}, Budget(steps=100), True, 0),
        ({"status": "pending"}, Budget(steps=100), True, 0),
        ({"status": "pending", "checkpoint": "c", "steps": 40}, Budget(steps=100), True, 40),
        ({"status": "failed", "checkpoint": "c", "steps": 40}, Budget(steps=100), True, 40),
        ({"status": "diverged", "steps": 40}, Budget(steps=100), False, 0),
        (FINISHED, Budget(steps=100), False, 0),
        (FINISHED, Budget(steps=50), False, 0),
        (FINISHED, Budget(steps=101), True, 100),
        (FINISHED | {"checkpoint": None}, Budget(steps=101), True, 0),
        (FINISHED | {"scaled_grad_norm_sq": 5e-5}, Budget(steps=101), False, 0),
        (FINISHED | {"scaled_grad_norm_sq": 5e-5, LARGEST: 1e-2}, Budget(steps=101), False, 0),
        (FINISHED | {"scaled_grad_norm_sq": 5e-5, LARGEST: 9e-3}, Budget(steps=101), True, 100),
        (FINISHED | {"scaled_grad_norm_sq": 5e-5, LARGEST: 9e-3}, Budget(steps=101, stop_below=5e-5), False, 0),
        (FINISHED | {"scaled_grad_norm_sq": 0.0, LARGEST: 0.0}, Budget(steps=101), False, 0),
        (FINISHED, Budget(steps=1000, time=20), False, 0),
        (FINISHED, Budget(steps=1000, time=21), True, 100),
        (FINISHED | {"measured": "angles"}, Budget(steps=100), True, 100),
        (FINISHED | {"measured": None}, Budget(steps=50), True, 100),
        (FINISHED | {"measured": None, "checkpoint": None}, Budget(steps=100), False, 0),
    ],
)
def test_what_is_left_to_train(known: dict[str, object], budget: Budget, left: bool, from_step: int):
    (trial,) = trials_of({"encoder.width": [8]})
    experiment = Experiment(name="t", budget=budget)
    tasks = missing([trial], {trial.trial_id: known}, experiment)
    assert [task.trial_id for task in tasks] == [trial.trial_id] * left
    if left:
        assert tasks[0].step == from_step
        assert (tasks[0].checkpoint is not None) == (from_step > 0)


def test_names_set_words_apart_and_numbers_not(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: a\nsweep: {encoder.width: [8], coupling: [joint], encoder.residual: [true]}\n")
    assert [trial.name for trial in expand(load_experiment(path)).trials] == ["m8-coupling=joint-residual=True"]


SHARED = {
    "encoder.width": [8, 16],
    "zip": [{"data.samples": [8, 12], "loss.temperature": [0.5, 1]}],
    "seed": [0, 1, 7],
    "coupling": ["joint", {"name": "momentum", "mu": 0.9}],
}


def test_cells_that_share_parts_are_as_each_by_itself():
    experiment = Experiment(name="t", sweep=SHARED)
    trials = expand(experiment).trials
    assert len(trials) == 24
    known = Flattened()
    for trial in trials:
        alone = experiment.model_copy(update={"sweep": {path: [value] for path, value in trial.axes.items()}})
        (again,) = expand(alone).trials
        assert (again.settings, again.trial_id) == (trial.settings, trial.trial_id)
        assert again.settings.model_fields_set == trial.settings.model_fields_set
        assert trial_id(trial.settings) == trial.trial_id
        assert flat_settings(trial, known) == flat_settings(trial)


def test_a_seed_is_validated_and_only_a_seed_takes_no_check_of_its_own(monkeypatch: pytest.MonkeyPatch):
    checked = []
    monkeypatch.setattr("suite.compatibility.check", checked.append)
    expand(Experiment(name="t", sweep={"seed": list(range(50)), "encoder.width": [8, 16]}))
    assert len(checked) == 2
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        expand(Experiment(name="t", sweep={"seed": [0, -1]}))
    with pytest.raises(ValidationError, match="valid integer"):
        expand(Experiment(name="t", sweep={"seed": [0, True]}))
