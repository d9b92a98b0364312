"""The studies in experiments/: each can be read, and its quick profile runs to a report that says something."""

import html
import json
import re
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import torch
from conftest import Terminal

from suite import load_experiment
from suite.experiment import PREDICTIONS
from suite.planning import make_plan
from suite.reference import ROOT, json_schema
from suite.trials import expand
from suite.yaml_source import read_yaml

STUDIES = sorted(path for path in (ROOT / "experiments").glob("*.yaml") if path.stem != "quickstart")
NAMES = [path.stem for path in STUDIES]


@pytest.fixture(params=STUDIES, ids=NAMES)
def study(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_one_study_per_question():
    assert len(STUDIES) == 16


def test_a_study_asks_a_question_and_says_how_to_answer_it(study: Path):
    text = study.read_text()
    assert text.startswith("# yaml-language-server: $schema=../suite/experiment.schema.json\n")
    jsonschema.validate(read_yaml(study).data, json_schema())
    experiment = load_experiment(study)
    assert experiment.name == study.stem
    assert experiment.description.endswith("?")
    assert experiment.laws or experiment.predictions
    assert set(experiment.predictions) <= PREDICTIONS
    assert {"quick", "full"} <= set(experiment.profiles)


def test_its_profiles_go_from_minutes_to_a_cluster(study: Path):
    trials = {}
    for profile in (None, *load_experiment(study).profiles):
        experiment = load_experiment(study, profile=profile)
        expansion = expand(experiment)
        assert expansion.num_duplicates == 0
        assert experiment.laws or experiment.predictions
        trials[profile] = len(expansion.trials)
        seeds = {trial.settings.seed for trial in expansion.trials}
        assert len(seeds) >= 3, "intervals need three seeds"
    assert trials["quick"] <= 50
    assert trials["quick"] <= trials[None] <= 500
    assert trials[None] < trials["full"] <= 5000
    assert load_experiment(study, profile="full").resources.gpus
    assert not load_experiment(study, profile="quick").resources.gpus


@pytest.mark.parametrize("profile", [None, "quick", "full"])
def test_the_controls_are_one_cell_each(profile: str | None):
    trials = expand(load_experiment(ROOT / "experiments" / "controls.yaml", profile=profile)).trials
    first = [trial.settings for trial in trials if (trial.settings.seed, trial.settings.encoder.width) == (0, 64)]
    assert len(first) == 4
    assert [settings.encoder.linearized for settings in first] == [False, True, False, False]
    ends_only = [settings.encoder.train_ends and not settings.encoder.train_hidden for settings in first]
    assert ends_only == [False, False, True, False]
    assert [settings.data.shuffled_positives for settings in first] == [False, False, False, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_profile_for_gpus_is_refused_where_there_is_none(tmp_path: Path):
    experiment = load_experiment(ROOT / "experiments" / "width.yaml", profile="full")
    with pytest.raises(ValueError, match="torch sees none on this machine"):
        make_plan(experiment, results=tmp_path)


def test_every_study_is_described():
    text = (ROOT / "docs" / "studies.md").read_text()
    for name in NAMES:
        assert f"experiments/{name}.yaml" in text


@pytest.mark.studies
def test_a_quick_profile_ends_with_a_report(study: Path, terminal: Terminal):
    process = terminal.start("run", str(study), "--profile", "quick", "--results", str(terminal.folder))
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors
    assert not errors
    assert not re.search(r"Traceback|Warning", output), output
    folder = terminal.folder / f"{study.stem}-quick"
    page = html.unescape((folder / "report.html").read_text())
    assert load_experiment(study).description in page
    assert (terminal.folder / "mlflow.db").exists()
    trials = pd.read_parquet(folder / "trials.parquet")
    assert set(trials.status) <= {"finished", "diverged"}
    drawn = ["passages", "curves", "displacement", *(["laws"] if load_experiment(study).laws else [])]
    drawn += [] if study.stem == "largest-rate" else ["shares"]  # which asks for no certificate
    for name in drawn:
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    fits = json.loads((folder / "fits.json").read_text())["fits"]
    assert sum(entry["fit"] is not None for entry in fits) >= len(fits) / 2, [entry["reason"] for entry in fits]
