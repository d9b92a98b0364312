"""Random kills over a real cluster, until a sweep has ended that must come out as if nothing had happened.

`python -m benchmarks.random_kills --seed 0 --kills 25 [--hours H]` starts a head and three nodes by `ray start`, and a
sweep on them. At seeded random moments it kills a worker, a raylet, a whole node (another one joins) or the driver (its
command is given again). Then nothing may be missing, doubled or changed against an undisturbed run. With `--hours` it
begins again with the next seed for as long as that. Needs the tests' folder beside this one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.command import COMMAND
from suite.progress import duration
from tests.suite.final_check import Tables, tables, wrongs
from tests.suite.ray_nodes import RayNodes

SWEEP = """
name: storm
data: {source: sphere, samples: 64, input_dim: 16}
encoder: {depth: 2, embedding_dim: 8}
budget: {steps: 1500, stop_below: 0}
resources: {slots: 2}
sweep:
  encoder.width: [96, 160]
  seed: {range: SEEDS}
"""
SEEDS_PER_KILL = 3
"""Enough trials that the sweep outlasts the kills."""
NUM_NODES = 3
KINDS = ("worker", "worker", "worker", "driver", "worker", "raylet", "worker", "driver", "worker", "node")
"""What is killed, in shares; in each sweep in another order."""
PAUSE_SECONDS = (0.5, 5.0)
"""Between two kills."""
IDLE_SECONDS, END_SECONDS = 90.0, 900.0
"""How long no lane may be at work in mid-sweep, and how long the rest may take after the last kill."""
UNFINISHED = 1
"""The exit code of a run that the same command goes on with."""


class StormError(RuntimeError):
    """What should not have happened."""


@dataclass
class Storm:
    """One sweep on a cluster, and what is killed while it runs."""

    nodes: RayNodes
    home: Path
    folder: Path
    seed: int
    kills: int
    num_restarts: int = 0
    _driver: subprocess.Popen[bytes] | None = None
    _random: random.Random = field(init=False)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self) -> None:
        """Kill so many times, and let the sweep come to its end.

        Raises:
            StormError: it ended early, stands still, or its command fails in a way that is no call to give it again.
        """
        kinds = [KINDS[number % len(KINDS)] for number in range(self.kills)]
        self._random.shuffle(kinds)
        self._start()
        try:
            for number, kind in enumerate(kinds, 1):
                self._wait(self._random.uniform(*PAUSE_SECONDS))
                self._tell(number, self._kill(kind))
            self._end()
        finally:
            if self._driver is not None and self._driver.poll() is None:
                self._driver.kill()
                self._driver.wait()

    @property
    def log(self) -> Path:
        """What the drivers printed."""
        return self.folder / "driver.log"

    def _start(self) -> None:
        command = [str(COMMAND), "run", "storm.yaml", "--no-report", "--address", self.nodes.address]
        with self.log.open("ab") as log:
            self._driver = start(command, self.folder, self.home, log.fileno(), RAY_AUTH_MODE="token")

    def _wait(self, seconds: float) -> None:
        """Go on so long, and until a lane is at work; a driver that ended unfinished is started again."""
        until, latest = time.monotonic() + seconds, time.monotonic() + seconds + IDLE_SECONDS
        while time.monotonic() < until or not self.nodes.lanes():
            if self._ended():
                raise StormError(f"the sweep ended before all {self.kills} kills: it needs more trials")
            if time.monotonic() > latest:
                raise StormError(f"no lane was at work for {IDLE_SECONDS:.0f} s; {self.log} has what the driver says")
            time.sleep(0.1)

    def _end(self) -> None:
        until = time.monotonic() + END_SECONDS
        while not self._ended():
            if time.monotonic() > until:
                raise StormError(f"the sweep did not end within {END_SECONDS:.0f} s; {self.log} has what it says")
            time.sleep(0.2)

    def _ended(self) -> bool:
        """Whether the sweep has; one that is to be gone on with is."""
        assert self._driver is not None
        code = self._driver.poll()
        if code is None or code == 0:
            return code == 0
        if code != UNFINISHED or self.num_restarts > self.kills:
            raise StormError(f"the command ended with exit code {code}:\n{self.log.read_text()[-3000:]}")
        self.num_restarts += 1
        print(f"  the driver ended with exit code {code}, and its command is given again", flush=True)
        self._start()
        return False

    def _kill(self, kind: str) -> str:
        """One kill; gives what it was."""
        assert self._driver is not None
        if kind == "driver":
            pid = self._driver.pid
            self._driver.kill()
            self._driver.wait()
            self._start()
            return f"driver {pid}"
        if kind == "worker":
            while not (lanes := self.nodes.lanes()):
                self._wait(0)
            pid = self._random.choice(lanes)
            os.kill(pid, signal.SIGKILL)
            return f"worker {pid}"
        name = self._random.choice(self.nodes.names[1:])
        if kind == "raylet":
            self.nodes.kill_raylet(name)
        else:
            self.nodes.end(name)
        self.nodes.add(f"{name.partition('.')[0]}.{time.monotonic_ns()}")
        return f"{kind} of {name.partition('.')[0]}"

    def _tell(self, number: int, words: str) -> None:
        elapsed = time.monotonic() - self._began
        left = duration(elapsed / number * (self.kills - number))
        print(f"  {duration(elapsed):>12}  kill {number}/{self.kills}: {words}; about {left} more of them", flush=True)


def start(command: list[str], folder: Path, home: Path, output: int, **more: str) -> subprocess.Popen[bytes]:
    """A command of ours in a folder, with what it prints."""
    environment = {**os.environ, "HOME": str(home), "COLUMNS": "120", **more}
    environment.pop("XDG_CACHE_HOME", None)
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
    )


def undisturbed(yaml: str, folder: Path, home: Path) -> Tables:
    """The tables of a run of the same sweep on this machine alone."""
    folder.mkdir()
    (folder / "storm.yaml").write_text(yaml)
    with (folder / "driver.log").open("ab") as log:
        command = [str(COMMAND), "run", "storm.yaml", "--no-report", "--tracking-uri", "none"]
        if start(command, folder, home, log.fileno()).wait():
            raise StormError((folder / "driver.log").read_text())
    return tables(folder / "results" / "storm")


def storm(nodes: RayNodes, yaml: str, scratch: Path, home: Path, calm: Tables, *, seed: int, kills: int) -> list[str]:
    """Run one sweep through random kills; gives all that is wrong with what came out."""
    folder = scratch / f"seed-{seed}"
    folder.mkdir()
    (folder / "storm.yaml").write_text(yaml)
    job = Storm(nodes, home, folder, seed, kills)
    try:
        job.run()
    except StormError as error:
        return [str(error)]
    return list(wrongs(folder / "results" / "storm", calm))


def repeat(scratch: Path, *, seed: int, kills: int, hours: float = 0.0, seeds_per_kill: int = SEEDS_PER_KILL) -> bool:
    """One sweep, or one after another for so many hours; whether all came out right."""
    home, began = scratch / "home", time.monotonic()
    home.mkdir()
    yaml = SWEEP.replace("SEEDS", str(seeds_per_kill * kills))
    calm = undisturbed(yaml, scratch / "calm", home)
    print(f"{len(calm['trials'])} trials undisturbed: {duration(time.monotonic() - began)}", flush=True)
    with RayNodes(home) as nodes:
        for number in range(NUM_NODES):
            nodes.add(f"node {number}")
        while True:
            print(f"seed {seed}: {kills} kills", flush=True)
            if found := storm(nodes, yaml, scratch, home, calm, seed=seed, kills=kills):
                print("\n".join(["  wrong:", *found]), flush=True)
                return False
            print(f"  nothing missing, doubled or changed: {duration(time.monotonic() - began)} in all", flush=True)
            seed += 1
            if time.monotonic() - began >= 3600 * hours:
                return True


def main() -> None:
    """As the command line says; exit code 1 if something was wrong, with the folder kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first sweep's kills")
    parser.add_argument("--kills", type=int, default=25, help="in each sweep")
    parser.add_argument("--hours", type=float, default=0.0, help="begin sweep after sweep for so long")
    given = parser.parse_args()
    if given.kills < 1:
        sys.exit(f"--kills {given.kills}: at least 1")
    scratch = Path(tempfile.mkdtemp(prefix="storm"))
    if not repeat(scratch, seed=given.seed, kills=given.kills, hours=given.hours):
        sys.exit(f"wrong; {scratch} has the results and what the drivers printed")


if __name__ == "__main__":
    main()
