"""What `stillpoint doctor` says of this machine, and of real nodes that differ in one thing each."""

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import Terminal
from ray_nodes import RayNodes
from test_nodes import OTHER_NUMPY

from suite.nodes import clock_ahead
from suite.tracking_store import default_tracking_uri, examine_store

FAST_CLOCK = """
import sys, time

honest = time.time
time.time = lambda: honest() + 100 * (sys._getframe(1).f_globals.get("__name__") == "suite.nodes")
"""
NO_STILLPOINT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "suite" and "default_worker" in sys.argv[0]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
OWN_FOLDER = 'mount -t tmpfs tmpfs "$0" && exec "$@"'


def words(output: str) -> str:
    return " ".join(output.split())


@pytest.mark.parametrize(
    ("clock", "ahead"),
    [(100.0, 0.0), (130.0, 0.0), (160.0, 0.0), (95.0, -5.0), (172.0, 12.0)],
)
def test_a_clock_is_judged_by_what_lies_outside_of_question_and_answer(clock: float, ahead: float) -> None:
    assert clock_ahead(clock, asked=100.0, answered=160.0) == ahead


def test_a_machine_in_order_is_well_and_nothing_is_left(terminal: Terminal) -> None:
    output = terminal("doctor", "--results", "some/where")
    assert "All is well." in output
    assert f"which is not there yet; {terminal.folder} was tried" in words(output)
    for name in ("python 3.", "stillpoint ", "torch ", "numpy ", "ray "):
        assert name in output
    assert list(terminal.folder.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(terminal: Terminal) -> None:
    file = terminal.write("file", "content")
    for place in ("file", "file/below", "/proc/below"):
        output = terminal("doctor", "--results", place, "--tracking-uri", "none", expect=1)
        assert "nothing can be written to" in output
        assert "--results" in output
        assert "Traceback" not in output
    assert file.read_text() == "content"


def test_a_tracking_store_that_cannot_be_used_is_told_and_left_as_it_is(terminal: Terminal) -> None:
    with closing(sqlite3.connect(terminal.folder / "other.db")) as database:
        database.execute("create table mine (id integer)")
    before = (terminal.folder / "other.db").read_bytes()
    for uri, reason in (
        ("http://127.0.0.1:9", "connection refused"),
        (f"sqlite:///{terminal.folder}/other.db", "no database of MLflow's"),
    ):
        output = words(terminal("doctor", "--tracking-uri", uri, expect=1))
        assert f"cannot be used ({reason}" in output or reason in output
        assert "start it, or give its address with --tracking-uri" in output
    assert (terminal.folder / "other.db").read_bytes() == before
    assert [path.name for path in terminal.folder.iterdir()] == ["other.db"]


def test_a_database_of_mlflow_is_looked_at_and_not_changed(tmp_path: Path) -> None:
    from suite import tracking_store

    tracking_store.open_client(default_tracking_uri(tmp_path)).search_experiments()
    before = (tmp_path / "mlflow.db").read_bytes()
    store = examine_store(default_tracking_uri(tmp_path))
    assert "lets this process in" in store.is_there
    assert store.problem is None
    assert (tmp_path / "mlflow.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_gpus_are_shown_and_told_where_pytorch_cannot_use_them(terminal: Terminal) -> None:
    tool = terminal.write("nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 80995 MiB, 81559 MiB'\n")
    tool.chmod(0o755)
    terminal.environment["PATH"] = f"{terminal.folder}{os.pathsep}{os.environ['PATH']}"
    is_for_cpus = version("torch").endswith("+cpu")
    output = terminal("doctor", "--tracking-uri", "none", expect=int(is_for_cpus))
    assert "NVIDIA H100 80GB HBM3, 79 of 80 GiB free" in re.sub(r"[\s│]+", " ", output)
    assert ("PyTorch there is a build for CPUs" in words(output)) == is_for_cpus


def test_a_home_that_cannot_be_written_is_told(terminal: Terminal) -> None:
    terminal.write("file", "")
    terminal.home = terminal.folder / "file" / "home"
    assert "set HOME to a folder" in words(terminal("doctor", "--tracking-uri", "none", expect=1))


def test_a_cluster_that_does_not_answer_is_told_and_what_is_no_address_is_bad_input(terminal: Terminal) -> None:
    output = words(terminal("doctor", "--address", "127.0.0.1:9", "--tracking-uri", "none", expect=1))
    assert "no Ray at 127.0.0.1:9" in output
    assert "start Ray there" in output
    for address in ("nonsense", "ray://127.0.0.1:10001"):
        assert address in terminal("doctor", "--address", address, expect=2)
    assert list(terminal.folder.iterdir()) == []


@pytest.fixture
def nodes(terminal: Terminal, home: Path) -> Iterator[RayNodes]:
    terminal.environment["RAY_AUTH_MODE"] = "token"
    with RayNodes(home) as started:
        yield started


def doctored(terminal: Terminal, nodes: RayNodes, *, expect: int = 0) -> str:
    return words(terminal("doctor", "--address", nodes.address, "--tracking-uri", "none", expect=expect))


@pytest.mark.cluster
def test_a_cluster_in_order_is_well_for_two_who_ask_at_once(terminal: Terminal, nodes: RayNodes) -> None:
    nodes.add("worker")
    (terminal.folder / "results").mkdir()
    command = ("doctor", "--address", nodes.address)
    asking = [terminal.start(*command) for _ in range(2)]
    for process in asking:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors
        assert output.count("the driver's") == 2
        assert "All is well." in output
    assert list((terminal.folder / "results").iterdir()) == []


@pytest.mark.cluster
def test_each_difference_of_a_node_is_told_with_its_remedy(terminal: Terminal, nodes: RayNodes) -> None:
    for name, code in (("numpy", OTHER_NUMPY), ("clock", FAST_CLOCK), ("bare", NO_STILLPOINT)):
        (terminal.folder / name).mkdir()
        (terminal.folder / name / "sitecustomize.py").write_text(code)
        path = os.pathsep.join([str(terminal.folder / name), os.environ.get("PYTHONPATH", "")])
        nodes.add(name, environment={"PYTHONPATH": path})
    output = doctored(terminal, nodes, expect=1)
    assert "has numpy 1.0.0, and the driver" in output
    assert "-> install numpy" in output
    assert "s ahead of the driver's" in output
    assert "-> let chrony" in output
    assert "No module named 'suite" in output
    assert "-> see that Stillpoint is installed there" in output
    assert output.count("->") == 3, output


@pytest.mark.cluster
def test_a_node_that_does_not_share_the_folder_is_told(terminal: Terminal, nodes: RayNodes) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    results = terminal.folder / "results"
    results.mkdir()
    nodes.add("alone", within=("unshare", "--mount", "sh", "-c", OWN_FOLDER, str(results)))
    output = doctored(terminal, nodes, expect=1)
    assert f"does not see the driver's files in {results}" in output
    assert "mount the same folder there" in output
    assert output.count("->") == 1, output
    assert list(results.iterdir()) == []


@pytest.mark.cluster
def test_a_driver_without_the_token_is_told_where_it_belongs(terminal: Terminal, nodes: RayNodes) -> None:
    stranger = terminal.folder / "stranger"
    (stranger / ".ray").mkdir(parents=True)
    (stranger / ".ray" / "auth_token").write_text("not-the-token-of-that-cluster-000000000")
    terminal.home = stranger
    output = doctored(terminal, nodes, expect=1)
    assert "RAY_AUTH_TOKEN_PATH" in output
    assert "stillpoint doctor" not in output


@pytest.mark.cluster
def test_a_node_that_gives_no_answer_is_told(terminal: Terminal, nodes: RayNodes) -> None:
    nodes.add("stuck")
    raylet = nodes.raylet("stuck")
    subprocess.run(["kill", "-STOP", str(raylet)], check=True)
    try:
        output = doctored(terminal, nodes, expect=1)
    finally:
        subprocess.run(["kill", "-CONT", str(raylet)], check=True)
    assert "no report" in output
    assert "-> see that" in output
