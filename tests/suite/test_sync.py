"""A tracking server that is away: for a while, or for good. MLflow gets everything in the end, and nothing twice."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Terminal
from final_check import check_complete, children, tables
from mlflow_server import MlflowServer
from test_run import commits

from suite import tracking_store
from suite.sweep_page import CURVES
from suite.tracking import MAX_POINTS

pytestmark = pytest.mark.cluster

SWEEP = """
name: sweep
data: {source: sphere, samples: 32, input_dim: 16}
encoder: {width: 64, depth: 2, embedding_dim: 8}
budget: {steps: 1000, stop_below: 0}
resources: {slots: 1}
sweep:
  seed: {range: 16}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path / "server") as started:
        yield started


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> dict[str, pd.DataFrame]:
    """The tables of an undisturbed run."""
    terminal = Terminal(tmp_path_factory.mktemp("calm"), home)
    terminal.write("sweep.yaml", SWEEP)
    terminal("run", "sweep.yaml", "--no-report", "--tracking-uri", "none")
    return tables(terminal.folder / "results" / "sweep")


def started(terminal: Terminal, uri: str, *options: str) -> subprocess.Popen:
    terminal.write("sweep.yaml", SWEEP)
    return terminal.start("run", "sweep.yaml", "--no-report", "--tracking-uri", uri, *options)


def finished(process: subprocess.Popen, *, expect: int = 0) -> str:
    output, errors = process.communicate(timeout=280)
    assert process.returncode == expect, output + errors
    return " ".join((output + errors).split())


def wait_for_commits(terminal: Terminal, process: subprocess.Popen, *, more_than: int = 0) -> int:
    """How many there are once there are more."""
    while (number := len(commits(terminal.folder / "results" / "sweep"))) <= more_than:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return number


def wait_for_runs(uri: str, process: subprocess.Popen) -> None:
    while not children(Path(), tracking_uri=uri):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def histories(uri: str) -> dict[str, list[tuple[str, int, int, float]]]:
    """All metric points by trial."""
    client = tracking_store.open_client(uri)
    found: dict[str, Any] = {}
    for run in children(Path(), tracking_uri=uri):
        points = [(key, m) for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)]
        found[run.data.tags["trial_id"]] = sorted((key, m.step, m.timestamp, m.value) for key, m in points)
    return found


def check_points(terminal: Terminal, uri: str) -> None:
    """Fail unless MLflow has every trial's curves once, up to the last record, at the times when they were measured."""
    records = pd.read_parquet(terminal.folder / "results" / "sweep" / "records.parquet")
    times = dict(zip(zip(records.trial_id, records.step, strict=True), records.timestamp_ms, strict=True))
    last = records.groupby("trial_id").step.max()
    for trial_id, points in histories(uri).items():
        assert len({(key, step) for key, step, *_ in points}) == len(points) <= MAX_POINTS
        for curve in CURVES:
            mine = {step: when for key, step, when, _ in points if key == curve}
            assert {0, 1, 10, 100, last[trial_id]} <= set(mine)
            assert mine == {step: times[trial_id, step] for step in mine}


def everything(uri: str) -> list[Any]:
    """What is in MLflow, but for the artifacts."""
    runs = children(Path(), tracking_uri=uri)
    return [sorted((run.to_dictionary() for run in runs), key=lambda run: run["info"]["run_id"]), histories(uri)]


def test_a_server_that_is_killed_and_comes_back_gets_all_while_training_goes_on(
    terminal: Terminal, server: MlflowServer, calm: dict[str, pd.DataFrame]
):
    process = started(terminal, server.uri)
    wait_for_runs(server.uri, process)
    server.kill()
    there = wait_for_commits(terminal, process)
    wait_for_commits(terminal, process, more_than=there + 1)  # training goes on
    server.start()
    assert "not in it" not in finished(process)
    check_complete(terminal, "sweep", calm, tracking_uri=server.uri)
    check_points(terminal, server.uri)


