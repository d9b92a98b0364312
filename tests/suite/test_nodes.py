"""A sweep on a real Ray cluster of several nodes: those that leave, those that vanish, those that do not fit."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import Terminal
from final_check import check_complete, children, tables
from ray_nodes import RayNodes, worked
from test_run import commits

from suite.scheduling import MOST_FRUITLESS

pytestmark = pytest.mark.cluster

SWEEP = """
name: sweep
data: {source: sphere, samples: 64, input_dim: 16}
encoder: {width: 256, depth: 2, embedding_dim: 8}
budget: {steps: 1500, stop_below: 0}
resources: {slots: 1}
sweep:
  seed: {range: 6}
"""
LONG = ("--set", "budget.steps=8000", "--set", "seed={range: 2}")
"""Trials of ten seconds or more: one is in its middle when a node is told to go."""
OTHER_NUMPY = """
import importlib.metadata

honest = importlib.metadata.version
importlib.metadata.version = lambda name: "1.0.0" if name == "numpy" else honest(name)
"""


@pytest.fixture
def nodes(home: Path) -> Iterator[RayNodes]:
    with RayNodes(home) as started:
        yield started


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> dict[str, pd.DataFrame]:
    return undisturbed(Terminal(tmp_path_factory.mktemp("calm"), home))


def undisturbed(terminal: Terminal, *options: str) -> dict[str, pd.DataFrame]:
    """The tables of a run on this machine alone."""
    terminal.write("sweep.yaml", SWEEP)
    terminal("run", "sweep.yaml", "--no-report", *options)
    return tables(terminal.folder / "results" / "sweep")


def started(terminal: Terminal, address: str, *options: str) -> subprocess.Popen:
    """A run on the cluster."""
    terminal.write("sweep.yaml", SWEEP)
    terminal.environment["RAY_AUTH_MODE"] = "token"
    return terminal.start("run", "sweep.yaml", "--no-report", "--address", address, *options)


def wait_until(condition: object, *, seconds: float, process: subprocess.Popen) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, "".join(process.communicate())
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.1)


def finished(process: subprocess.Popen, *, expect: int = 0) -> str:
    output, errors = process.communicate(timeout=280)
    assert process.returncode == expect, output + errors
    return output + errors


def test_lanes_on_a_draining_node_commit_within_5_seconds_and_go_on_elsewhere(
    terminal: Terminal, nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory
):
    calm = undisturbed(Terminal(tmp_path_factory.mktemp("long"), terminal.home), *LONG)
    leaving = nodes.add("leaving")
    process = started(terminal, nodes.address, *LONG)
    folder = terminal.folder / "results" / "sweep"
    wait_until(lambda: any(worked(lane) > 5 for lane in nodes.lanes()), seconds=120, process=process)
    # in the middle of a trial, long before its first commit is due
    nodes.drain(leaving, seconds=60)
    told, before = time.monotonic(), set(commits(folder))
    wait_until(lambda: set(commits(folder)) - before, seconds=10, process=process)
    assert time.monotonic() - told < 5.5
    nodes.add("staying")
    output = finished(process)
    assert "is about to go" in output
    check_complete(terminal, "sweep", calm)


def running_lanes(nodes: RayNodes) -> list[bytes]:
    """Command lines of this cluster's workers that train."""
    from ray_nodes import descendants

    pids = [pid for process in nodes._processes.values() for pid in descendants(process.pid)]
    titles = []
    for pid in pids:
        try:
            titles.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue
    return [title for title in titles if title.startswith(b"ray::_train")]


def test_a_node_that_vanishes_with_its_lanes_loses_nothing(
    terminal: Terminal, nodes: RayNodes, calm: dict[str, pd.DataFrame]
):
    nodes.add("staying")
    nodes.add("vanishing")
    process = started(terminal, nodes.address)
    wait_until(lambda: len(running_lanes(nodes)) == 2, seconds=90, process=process)
    time.sleep(2)
    nodes.end("vanishing")
    finished(process)
    check_complete(terminal, "sweep", calm)


def test_shapes_timed_on_a_node_that_is_cut_off_are_timed_elsewhere(tmp_path: Path):
    terminal = Terminal(tmp_path, tmp_path / "home")  # where nothing was timed before
    terminal.home.mkdir()
    impatient = {f"RAY_health_check_{key}": "1000" for key in ("initial_delay_ms", "period_ms", "timeout_ms")}
    with RayNodes(terminal.home, impatient | {"RAY_health_check_failure_threshold": "3"}) as nodes:
        nodes.add("cut")
        shapes = ("--set", "encoder.width=[24, 40, 56, 72, 88, 104]", "--set", "seed={range: 1}")
        process = started(terminal, nodes.address, *shapes, "--set", "budget.steps=100")
        wait_until(lambda: nodes.lanes(b"_measure"), seconds=90, process=process)
        nodes.stop("cut")
        nodes.add("staying")
        output = finished(process)
    assert "Traceback" not in output
    trials = pd.read_parquet(terminal.folder / "results" / "sweep" / "trials.parquet")
    assert trials.status.tolist() == ["finished"] * 6


