"""A results folder of which files were removed, cut short or altered: the same command makes it whole, and says so."""

import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import Terminal
from test_run import SMALL, assert_same, commits, tables

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Terminal:
    """A small sweep that ran to its end."""
    terminal = Terminal(tmp_path_factory.mktemp("whole"), home)
    terminal.write("small.yaml", SMALL)
    terminal("run", "small.yaml", "--set", "resources.slots=2")
    return terminal


@pytest.fixture
def copy(whole: Terminal, tmp_path: Path, home: Path) -> Terminal:
    """A copy of it to be damaged."""
    shutil.copytree(whole.folder, tmp_path / "copy")
    return Terminal(tmp_path / "copy", home)


def flip_a_state(commit: Path) -> None:
    """Alter one byte within the first array of a state."""
    with zipfile.ZipFile(commit) as archive:
        at = next(info.header_offset for info in archive.infolist() if info.filename.startswith("states/"))
    content = bytearray(commit.read_bytes())
    content[at + 200] ^= 0xFF
    commit.write_bytes(content)


@pytest.mark.parametrize("kept", ["with commits", "without commits"])
@pytest.mark.parametrize("name", ["trials", "passages", "records"])
def test_a_table_that_was_removed_is_whole_again(name: str, kept: str, copy: Terminal, whole: Terminal):
    folder = copy.folder / "results" / "small"
    (folder / f"{name}.parquet").unlink()
    if kept == "without commits":
        shutil.rmtree(folder / "lanes")
    output = copy("run", "small.yaml", "--set", "resources.slots=2")
    assert "Traceback" not in output
    assert ("6 trials trained" in output) == (kept == "without commits"), output
    assert_same(tables(folder), tables(whole.folder / "results" / "small"))


@pytest.mark.parametrize("length", [0, 700])
def test_a_commit_cut_short_is_named_and_its_trials_are_trained_again(length: int, copy: Terminal, whole: Terminal):
    folder = copy.folder / "results" / "small"
    (folder / "trials.parquet").unlink()  # as if the run had been killed before its first merge
    cut = commits(folder)[0]
    cut.write_bytes(cut.read_bytes()[:length])
    assert f"{cut.name} is damaged" in " ".join(copy("status", "results/small").split())
    output = copy("run", "small.yaml", "--set", "resources.slots=2")
    assert f"{cut.name} is damaged" in " ".join(output.split())
    assert "Traceback" not in output
    assert_same(tables(folder), tables(whole.folder / "results" / "small"))


def test_a_trial_whose_checkpoint_is_damaged_begins_anew(copy: Terminal):
    folder = copy.folder / "results" / "small"
    before = tables(folder)["records"]
    for commit in commits(folder):
        flip_a_state(commit)
    output = copy("run", "small.yaml", "--set", "resources.slots=2", "--set", "budget.steps=400")
    assert "is damaged: trials that were to go on from it take an earlier checkpoint, or begin anew" in " ".join(
        output.split()
    )
    frames = tables(folder)
    assert frames["trials"].status.tolist() == ["finished"] * 6
    assert frames["trials"].steps.tolist() == [400] * 6
    records = frames["records"]
    assert not records.duplicated(["trial_id", "step"]).any()
    both = records.merge(before[~before.final], on=["trial_id", "step"], suffixes=("", "_before"))
    assert len(both) == (~before.final).sum()
    pd.testing.assert_series_equal(both.loss, both.loss_before, check_names=False)
