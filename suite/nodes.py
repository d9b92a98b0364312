"""What a node must have in common with the driver, as the node itself finds it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from suite.failures import UnfitNodeError
from suite.orders import Order
from suite.storage import Storage, storage_at

DECISIVE = ("stillpoint", "torch", "numpy", "ray")
"""Packages of which numbers, or the way they travel, depend on the version."""
CLOCK_SECONDS = 5.0
"""Clocks that differ by more spoil the times of records, and then the sign of life by which a run keeps its folder."""


@dataclass(frozen=True)
class NodeReport:
    """One node, as it sees itself."""

    node: str
    host: str
    versions: dict[str, str]
    cpus: int
    free_memory: int
    total_memory: int
    """Bytes of main memory."""
    gpus: tuple[str, ...]
    """Name, free and whole memory of each."""
    has_cuda: bool
    """Whether its PyTorch is not one that was built for CPUs alone."""
    clock: float
    """Its seconds since the epoch, when it was asked."""
    storage: str | None
    """What keeps it from writing results; None if nothing does."""
    clock_ahead: float = 0.0
    """Seconds that its clock is at least ahead of the driver's, or behind if negative."""
    gpus_in_ray: float | None = None
    """What Ray has to give of them; None where Ray was not asked."""


@lru_cache
def versions() -> dict[str, str]:
    """Versions here of what has to be the same on all nodes, without the part that tells CPU from CUDA builds."""
    found = {"python": platform.python_version()}
    for name in DECISIVE:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "none"
    return found


def differences(here: dict[str, str], there: dict[str, str]) -> list[str]:
    """What a node has in another version than the driver, which is `here`, in words."""
    return [
        f"{name} {there.get(name)} where the driver has {mine}"
        for name, mine in here.items()
        if there.get(name) != mine
    ]


def check_fit(order: Order, node: str) -> None:
    """See that this node trains what the driver would, and writes where the driver looks.

    Raises:
        UnfitNodeError: it does not.
    """
    host = socket.gethostname()
    if found := differences(order.expected, versions()):
        raise UnfitNodeError(f"node {host} has {', '.join(found)}: install the same versions there", node)
    if not storage_at(order.root).exists(order.mark):
        raise UnfitNodeError(f"node {host} {not_shared(order.root)}", node)


def not_shared(root: Path | str) -> str:
    """What is wrong where the driver's objects are not seen."""
    return f"does not see the driver's files in {root}: put results into a folder that all nodes share"


def inspect(root: Path | str, mark: str, probes: str, node: str) -> NodeReport:
    """This node; `mark` is an object of the results folder that the driver wrote. Leaves `PROBES/NODE` there, for the
    driver to see."""
    free, total = _memory()
    return NodeReport(
        node=node,
        host=socket.gethostname(),
        versions=versions(),
        cpus=os.cpu_count() or 1,
        free_memory=free,
        total_memory=total,
        gpus=_gpus(),
        has_cuda=_has_cuda(),
        storage=_storage_problem(storage_at(root), mark, f"{probes}/{node}"),
        clock=time.time(),
    )


def _storage_problem(folder: Storage, mark: str, probe: str) -> str | None:
    try:
        if not folder.exists(mark):
            return not_shared(folder.root)
        folder.write(probe, probe.encode())
        return None if folder.read(probe) == probe.encode() else f"reads other than it wrote in {folder.root}"
    except Exception as error:
        return f"cannot write to {folder.root} ({type(error).__name__}: {error})"


def new_probes() -> str:
    """A folder for what nodes write to show that they can: each caller has its own, and others may ask meanwhile."""
    return f".probes-{uuid.uuid4().hex}"


def clock_ahead(clock: float, *, asked: float, answered: float) -> float:
    """Seconds that a node's clock is ahead of the driver's, or behind if negative, as far as that can be told.

    A node reads its clock at some time between the question and the answer: it may have had to start a process first.
    """
    return min(0.0, clock - asked) + max(0.0, clock - answered)


def clock_words(report: NodeReport) -> str | None:
    """What is wrong with a node's clock; None if nothing that can be told is."""
    if abs(report.clock_ahead) < CLOCK_SECONDS:
        return None
    which = "ahead of" if report.clock_ahead > 0 else "behind"
    return f"its clock is at least {abs(report.clock_ahead):.0f} s {which} the driver's"


def _has_cuda() -> bool:
    """Whether PyTorch is there, and no build for CPUs alone."""
    try:
        return not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _memory() -> tuple[int, int]:
    """Free and total bytes of main memory; 0 where the system does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    except OSError:
        return 0, 0
    return 1024 * kilobytes.get("MemAvailable", 0), 1024 * kilobytes.get("MemTotal", 0)


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return tuple(asked.stdout.strip().splitlines()) if asked.returncode == 0 else ()
