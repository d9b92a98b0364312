"""What keeps a machine or a cluster from training: every node, the results folder and the tracking store are asked."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from suite.delivery import NOWHERE, resolve_tracking_uri
from suite.nodes import CLOCK_SECONDS, NodeReport, clock_words, inspect, new_probes, versions
from suite.redaction import redacted
from suite.storage import Folder, Storage, storage_at
from suite.tracking_store import Store, examine_store

LEAST_MEMORY = 2**29
"""Bytes: about what a worker takes with its libraries."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Examination:
    """All that was found."""

    address: str | None
    nodes: list[NodeReport]
    silent: dict[str, str]
    """Addresses of nodes that did not report, and why."""
    results: Path | str
    tried: Path | str
    """The results folder, or the nearest folder above it that there is."""
    store: Store | None
    """None where MLflow is left out."""
    others: list[Problem]
    """Of the driver: what it cannot reach or write."""

    @property
    def problems(self) -> list[Problem]:
        """All of them, those of the driver first."""
        found = [*self.others, *(p for node in self.nodes for p in node_problems(node, versions(), self.tried))]
        restart = "see that Stillpoint is installed there as it is here, and start Ray there again"
        found += [Problem(f"node {address} {words}", restart) for address, words in self.silent.items()]
        if self.store is not None and self.store.problem:
            start = (
                "start it, or give its address with --tracking-uri; see that it has the version of MLflow that is here"
            )
            found.append(Problem(f"MLflow at {self.store.uri} {self.store.problem}", start))
        return found


def examine(*, address: str | None, results: Path | str, tracking_uri: str | None) -> Examination:
    """Ask this machine, or every node of the cluster at the address. Leaves nothing behind.

    Raises:
        ValueError: that is no address.
    """
    wanted, others = storage_at(results, "any"), list[Problem]()
    uri = resolve_tracking_uri(tracking_uri, wanted)
    folder = storage_at(results)
    if isinstance(folder, Folder):
        folder = Folder(next(path for path in (folder.root, *folder.root.parents) if path.exists()))
    with _marked(folder, others) as mark:
        nodes, silent = (
            _ask_cluster(folder, mark, address, others) if address else (_ask_here(folder, mark, others), {})
        )
    if others:
        nodes = [replace(node, storage=None) for node in nodes]  # the driver's own trouble says it
    store = None if uri == NOWHERE else examine_store(uri)
    return Examination(address, nodes, silent, storage_at(results).root, folder.root, store, others)


@contextmanager
def _marked(folder: Storage, problems: list[Problem]) -> Iterator[str]:
    """An object that the driver wrote, as long as the block lasts; its absence is a problem of its own."""
    mark = f".doctor-{uuid.uuid4().hex}"
    try:
        folder.write(mark, b"")
    except OSError as error:
        remedy = "give a folder with --results that this user may write to"
        problems.append(
            Problem(f"nothing can be written to {folder.root} from here ({error.strerror or error})", remedy)
        )
    try:
        yield mark
    finally:
        with suppress(OSError):  # where it could not be written
            folder.delete([mark])


def _ask_here(folder: Storage, mark: str, problems: list[Problem]) -> list[NodeReport]:
    from suite.scheduling import ClusterError, check_home

    try:
        check_home()
    except ClusterError as error:
        problems.append(Problem(f"Ray cannot start: {error}", "set HOME to a folder of this user's"))
    probes = new_probes()
    report = inspect(folder.root, mark, probes, "here")
    folder.delete(folder.names(probes))
    return [report]


def _ask_cluster(
    folder: Storage, mark: str, address: str, problems: list[Problem]
) -> tuple[list[NodeReport], dict[str, str]]:
    """All nodes; this machine alone where there is no cluster that lets it in."""
    from suite.scheduling import DOCTOR_ADVICE, ClusterError, check_address, connected, inspect_nodes

    try:
        check_address(address)
        with connected(address):
            return inspect_nodes(folder, mark)
    except ClusterError as error:
        remedy = "start Ray there, with the versions of Python and Ray that are here"
        problems.append(Problem(str(error).removesuffix(DOCTOR_ADVICE), remedy))
        return _ask_here(folder, mark, problems), {}