def test_a_trial_is_not_blamed_for_nodes_that_died_just_after_its_worker(terminal: Terminal, nodes: RayNodes):
    nodes.add("node 0")
    process = started(terminal, nodes.address, "--set", "seed={range: 1}")
    for attempt in range(MOST_FRUITLESS + 1):
        wait_until(nodes.lanes, seconds=90, process=process)
        time.sleep(1)  # it has told where it is, and has committed nothing
        (worker,) = nodes.lanes()
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.02)  # time for Ray to tell the driver of the worker alone
        nodes.kill_raylet(f"node {attempt}")
        nodes.add(f"node {attempt + 1}")
    finished(process)
    trials = pd.read_parquet(terminal.folder / "results" / "sweep" / "trials.parquet")
    assert trials.status.tolist() == ["finished"]


def test_a_node_of_other_versions_is_refused_at_the_start_and_avoided_later(
    terminal: Terminal, nodes: RayNodes, calm: dict[str, pd.DataFrame]
):
    other = terminal.folder / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(OTHER_NUMPY)
    nodes.add("good")
    process = started(terminal, nodes.address)
    wait_until(lambda: running_lanes(nodes), seconds=90, process=process)
    nodes.add("odd", environment={"PYTHONPATH": os.pathsep.join([str(other), os.environ.get("PYTHONPATH", "")])})
    output = finished(process)
    assert "numpy 1.0.0 where the driver has" in output
    check_complete(terminal, "sweep", calm)
    output = terminal("run", "sweep.yaml", "--set", "budget.steps=1501", "--address", nodes.address, expect=2)
    assert "numpy 1.0.0 where the driver has" in output
    assert "stillpoint doctor" in output


def test_after_head_and_driver_were_killed_the_same_command_goes_on_on_another_cluster(
    terminal: Terminal, home: Path, calm: dict[str, pd.DataFrame]
):
    with RayNodes(home) as first:
        first.add("worker", num_cpus=2)
        process = started(terminal, first.address)
        wait_until(lambda: running_lanes(first), seconds=90, process=process)
        time.sleep(3)
        first.end("head")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with RayNodes(home) as second:
        second.add("worker", num_cpus=2)
        finished(started(terminal, second.address))
    check_complete(terminal, "sweep", calm)


def test_a_driver_whose_cluster_goes_away_says_so_and_keeps_what_was_done(terminal: Terminal, home: Path):
    terminal.write("sweep.yaml", SWEEP)
    terminal.environment["RAY_AUTH_MODE"] = "token"
    command = ("run", "sweep.yaml", "--no-report", "--set", "seed={range: 16}")  # more than Ray hands out at once
    with RayNodes(home) as first:
        first.add("worker", num_cpus=2)
        process = terminal.start(*command, "--address", first.address)
        wait_until(lambda: running_lanes(first), seconds=90, process=process)
        time.sleep(3)
        first.end("head")
        output = finished(process, expect=1)
        assert "does not answer any more" in output
        assert "The same command goes on from here." in output
        assert "Traceback" not in output
    terminal(*command)
    folder = terminal.folder / "results" / "sweep"
    trials = pd.read_parquet(folder / "trials.parquet")
    assert trials.status.tolist() == ["finished"] * 16
    ids = [run.data.tags["trial_id"] for run in children(terminal.folder / "results")]
    assert sorted(ids) == sorted(trials.trial_id)


def test_a_head_that_hangs_ends_the_run_with_a_message_before_ray_ends_it_without(terminal: Terminal, home: Path):
    with RayNodes(home) as nodes:
        nodes.add("worker")
        process = started(terminal, nodes.address, "--set", "budget.steps=1000000", "--set", "budget.stop_below=0")
        wait_until(lambda: running_lanes(nodes), seconds=90, process=process)
        nodes.stop("head")
        output = finished(process, expect=1)
        assert "does not answer any more" in output
        assert "The same command goes on from here." in output
        assert "Traceback" not in output


def test_a_client_without_the_token_is_refused(terminal: Terminal, nodes: RayNodes, tmp_path: Path):
    stranger = tmp_path / "stranger"
    (stranger / ".ray").mkdir(parents=True)
    (stranger / ".ray" / "auth_token").write_text("not-the-token-of-that-cluster-000000000")
    terminal.write("sweep.yaml", SWEEP)
    terminal.environment |= {"HOME": str(stranger), "RAY_AUTH_MODE": "token"}
    output = terminal("run", "sweep.yaml", "--address", nodes.address, expect=2)
    assert "lets this process in" in output
    assert "RAY_AUTH_TOKEN_PATH" in output
    assert not (terminal.folder / "results" / "sweep" / "lanes").exists()
