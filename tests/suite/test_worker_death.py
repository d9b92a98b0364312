"""Workers that die: what they had committed is kept, and a trial that kills its worker fails alone."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Terminal
from final_check import check_complete, children, tables
from ray_nodes import descendants
from test_run import LONG, commits

pytestmark = pytest.mark.cluster

DEADLY = """
name: deadly
data: {source: npz, path: good.npz, samples: 8}
encoder: {width: 8, depth: 1, embedding_dim: 4}
budget: {steps: 50, stop_below: 0}
sweep:
  data.path: [good.npz, deadly.npz]
  seed: {range: 2}
"""
FAULT = """
import ctypes, os, signal, sys

def die(event, arguments):
    if event == "open" and str(arguments[0]).endswith("deadly.npz") and "default_worker" in sys.argv[0]:
        DEATH

sys.addaudithook(die)
"""
DEATHS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "ctypes.string_at(0)",
    "exit": "os._exit(7)",
}


def prepare(terminal: Terminal, death: str, experiment: str = DEADLY) -> None:
    """An experiment half of whose trials end their worker when they read their data."""
    rng = np.random.default_rng(0)
    for name in ("good", "deadly"):
        np.savez(terminal.folder / f"{name}.npz", query=rng.normal(size=(8, 4)), key=rng.normal(size=(8, 4)))
    terminal.write("deadly.yaml", experiment)
    faulty = terminal.folder / "fault"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(FAULT.replace("DEATH", DEATHS[death]))
    terminal.environment["PYTHONPATH"] = str(faulty)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> dict[str, pd.DataFrame]:
    """The tables of an undisturbed run of DEADLY."""
    terminal = Terminal(tmp_path_factory.mktemp("calm"), home)
    prepare(terminal, "exit")
    del terminal.environment["PYTHONPATH"]
    terminal("run", "deadly.yaml", "--no-report")
    return tables(terminal.folder / "results" / "deadly")


@pytest.mark.parametrize("death", DEATHS)
def test_a_trial_that_kills_its_worker_fails_alone_and_can_be_trained_later(
    terminal: Terminal, death: str, calm: dict[str, pd.DataFrame]
):
    prepare(terminal, death)
    output = terminal("run", "deadly.yaml", expect=1)
    assert "2 failed" in output
    folder = terminal.folder / "results" / "deadly"
    frame = pd.read_parquet(folder / "trials.parquet").set_index(["data.path", "seed"])
    assert frame.loc["good.npz"].status.tolist() == ["finished"] * 2
    assert frame.loc["deadly.npz"].status.tolist() == ["failed"] * 2
    assert frame.loc["deadly.npz"].error.str.contains("worker died").all()
    states = sorted(run.info.status for run in children(terminal.folder / "results"))
    assert states == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    check_complete(terminal, "deadly", calm, failures=2)
    del terminal.environment["PYTHONPATH"]
    assert "2 trials trained" in terminal("run", "deadly.yaml")
    check_complete(terminal, "deadly", calm)


def test_a_trial_that_kills_its_worker_while_it_is_timed_fails_alone_too(terminal: Terminal):
    never_timed = DEADLY.replace("width: 8", "width: 9")
    prepare(terminal, "segfault", never_timed.replace("[good.npz, deadly.npz]", "[deadly.npz, good.npz]"))
    output = terminal("run", "deadly.yaml", expect=1)
    assert "could not be timed" in output
    assert "Traceback" not in output
    frame = pd.read_parquet(terminal.folder / "results" / "deadly" / "trials.parquet").set_index(["data.path", "seed"])
    assert frame.loc["good.npz"].status.tolist() == ["finished"] * 2
    assert frame.loc["deadly.npz"].status.tolist() == ["failed"] * 2


def training(pid: int) -> list[int]:
    """Workers of this driver that train a lane."""

    def title(process: int) -> bytes:
        try:
            return Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            return b""

    return [process for process in descendants(pid) if title(process).startswith(b"ray::_train")]


def test_workers_killed_in_mid_run_change_no_number(tmp_path: Path, home: Path):
    killed, calm = Terminal(tmp_path / "killed", home), Terminal(tmp_path / "calm", home)
    short = LONG.replace("range: 20", "range: 12")
    for terminal in (killed, calm):
        terminal.folder.mkdir()
        terminal.write("long.yaml", short)
    calm("run", "long.yaml")
    process = killed.start("run", "long.yaml")
    num_killed = 0
    while process.poll() is None and num_killed < 4:
        time.sleep(2)
        for worker in training(process.pid)[: min(2, 4 - num_killed)]:
            os.kill(worker, signal.SIGKILL)
            num_killed += 1
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    assert num_killed == 4
    check_complete(killed, "long", tables(calm.folder / "results" / "long"))
    assert commits(killed.folder / "results" / "long"), "final states are kept"
