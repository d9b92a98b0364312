"""A real Ray cluster on this machine: one head and further nodes, each started by `ray start` and ended by a kill."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from suite.reference import ROOT

BIN = Path(sys.executable).parent
NODES = """
import sys
from suite.head import Head
head = Head(sys.argv[1])
for _ in sys.stdin:
    nodes = head.look()
    print(*(nodes.alive if nodes else ()), flush=True)
"""
"""Asked again and again in one process: a new one takes longer to import Ray than a node to start."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RayNodes:
    """Use as a context manager; the head is there, without cores, once it is entered."""

    def __init__(self, home: Path, environment: dict[str, str] | None = None) -> None:
        self._environment = {**os.environ, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
        self._environment |= environment or {}
        self._processes: dict[str, subprocess.Popen] = {}
        self._asked: subprocess.Popen | None = None
        self.address = f"127.0.0.1:{free_port()}"
        self._temporary = Path(tempfile.mkdtemp(prefix="ray"))  # a short path, and none that other clusters look into

    def __enter__(self) -> "RayNodes":
        token = Path(self._environment["HOME"]) / ".ray" / "auth_token"
        token.parent.mkdir(exist_ok=True)
        if not token.exists():
            token.write_text("a-token-of-these-tests-alone-0123456789")
        try:
            self.add("head", num_cpus=0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        if self._asked is not None:
            self._asked.kill()
            self._asked.communicate()
        for name in reversed(list(self._processes)):
            self.end(name)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(
        self,
        name: str,
        *,
        num_cpus: int = 1,
        environment: dict[str, str] | None = None,
        within: tuple[str, ...] = (),
        address: str | None = None,
    ) -> str:
        """Start a node, by a command that runs the rest of its line if need be, and at an address of its own if told;
        gives its id once it is alive."""
        before = self.alive() if self._processes else set()
        where = ["--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false"]
        where.append(f"--temp-dir={self._temporary}")
        options = where if not self._processes else [f"--address={self.address}"]
        ports = [f"--{which}={free_port()}" for which in ("dashboard-agent-listen-port", "metrics-export-port")]
        command = [*within, str(BIN / "ray"), "start", *options, *ports, f"--num-cpus={num_cpus}", "--block"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        command += [] if address is None else [f"--node-ip-address={address}"]
        self._processes[name] = subprocess.Popen(
            command,
            env={**self._environment, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert self._processes[name].poll() is None, f"{name} did not start"
            if new := self.alive() - before:
                return new.pop()
            time.sleep(0.5)
        raise AssertionError(f"{name} did not join")

    def alive(self) -> set[str]:
        """Ids of its living nodes, as Ray has them; none while the head does not answer."""
        if self._asked is None or self._asked.poll() is not None:
            self._asked = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", NODES, self.address],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._asked.stdin is not None
        assert self._asked.stdout is not None
        try:
            self._asked.stdin.write("\n")
            self._asked.stdin.flush()
        except BrokenPipeError:  # there was no head yet
            return set()
        return set(self._asked.stdout.readline().split())

    def drain(self, node: str, *, seconds: int) -> None:
        """As a spot notice does."""
        command = [str(BIN / "ray"), "drain-node", f"--address={self.address}", f"--node-id={node}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot notice"]
        command += [f"--deadline-remaining-seconds={seconds}"]
        subprocess.run(command, env=self._environment, capture_output=True, check=True, timeout=60)

    @property
    def names(self) -> list[str]:
        """Of its nodes, the head first."""
        return list(self._processes)

    def lanes(self, task: bytes = b"_train") -> list[int]:
        """Process ids of the workers that train, or are at another task, in the order of their nodes."""
        below = [pid for process in self._processes.values() for pid in descendants(process.pid)]
        return [pid for pid in below if command_line(pid).startswith(b"ray::" + task)]

    def raylet(self, name: str) -> int:
        """Process id of what manages a node."""
        below = descendants(self._processes[name].pid)
        (found,) = (pid for pid in below if command_line(pid).partition(b"\0")[0].endswith(b"/raylet"))
        return found

    def kill_raylet(self, name: str) -> None:
        """Kill what manages a node, and see that the rest of the node ends by that."""
        raylet = self.raylet(name)
        process = self._processes.pop(name)
        below = descendants(process.pid)
        os.kill(raylet, signal.SIGKILL)
        try:
            process.wait(timeout=30)
        finally:
            _kill([process.pid, *below])
            process.wait()

    def stop(self, name: str) -> None:
        """Let none of its processes do anything any more: to others it is cut off, and its connections stay."""
        process = self._processes[name]
        _signal([process.pid, *descendants(process.pid)], signal.SIGSTOP)

    def end(self, name: str) -> None:
        """Kill a node with all its processes, without a notice."""
        process = self._processes.pop(name)
        _kill([process.pid, *descendants(process.pid)])
        process.wait()


def _kill(pids: list[int]) -> None:
    _signal(pids, signal.SIGKILL)


def _signal(pids: list[int], which: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, which)
        except ProcessLookupError:
            continue


def command_line(pid: int) -> bytes:
    """Of a process, as it calls itself; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def worked(pid: int) -> float:
    """Processor seconds of a process so far, of which a worker needs two or three to load what it trains with."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found
