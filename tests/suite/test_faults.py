"""Faults of the machine in mid-sweep: a full disk, no memory, no minutes left. Nothing finished is lost or doubled."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import Terminal
from final_check import check_complete, children, tables
from test_run import commits

pytestmark = pytest.mark.cluster

BULKY = """
name: bulky
data: {source: sphere, samples: 32, input_dim: 16}
encoder: {depth: 2, embedding_dim: 8}
budget: {steps: 40, stop_below: 0}
resources: {slots: 1}
sweep:
  encoder.width: [160, 192, 224, 256]
  seed: {range: 8}
"""
"""Each width is a shape of its own, hence at least a lane and a commit: 2 to 7 MB each."""
WIDE = """
name: wide
data: {source: sphere, samples: 8, input_dim: 4}
encoder: {width: 512, depth: 2, embedding_dim: 4}
budget: {steps: 5, stop_below: 0}
resources: {slots: 64}
sweep:
  seed: {range: 70}
"""
LITTLE_MEMORY = """
import resource, sys

if "default_worker" in sys.argv[0]:
    def limit(event, arguments):
        if event == "import" and arguments[0] == "suite.worker":
            import torch  # what it takes itself differs by machine
            torch.ones(64, 64) @ torch.ones(64, 64)
            lines = open("/proc/self/status").read().splitlines()
            now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
            resource.setrlimit(resource.RLIMIT_DATA, (now + 400 * 2**20, resource.RLIM_INFINITY))
    sys.addaudithook(limit)
"""


class Disk:
    """A file system of its own, of a size that can be changed."""

    def __init__(self, place: Path, size: str) -> None:
        self.place = place
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.place], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)


@pytest.fixture
def disk(terminal: Terminal) -> Iterator[Disk]:
    """Where the results of `terminal` go: 14 MB, of which the sweep needs more."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    mounted = Disk(terminal.folder / "results", "14m")
    yield mounted
    mounted.unmount()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> dict[str, pd.DataFrame]:
    """The tables of an undisturbed run."""
    terminal = Terminal(tmp_path_factory.mktemp("calm"), home)
    terminal.write("bulky.yaml", BULKY)
    terminal("run", "bulky.yaml", "--no-report")
    return tables(terminal.folder / "results" / "bulky")


def test_a_disk_that_stays_full_ends_the_run_and_the_same_command_goes_on(
    terminal: Terminal, disk: Disk, calm: dict[str, pd.DataFrame]
):
    terminal.write("bulky.yaml", BULKY)
    output = terminal("run", "bulky.yaml", "--no-report", expect=1)
    assert "No space left on device" in output
    assert "The same command goes on from here." in output
    assert "Traceback" not in output
    disk.resize("200m")
    output = terminal("run", "bulky.yaml", "--no-report")
    assert "trials trained" in output
    assert "32 trials trained" not in output, "what was committed before is kept"
    check_complete(terminal, "bulky", calm)


def wait_until_nothing_is_committed(folder: Path, process: subprocess.Popen, *, seconds: float) -> None:
    """Until commits were made, and then none for so long."""
    known, since = [], time.monotonic()
    while not known or time.monotonic() - since < seconds:
        assert process.poll() is None, "it must still wait for room"
        if (found := commits(folder)) != known:
            known, since = found, time.monotonic()
        time.sleep(0.1)


def test_a_disk_that_is_full_for_some_seconds_only_delays_the_run(
    terminal: Terminal, disk: Disk, calm: dict[str, pd.DataFrame]
):
    terminal.write("bulky.yaml", BULKY)
    process = terminal.start("run", "bulky.yaml", "--no-report")
    wait_until_nothing_is_committed(terminal.folder / "results" / "bulky", process, seconds=10)
    disk.resize("200m")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    check_complete(terminal, "bulky", calm)


def test_a_lane_that_runs_out_of_memory_goes_on_with_fewer_slots(terminal: Terminal):
    faulty = terminal.folder / "fault"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(LITTLE_MEMORY)
    terminal.write("wide.yaml", WIDE)
    terminal.environment["PYTHONPATH"] = str(faulty)
    output = terminal("run", "wide.yaml", "--no-report")
    assert "allocate memory" in output
    assert "it goes on with 32 slots" in output
    found = tables(terminal.folder / "results" / "wide")
    assert set(found["trials"].slots) < {32, 16, 8, 4, 2, 1}
    assert found["trials"].status.tolist() == ["finished"] * 70
    ids = [run.data.tags["trial_id"] for run in children(terminal.folder / "results")]
    assert sorted(ids) == sorted(found["trials"].trial_id)


def test_trials_out_of_minutes_are_named_and_more_minutes_continue_them(
    terminal: Terminal, calm: dict[str, pd.DataFrame]
):
    terminal.write("bulky.yaml", BULKY)
    brief = ("run", "bulky.yaml", "--no-report", "--set", "budget.minutes=0.0001")
    terminal(*brief, expect=1)
    folder = terminal.folder / "results" / "bulky"
    trials = pd.read_parquet(folder / "trials.parquet")
    assert trials.status.tolist() == ["timeout"] * 32
    assert trials.error.str.contains("more minutes continue it").all()
    assert {run.info.status for run in children(terminal.folder / "results")} == {"KILLED"}
    assert "nothing left to train" in terminal(*brief, expect=1)
    assert "budget.minutes" in terminal("status", str(folder))
    terminal("run", "bulky.yaml", "--no-report", "--set", "budget.minutes=100")
    check_complete(terminal, "bulky", calm)