def test_a_server_that_is_away_at_the_start_gets_all_once_it_is_there(terminal: Terminal, server: MlflowServer):
    server.kill()
    process = started(terminal, server.uri, "--set", "seed={range: 64}")
    wait_for_commits(terminal, process)
    server.start()
    assert process.poll() is None, "the sweep is too short for this test"
    assert "not in it" not in finished(process)
    trials = tables(terminal.folder / "results" / "sweep")["trials"]
    assert trials.status.tolist() == ["finished"] * 64
    ids = [run.data.tags["trial_id"] for run in children(Path(), tracking_uri=server.uri)]
    assert sorted(ids) == sorted(trials.trial_id)
    check_points(terminal, server.uri)


def test_the_end_of_a_sweep_waits_for_a_server_that_is_on_its_way_back(
    terminal: Terminal, server: MlflowServer, calm: dict[str, pd.DataFrame]
):
    process = started(terminal, server.uri)
    wait_for_runs(server.uri, process)
    server.kill()
    while not (terminal.folder / "results" / "sweep" / "trials.parquet").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(8)  # three attempts, after which a server that never answered would be given up
    assert process.poll() is None
    server.start()
    finished(process)
    check_complete(terminal, "sweep", calm, tracking_uri=server.uri)
    check_points(terminal, server.uri)


def test_sync_delivers_what_a_server_that_was_away_for_good_has_not_and_again_changes_nothing(
    terminal: Terminal, server: MlflowServer, calm: dict[str, pd.DataFrame]
):
    folder = str(terminal.folder / "results" / "sweep")
    process = started(terminal, server.uri)
    wait_for_runs(server.uri, process)
    server.kill()
    output = finished(process)
    assert f"stillpoint sync {folder}" in output
    assert "connection refused" in output
    before = tables(Path(folder))
    output = terminal("sync", folder, expect=1)
    assert "connection refused" in output
    assert f"stillpoint sync {folder}" in " ".join(output.split())
    server.start()
    assert "16 finished" in terminal("sync", folder)
    check_complete(terminal, "sweep", calm, tracking_uri=server.uri)
    check_points(terminal, server.uri)
    there = everything(server.uri)
    terminal("sync", folder)
    assert everything(server.uri) == there
    assert "nothing left to train" in terminal("run", "sweep.yaml", "--no-report", "--tracking-uri", server.uri)
    assert everything(server.uri) == there
    pd.testing.assert_frame_equal(tables(Path(folder))["trials"], before["trials"])


def test_sync_delivers_to_a_store_of_its_own_choice_what_mlflow_never_heard_of(terminal: Terminal):
    terminal.write("sweep.yaml", SWEEP)
    terminal("run", "sweep.yaml", "--no-report", "--tracking-uri", "none", "--set", "seed={range: 2}")
    terminal("sync", "results/sweep")
    assert len(children(terminal.folder / "results")) == 2
    other = f"sqlite:///{terminal.folder}/other.db"
    terminal("sync", "results/sweep", "--tracking-uri", other)
    assert len(children(Path(), tracking_uri=other)) == 2
    kept = json.loads((terminal.folder / "results" / "sweep" / "sweep.json").read_text())["delivered"]
    assert len(kept) == 2, "each is known to have it all"
    assert "is nowhere" in terminal("sync", "results/sweep", "--tracking-uri", "none", expect=2)
    assert "holds no results" in terminal("sync", "results", expect=2)


def test_sync_keeps_out_of_a_folder_in_which_a_run_is_at_work_and_delivers_what_a_killed_one_left(terminal: Terminal):
    terminal.write("sweep.yaml", SWEEP)
    command = ("run", "sweep.yaml", "--no-report", "--tracking-uri", "none")
    terminal(*command, "--set", "seed={range: 2}")
    process = terminal.start(*command)
    wait_for_commits(terminal, process, more_than=2)
    assert f"in use by process {process.pid}" in terminal("sync", "results/sweep", expect=3)
    process.kill()
    process.communicate()
    output = terminal("sync", "results/sweep")
    assert len(children(terminal.folder / "results")) == 2, output  # of the sweep as the tables have it
    terminal("run", "sweep.yaml", "--no-report")
    ids = [run.data.tags["trial_id"] for run in children(terminal.folder / "results")]
    assert len(set(ids)) == len(ids) == 16
