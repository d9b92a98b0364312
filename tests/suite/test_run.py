"""The main job on real Ray and real MLflow: each trial once, whatever is killed or extended."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Terminal
from final_check import assert_same, check_complete, children, tables

from analysis import load_results
from suite import tracking_store
from suite.training.records import is_record_step

SMALL = """
name: small
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 200, stop_below: 0}
sweep:
  encoder.width: [8, 16]
  seed: {range: 3}
laws:
- {law: power, y: time_to_stationarity, x: encoder.width, epsilon: 1e-1}
"""
LONG = """
name: long
data: {source: sphere, samples: 32, input_dim: 16}
encoder: {depth: 2, embedding_dim: 8}
budget: {steps: 700, stop_below: 0}
resources: {slots: 1}
sweep:
  encoder.width: [32, 64]
  seed: {range: 20}
"""
LATE = """
name: late
data: {source: npz, path: pairs.npz, samples: 8}
encoder: {width: 11, depth: 1, embedding_dim: 3}
budget: {steps: 50}
"""
SPOIL = """
import sys

def spoil(event, arguments):
    if event == "open" and str(arguments[0]).endswith("pairs.npz") and "default_worker" in sys.argv[0]:
        import numpy as np
        np.savez("spoilt.npz", query=np.eye(4))
        import os
        os.replace("spoilt.npz", arguments[0])

