"""The file that `stillpoint init` prints shows the defaults, and names choices that there are."""

import re
from collections.abc import Iterable
from typing import get_args

import pytest

from analysis.laws import LAWS
from suite import load_experiment
from suite.data.source import SOURCES
from suite.data.views import VIEWS
from suite.experiment import Budget, Experiment, Resources, TrialSettings
from suite.reference import ROOT
from suite.training.activations import Activation
from suite.training.couplings import COUPLINGS
from suite.training.losses import LOSSES, Similarity
from suite.training.optimizers import OPTIMIZERS
from suite.training.parametrizations import PARAMETRIZATIONS
from suite.training.schedules import SCHEDULES
from suite.yaml_source import read_yaml

STARTER = ROOT / "suite" / "starter.yaml"
NO_DEFAULT = {"name", "description", "sweep", "laws"}
CHOICES: dict[str, Iterable[str]] = {
    "source": SOURCES,
    "views": VIEWS,
    "parametrization": PARAMETRIZATIONS,
    "activation": get_args(Activation),
    "name: infonce": LOSSES,
    "similarity": get_args(Similarity),
    "coupling": COUPLINGS,
    "name: gd": OPTIMIZERS,
    "schedule": SCHEDULES,
    "law": LAWS,
}


def test_every_line_shows_a_default():
    experiment, defaults = load_experiment(STARTER), TrialSettings()
    for name in set(read_yaml(STARTER).data) - NO_DEFAULT:
        default = Experiment.model_fields[name].default if name not in TrialSettings.model_fields else None
        assert getattr(experiment, name) == (default or getattr(defaults, name)), name
    assert (experiment.budget, experiment.resources) == (Budget(), Resources())


@pytest.mark.parametrize("key", CHOICES)
def test_choices_in_comments_are_there(key: str):
    (line,) = [line for line in STARTER.read_text().splitlines() if re.match(rf"[- {{]*{key}\b.*#", line)]
    comment = line.partition("#")[2]
    named = re.findall(r"([\w-]+)(?: \([^)]*\))? \|", comment) + re.findall(r"\| ([\w-]+)", comment)
    assert len(named) >= 2
    assert set(named) <= set(CHOICES[key])
