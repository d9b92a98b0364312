"""Files that were made to run code when they are read: none does."""

import ast
import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from conftest import Terminal
from final_check import tables
from test_run import SMALL, commits

from suite.commits import Commit, decode, decode_state, encode
from suite.loading import load_experiment
from suite.reference import ROOT
from suite.storage import DamagedError, Folder
from suite.tables import OUTCOMES, PASSAGES, RECORDS
from suite.yaml_source import ExperimentError

TRIAL = "0123456789ab"


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._file), "w")


def pickled(file: Path) -> bytes:
    return pickle.dumps(Touch(file))


def array_of_objects(file: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(file)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def archive_of_objects(file: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.array([Touch(file)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


KINDS = [pickled, array_of_objects, archive_of_objects]


def poison(commit: Path, content: bytes) -> None:
    """Put this in place of every array of every state; all checksums are right."""
    with zipfile.ZipFile(commit) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(commit, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.startswith("states/") else part)


def a_commit(path: Path) -> Path:
    empty = Commit(
        records=RECORDS.empty_table(),
        outcomes=OUTCOMES.empty_table(),
        passages=PASSAGES.empty_table(),
        running={TRIAL: (5, 1.0)},
    )
    path.write_bytes(encode(empty, {TRIAL: {"weights": np.arange(3.0)}}))
    return path


def test_the_files_of_these_tests_do_run_code_where_they_are_read_carelessly(tmp_path: Path) -> None:
    for number, make in enumerate(KINDS):
        victim = tmp_path / str(number)
        content = make(victim)
        if make is pickled:
            pickle.loads(content).close()
        else:
            loaded = np.load(io.BytesIO(content), allow_pickle=True)
            next(iter(loaded if make is array_of_objects else loaded["arr_0"])).close()
        assert victim.exists()


@pytest.mark.parametrize("make", KINDS)
def test_a_state_that_is_no_array_of_numbers_is_damaged_and_runs_nothing(make: object, tmp_path: Path) -> None:
    victim, commit = tmp_path / "victim", a_commit(tmp_path / "commit.zip")
    assert decode_state(Folder(tmp_path), commit.name, TRIAL)["weights"].tolist() == [0, 1, 2]
    poison(commit, make(victim))  # type: ignore[operator]
    with pytest.raises(DamagedError):
        decode_state(Folder(tmp_path), commit.name, TRIAL)
    assert not victim.exists()


def test_a_table_with_a_type_that_wants_to_be_unpickled_runs_nothing(tmp_path: Path) -> None:
    victim, commit = tmp_path / "victim", a_commit(tmp_path / "commit.zip")
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled(victim)}
    schema = pa.schema([pa.field("trial_id", pa.string(), metadata=kind)])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table({"trial_id": ["x"]}, schema=schema))
    with zipfile.ZipFile(commit) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(commit, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, sink.getvalue().to_pybytes() if name == "records.arrow" else part)
    assert decode(Folder(tmp_path), commit.name).records["trial_id"].to_pylist() == ["x"]
    assert not victim.exists()


@pytest.mark.cluster
@pytest.mark.parametrize("make", [pickled, array_of_objects])
def test_trials_with_such_checkpoints_begin_anew(make: object, terminal: Terminal) -> None:
    terminal.write("small.yaml", SMALL)
    terminal("run", "small.yaml", "--no-report")
    folder, victim = terminal.folder / "results" / "small", terminal.folder / "victim"
    shutil.copytree(folder, terminal.folder / "kept")
    for commit in commits(folder):
        poison(commit, make(victim))  # type: ignore[operator]
    output = terminal("run", "small.yaml", "--no-report", "--set", "budget.steps=400")
    assert "is damaged" in output
    assert tables(folder)["trials"].steps.tolist() == [400] * 6
    assert not victim.exists()


def test_yaml_that_asks_for_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    evil = f"!!python/object/apply:builtins.open [{victim}, w]"
    yaml.unsafe_load(evil).close()
    assert victim.exists()
    victim.unlink()
    for text, overrides in (
        (f"name: bad\nseed: {evil}\n", []),
        (evil, []),
        ("name: bad\n", [f"seed={evil}"]),
        ("name: bad\n", [f"sweep={{seed: [{evil}]}}"]),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ExperimentError):
            load_experiment(tmp_path / "bad.yaml", overrides=overrides)
        assert not victim.exists()


def calls(path: Path) -> list[tuple[str, list[str]]]:
    """Every call in a file: what is called, and its arguments by keyword."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(n.func), [f"{k.arg}={ast.unparse(k.value)}" for k in n.keywords]) for n in nodes]


def test_nothing_in_the_source_reads_files_in_a_way_that_could_run_code() -> None:
    files = [path for package in ("suite", "analysis") for path in (ROOT / package).rglob("*.py")]
    found = [(path.name, *call) for path in files for call in calls(path)]
    assert [name for name, what, _ in found if what.startswith(("pickle.", "marshal.", "shelve.", "torch.load"))] == []
    loads = [(name, words) for name, what, words in found if what in ("yaml.load", "yaml.compose")]
    assert {name for name, _ in loads} == {"yaml_source.py"}
    assert all(words == ["Loader=_Loader"] for _, words in loads)
    assert not [what for _, what, _ in found if what in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all")]
    arrays = [words for _, what, words in found if what in ("np.load", "np.lib.format.read_array")]
    assert arrays
    assert all("allow_pickle=False" in words for words in arrays)