sys.addaudithook(spoil)
"""
NUM_RECORDS = sum(is_record_step(step, 16) for step in range(200)) + 1


def num_points(results: Path, run_id: str) -> int:
    client = tracking_store.open_client(tracking_store.default_tracking_uri(results))
    names = client.get_run(run_id).data.metrics
    return sum(len(client.get_metric_history(run_id, name)) for name in names)


def commits(folder: Path) -> list[Path]:
    return [path for path in folder.glob("lanes/**/*.zip") if not path.name.startswith(".")]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Terminal:
    """A small sweep that ran to its end."""
    terminal = Terminal(tmp_path_factory.mktemp("small"), home)
    terminal.write("small.yaml", SMALL)
    terminal("run", "small.yaml")
    return terminal


def test_each_trial_is_in_the_tables_and_in_mlflow_once(small: Terminal):
    results = small.folder / "results"
    frames = tables(results / "small")
    assert frames["trials"].status.tolist() == ["finished"] * 6
    assert sorted(frames["trials"].name) == sorted(f"m{m}-s{s}" for m in (8, 16) for s in range(3))
    assert frames["records"].groupby("trial_id").size().tolist() == [NUM_RECORDS] * 6
    assert not frames["records"].duplicated(["trial_id", "step"]).any()
    runs = children(results)
    assert sorted(run.data.tags["mlflow.runName"] for run in runs) == sorted(frames["trials"].name)
    for run in runs:
        assert 20 < num_points(results, run.info.run_id) <= 100
        assert run.info.status == "FINISHED"
        (row,) = frames["trials"][frames["trials"].name == run.data.tags["mlflow.runName"]].to_dict("records")
        assert run.data.metrics["final_scaled_grad_norm_sq"] == pytest.approx(row["scaled_grad_norm_sq"], rel=1e-9)
        assert run.data.params["encoder.width"] == str(row["encoder.width"])


def test_mlflow_gives_the_trials_of_the_folder(small: Terminal):
    results = small.folder / "results"
    ours = load_results(results / "small")
    theirs = load_results(tracking_store.default_tracking_uri(results), experiment="small")
    assert theirs.axes == ours.axes
    columns = ["encoder.width", "seed", "status", "steps", "scaled_grad_norm_sq", "displacement"]
    mine, other = (r.trials.sort_values("trial_id", ignore_index=True)[columns] for r in (ours, theirs))
    pd.testing.assert_frame_equal(other, mine, check_dtype=False)
    thinned = theirs.records.merge(ours.records, on=["trial_id", "step"], suffixes=("", "_full"))
    assert len(thinned) == len(theirs.records) < len(ours.records)
    np.testing.assert_allclose(thinned.scaled_grad_norm_sq, thinned.scaled_grad_norm_sq_full)


def test_the_run_leaves_a_report_and_nothing_superfluous(small: Terminal):
    folder = small.folder / "results" / "small"
    assert "<html" in (folder / "report.html").read_text()
    assert json.loads((folder / "fits.json").read_text())
    assert sorted(path.name for path in small.folder.iterdir()) == ["results", "small.yaml"]
    assert not list(folder.rglob(".*")), "unfinished writes"


def test_report_and_mlflow_can_be_left_out_and_made_later(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    folder = terminal.folder / "results" / "small"
    output = terminal("run", "small.yaml", "--no-report", "--tracking-uri", "none")
    assert "stillpoint report results/small" in output
    assert not (folder / "report.html").exists()
    assert not (folder / "fits.json").exists()
    assert not list(folder.parent.glob("ml*")), "MLflow was to be left out"
    frames = tables(folder)
    assert frames["trials"].status.tolist() == ["finished"] * 6
    terminal("report", "results/small")
    assert "<html" in (folder / "report.html").read_text()
    assert "nothing left to train" in terminal("run", "small.yaml", "--no-report")
    assert len(children(folder.parent)) == 6
    assert_same(tables(folder), frames)


def test_the_same_command_again_trains_nothing(small: Terminal):
    folder = small.folder / "results" / "small"
    before = {name: (folder / f"{name}.parquet").read_bytes() for name in ("records", "passages")}
    frames, runs = tables(folder), children(folder.parent)
    output = small("run", "small.yaml")
    assert "nothing left to train" in output
    assert_same(tables(folder), frames)
    assert {name: (folder / f"{name}.parquet").read_bytes() for name in before} == before
    again = children(folder.parent)
    assert {run.info.run_id: run.data.metrics for run in again} == {run.info.run_id: run.data.metrics for run in runs}


def test_with_nothing_to_do_nothing_heavy_is_imported(small: Terminal):
    told = Terminal(small.folder, small.home, {"PYTHONPROFILEIMPORTTIME": "1"})("run", "small.yaml")
    assert "nothing left to train" in told
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    assert "suite.results" in imported
    assert not imported & {"torch", "ray", "mlflow", "sklearn"}


def test_a_stored_trial_trained_again_differs_by_nothing(small: Terminal):
    output = small("run", "small.yaml", "--trial", "m16-s1", "--fresh")
    assert f"{NUM_RECORDS} records compared; largest relative difference 0 " in output
    assert "no such trial" in small("run", "small.yaml", "--trial", "m17", "--fresh", expect=2)


def test_status_and_report_read_what_is_there(small: Terminal):
    assert "6" in small("status", "results/small")
    assert "report.html" in small("report", "results/small")


def test_200_steps_extended_to_400_equal_400_steps(small: Terminal, tmp_path: Path, home: Path):
    small("run", "small.yaml", "--set", "budget.steps=400")
    straight = Terminal(tmp_path, home)
    straight.write("small.yaml", SMALL)
    straight("run", "small.yaml", "--set", "budget.steps=400")
    extended, whole = (tables(t.folder / "results" / "small") for t in (small, straight))
    assert extended["trials"].steps.tolist() == [400] * 6
    assert_same(extended, whole)
    assert len(children(small.folder / "results")) == 6


@pytest.mark.cluster
def test_a_driver_killed_in_mid_sweep_loses_and_doubles_nothing(tmp_path: Path, home: Path):
    killed, calm = Terminal(tmp_path / "killed", home), Terminal(tmp_path / "calm", home)
    for terminal in (killed, calm):
        terminal.folder.mkdir()
        terminal.write("long.yaml", LONG)
    calm("run", "long.yaml")
    folder = killed.folder / "results" / "long"
    process = killed.start("run", "long.yaml")
    while not commits(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "trials.parquet").exists()
    output = killed("run", "long.yaml")
    trained = int(output.rpartition(" trials trained")[0].rpartition("\n")[2].split()[-1])
    assert 0 < trained < 40
    check_complete(killed, "long", tables(calm.folder / "results" / "long"))
    runs = children(killed.folder / "results")
    assert sorted(run.data.tags["mlflow.runName"] for run in runs) == sorted(tables(folder)["trials"].name)
    assert all(num_points(killed.folder / "results", run.info.run_id) <= 100 for run in runs[:4])


@pytest.mark.cluster
def test_ctrl_c_before_the_first_commit_leaves_a_folder_to_go_on_in(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    folder = terminal.folder / "results" / "small"
    process = terminal.start("run", "small.yaml", "--set", "budget.steps=100000")
    while not (folder / "sweep.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in output + errors
    assert "6 trials trained" in terminal("run", "small.yaml")


@pytest.mark.cluster
def test_sigterm_commits_what_runs_and_the_same_command_goes_on(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    folder = terminal.folder / "results" / "small"
    longer = ("run", "small.yaml", "--set", "budget.steps=30000", "--set", "resources.slots=1")
    process = terminal.start(*longer)
    while not commits(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    counted = sum(int(n) for n in re.findall(r"(\d+) (?:pending|finished)", terminal("status", "results/small")))
    assert counted == 6, "before the first merge, all planned trials are counted"
    os.kill(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in output + errors
    frame = pd.read_parquet(folder / "trials.parquet")
    assert len(frame) == 6
    assert (frame.checkpoint.notna() & (frame.status == "pending")).any(), "what was running was not committed"
    left = int((frame.status == "pending").sum())
    assert f"{left} trials trained" in terminal(*longer)


@pytest.mark.cluster
def test_ctrl_c_keeps_what_was_done_and_a_second_run_is_kept_out_meanwhile(terminal: Terminal, home: Path):
    terminal.write("long.yaml", LONG)
    folder = terminal.folder / "results" / "long"
    process = terminal.start("run", "long.yaml")
    while not commits(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert f"in use by process {process.pid}" in terminal("run", "long.yaml", expect=3)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in output + errors
    frame = pd.read_parquet(folder / "trials.parquet")
    assert len(frame) == 40
    done = int((frame.status == "finished").sum())
    begun = int((frame.checkpoint.notna() & (frame.status == "pending")).sum())
    assert begun > 0, "what was running was not committed"
    assert f"{done} trials trained" in output
    again = terminal("run", "long.yaml")
    assert f"{40 - done} trials trained" in again
    final = pd.read_parquet(folder / "trials.parquet")
    assert final.status.tolist() == ["finished"] * 40
    assert np.all(final.steps == 700)


def test_data_bad_for_one_seed_alone_exits_2_and_names_it(terminal: Terminal):
    """One of 40 rows is zero, and each trial takes 8: most seeds never see it."""
    rows = np.random.default_rng(0).normal(size=(40, 4))
    rows[7] = 0
    np.savez(terminal.folder / "pairs.npz", query=rows, key=rows)
    terminal.write(
        "seeds.yaml", "name: seeds\ndata: {source: npz, path: pairs.npz, samples: 8}\nsweep: {seed: {range: 40}}\n"
    )
    output = terminal("run", "seeds.yaml", expect=2)
    assert re.search(r"rows of the query view are zero.*\(seed \d+\)", output.replace("\n", " ")), output
    assert "Traceback" not in output
    assert not (terminal.folder / "results").exists()


def test_data_that_turns_out_bad_in_training_fails_by_name_or_exits_2(terminal: Terminal):
    """The file is altered after the check of the data, by what a driver opens last before Ray."""
    rows = np.random.default_rng(0).normal(size=(8, 4))
    np.savez(terminal.folder / "pairs.npz", query=rows, key=rows)
    terminal.write("late.yaml", LATE)
    faulty = terminal.folder / "fault"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(SPOIL)
    terminal.environment["PYTHONPATH"] = os.pathsep.join([str(faulty), os.environ.get("PYTHONPATH", "")])
    output = terminal("run", "late.yaml", expect=2)
    assert "no array 'key'" in output
    assert "Traceback" not in output


def test_a_home_that_cannot_be_written_is_told_and_nothing_is_written(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    (terminal.folder / "file").write_text("")
    terminal.home = terminal.folder / "file" / "home"
    output = terminal("run", "small.yaml", expect=2)
    assert "set HOME to a folder that can" in output.replace("\n", " ")
    assert not (terminal.folder / "results").exists()


def test_another_mlflow_store_is_named_without_its_password(terminal: Terminal):
    terminal.write("small.yaml", SMALL)
    output = terminal("run", "small.yaml", "--tracking-uri", "http://ada:s3cret@127.0.0.1:9")
    assert "MLflow  http://ada:***@127.0.0.1:9" in output
    assert "stillpoint ui" not in output
    assert "s3cret" not in output


def test_bad_input_exits_2_and_writes_nothing(terminal: Terminal):
    np.savez(terminal.folder / "pairs.npz", query=np.eye(4), other=np.eye(4))
    path = terminal.write("bad.yaml", "name: bad\ndata: {source: npz, path: pairs.npz, samples: 4}\n")
    before = sorted(terminal.folder.rglob("*"))
    for arguments, words in [
        (("run", "bad.yaml"), "no array 'key'"),
        (("run", "bad.yaml", "--set", "data.samples=x"), "whole number"),
        (("run", "absent.yaml"), "absent.yaml"),
        (("run", "bad.yaml", "--profile", "p"), "no profiles"),
        (("run", "bad.yaml", "--trial", "x"), "--fresh"),
        (("run", "bad.yaml", "--set", "data={source: sphere}", "--address", "127.0.0.1:1"), "no Ray at 127.0.0.1:1"),
        (("plan", "bad.yaml", "--set", "seed=-1"), "at least 0"),
        (("report", "nowhere"), "nowhere"),
        (("status", "nowhere"), "nowhere"),
        (("ui", "nowhere"), "nowhere"),
        (("run", "bad.yaml", "--nonsense"), "--nonsense"),
        (("run", "bad.yaml", "--results", "ftp://host/sweeps"), "results cannot lie at ftp://"),
        (("status", "ftp://host/sweeps/bad"), "results cannot lie at ftp://"),
        (("ui", "s3://bucket/sweeps/bad"), "s3://bucket/sweeps/bad is a bucket"),
        (("walk",), "walk"),
        (("init", str(path)), "exists already"),
    ]:
        output = terminal(*arguments, expect=2)
        assert words in output, output
        assert "Traceback" not in output
    assert sorted(p for p in terminal.folder.rglob("*") if "results/bad" not in str(p)) == before


def test_results_are_not_continued_on_a_file_that_changed(terminal: Terminal):
    rng = np.random.default_rng(0)
    path = terminal.folder / "pairs.npz"
    np.savez(path, query=rng.normal(size=(9, 5)), key=rng.normal(size=(9, 5)))
    content = path.read_bytes()
    terminal.write(
        "mine.yaml",
        "name: mine\ndata: {source: npz, path: pairs.npz, samples: 8}\n"
        "encoder: {width: 8, depth: 1, embedding_dim: 3}\nbudget: {steps: 20}\n",
    )
    terminal("run", "mine.yaml")
    before = tables(terminal.folder / "results" / "mine")
    np.savez(path, query=rng.normal(size=(9, 5)), key=rng.normal(size=(9, 5)))
    for more in ([], ["--set", "budget.steps=40"]):
        assert "pairs.npz changed since" in terminal("run", "mine.yaml", *more, expect=2)
    assert_same(before, tables(terminal.folder / "results" / "mine"))
    path.write_bytes(content)
    terminal("run", "mine.yaml", "--set", "budget.steps=40")
    assert load_results(terminal.folder / "results" / "mine").trials.steps.tolist() == [40]