def node_problems(node: NodeReport, driver: dict[str, str], tried: Path | str) -> Iterator[Problem]:
    """What is wrong with a node."""
    where = f"node {node.host}"
    for name, mine in driver.items():
        if (theirs := node.versions.get(name)) != mine:
            install = f"start it with Python {mine}" if name == "python" else f"install {name} {mine} there"
            yield Problem(f"{where} has {name} {theirs}, and the driver {mine}", install)
    if node.storage:
        shared = "mount the same folder there"
        can_write = "see that the user of Ray there may write to it, and that it has room"
        yield Problem(f"{where} {node.storage}", shared if "does not see" in node.storage else can_write)
    if late := clock_words(node):
        yield Problem(f"{where}: {late}", "let chrony or another client of NTP set it: records have its times")
    if node.total_memory > 0 and node.free_memory < LEAST_MEMORY:
        words = f"{where} has {_gib(node.free_memory)} GiB of memory free, less than one worker takes"
        yield Problem(words, "end what else runs there")
    if node.gpus and not node.has_cuda:
        words = f"{where} has GPUs, and PyTorch there is a build for CPUs"
        yield Problem(words, f"install torch {driver['torch']} for CUDA there")
    if node.gpus and node.gpus_in_ray == 0:
        words = f"{where} has {len(node.gpus)} GPUs, and Ray has none of them to give"
        yield Problem(words, f"start Ray there with --num-gpus {len(node.gpus)}")


def show(found: Examination, console: Console) -> None:
    """A line for each node, red where it differs, then the folder and the store; then every problem with its remedy."""
    console.print(_nodes_table(found))
    tried = "" if found.tried == found.results else f", which is not there yet; {found.tried} was tried"
    console.print(f"results   {found.results}{tried}", highlight=False, markup=False)
    if found.store is None:
        console.print("tracking  left out")
    else:
        state = found.store.problem or found.store.is_there
        console.print(f"tracking  {found.store.uri}: {state}", highlight=False, markup=False)
    for problem in found.problems:
        console.print(Text(redacted(problem.what), "red"), Text(f"\n  -> {problem.remedy}", "default"), sep="")
    if not found.problems:
        console.print("All is well.")


def _nodes_table(found: Examination) -> Table:
    table = Table(title=_driver_words(), title_justify="left")
    for name in ("node", "versions", "CPUs", "GiB free", "GPUs", "clock", "storage"):
        table.add_column(name, overflow="fold")
    for node in found.nodes:
        other = [f"{name} {node.versions.get(name)}" for name, v in versions().items() if node.versions.get(name) != v]
        gpus_bad = bool(node.gpus) and (not node.has_cuda or node.gpus_in_ray == 0)
        table.add_row(
            node.host,
            _cell("\n".join(other) or "the driver's", bool(other)),
            str(node.cpus),
            _cell(f"{_gib(node.free_memory)} of {_gib(node.total_memory)}", node.free_memory < LEAST_MEMORY),
            _cell(_gpu_words(node), gpus_bad),
            _cell(f"{node.clock_ahead:+.0f} s", abs(node.clock_ahead) >= CLOCK_SECONDS),
            _cell("no" if node.storage else "yes", bool(node.storage)),
        )
    for address in found.silent:
        table.add_row(Text(f"{address}: no report", "red"))
    return table


def _driver_words() -> str:
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"driver on {socket.gethostname()}: {known}"


def _cell(words: str, is_wrong: bool) -> Text:
    return Text(words, "red" if is_wrong else "default")


def _gpu_words(node: NodeReport) -> str:
    """Each GPU in a line: its name, and GiB free."""
    lines = []
    for gpu in node.gpus:
        name, free, total = (part.strip() for part in gpu.split(","))
        lines.append(f"{name}, {_of_mib(free)} of {_of_mib(total)} GiB free")
    return "\n".join(lines) or "none"


def _of_mib(words: str) -> str:
    number = words.split()[0]
    return f"{int(number) / 1024:.0f}" if number.isdigit() else "?"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
