"""docs/extending.md is true: its code, put where it says, is picked up everywhere and trains."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from conftest import Terminal

from analysis.laws import LAWS, Law
from suite.data.source import Source
from suite.data.views import View
from suite.experiment import LawSpec
from suite.reference import ROOT
from suite.training.couplings import Coupling
from suite.training.learning_rates import LearningRate
from suite.training.losses import Loss
from suite.training.optimizers import Optimizer
from suite.training.schedules import Schedule

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = dict(re.findall(r"`([\w./]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL))
(COMMAND,) = re.findall(r"```sh\nstillpoint (.*?)\n```", PAGE)
(READING,) = re.findall(r"```python\n(from analysis .*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Terminal:
    """A copy of the project with the page's code in it, and a terminal there; `make reference` has been run."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("suite", "analysis", "tests", "docs", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, code in BLOCKS.items():
        present = (folder / name).read_text() + "\n\n" if (folder / name).exists() else ""
        (folder / name).write_text(present + code)
    terminal = Terminal(folder, home, {"PYTHONPATH": str(folder)})
    python(terminal, "-c", "from suite.reference import write; write()")
    return terminal


def python(terminal: Terminal, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=terminal.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_a_loss_a_source_a_measurement_and_an_experiment():
    assert list(BLOCKS) == [
        "suite/training/losses.py",
        "suite/data/clusters.py",
        "suite/measurement/radii.py",
        "clusters.yaml",
    ]


def test_the_new_choices_are_in_the_schema_and_the_reference(clone: Terminal):
    schema = json.loads(clone("schema"))
    for setting, tag, name in (("loss", "name", "pairwise"), ("data", "source", "clusters")):
        forms = [form["properties"] for form in schema["properties"][setting]["anyOf"] if "properties" in form]
        (form,) = [form for form in forms if form[tag].get("const") == name]
        assert len(form) >= 4
        assert f"## `{setting}` with `{tag}: {name}`" in (clone.folder / "docs" / "experiment.md").read_text()
    assert "data.spread" in schema["properties"]["sweep"]["properties"]


def test_the_command_trains_them_and_python_reads_the_results(clone: Terminal):
    clone(*COMMAND.split())
    printed = python(clone, "-c", READING)
    rows = [line.split() for line in printed.splitlines() if line[0].isdigit()]
    assert [row[0] for row in rows] == ["0.5", "1.0"]
    assert all(0 < float(value) < 10 for row in rows for value in row[1:])
    read = "from analysis import load_results; r = load_results('results/clusters')"
    spreads = python(clone, "-c", f"{read}; print(r.records.radius_spread.min(), r.trials.radius_spread.count())")
    least, count = spreads.split()
    assert 0 < float(least) < 1
    assert count == "4"
    assert "`radius_spread`" in (clone.folder / "docs" / "measurements.md").read_text()


def test_the_tests_of_whole_registries_take_them_up(clone: Terminal):
    files = [f"tests/suite/test_{name}.py" for name in ("losses", "data_sources", "combinations", "loading", "trials")]
    chosen = "(pairwise and cosine and not symmetric) or clusters or committed_schema or ids_of_the_quickstart"
    printed = python(clone, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *files)
    for passed in (
        "test_losses.py::test_a_loss_in_blocks_is_the_loss_at_once",
        "test_combinations.py::test_a_loss_with_every_coupling_parametrization_and_optimizer[pairwise-cosine-joint]",
        "test_data_sources.py::test_a_source_gives_the_same_again_and_other_pairs_for_another_seed[clusters]",
    ):
        assert passed in printed


def test_the_code_is_in_the_style_of_the_house(clone: Terminal):
    files = [name for name in BLOCKS if name.endswith(".py")]
    python(clone, "-m", "ruff", "check", *files)
    python(clone, "-m", "ruff", "format", "--check", *files)


@pytest.mark.parametrize("base", [Loss, Source, Coupling, Optimizer, Schedule, LearningRate, View, Law])
def test_what_a_class_must_give_is_on_the_page(base: type):
    assert base.__abstractmethods__
    for method in base.__abstractmethods__:
        assert f"`{method}`" in PAGE


def test_files_named_on_the_page_are_there():
    ours = set(BLOCKS)
    for name in re.findall(r"`((?:suite|analysis|tests|docs)/[\w./]+)`", PAGE):
        assert name in ours or (ROOT / name).exists(), name


def test_columns_of_losses_have_their_place_where_the_page_says():
    (name,) = re.findall(r"`diagnostics` \(columns of its own, which need a place in `(.*?)`\)", PAGE)
    assert '"clamped_share"' in (ROOT / name).read_text()


def test_an_experiment_may_name_every_law():
    assert set(get_args(LawSpec.model_fields["law"].annotation)) == set(LAWS)
