"""Ray: a task per lane. The driver alone retries, so that it knows every attempt; committed objects are the truth."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from suite.experiment import Resources
from suite.failures import Failure, LostClusterError, StorageError, UnfitNodeError, failure_of, is_out_of_memory
from suite.head import Head, Nodes
from suite.lanes import Timings
from suite.nodes import NodeReport, check_fit, clock_ahead, inspect, new_probes, not_shared
from suite.orders import Begun, Order, Progress
from suite.redaction import redacted
from suite.storage import Storage, storage_at
from suite.trials import Task

POLL_SECONDS, HEAR_SECONDS = 0.5, 0.1
"""Between two looks at the cluster, and between two at lanes: each look costs as much as a short lane."""
FURTHER_LANES = 64
"""Lanes handed to Ray beyond two for each that can run: what an autoscaler sees as demand."""
SHORT_SECONDS, MOST_IN_TURN = 0.1, 16
"""Shorter lanes are handed over several in one task, as many as take about so long of a core: a task costs
milliseconds. Core time, because a machine that is busy with other things would seem to have long lanes."""
MOST_FRUITLESS = 3
"""A trial alone in its lane fails after so many attempts without a step of progress; fewer could be another's fault,
such as memory that a neighbour took."""
CONNECT_SECONDS = 10.0
TOKEN_ADVICE = (
    "A cluster with a token wants RAY_AUTH_MODE=token here, and its token in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
)
DOCTOR_ADVICE = "; `stillpoint doctor --address` says what else differs."
INSPECT_SECONDS = 60.0
"""How long a node may take to describe itself: it has to start a process for that."""
OUT_OF_MEMORY = "out-of-memory.txt"
"""What an attempt leaves beside its commits if it ended for want of memory."""
NODES_SECONDS = 5.0
"""Between two looks at which nodes are dead."""
LOST_SECONDS = 10.0
"""A lane whose node is dead goes on elsewhere after this: Ray never ends a task whose node was cut off from the network
while the task was being handed over (ray#44692)."""
IDLE_SECONDS = 60.0
"""A lane that did not begin for so long, though there is room for it, is handed to Ray anew: Ray can wait for ever for
the answer of a node that was cut off (ray#63405)."""
LEAVE_SECONDS = 5.0
"""How long Ray has to end here once the cluster was lost."""
STOP_SECONDS = 15.0
"""How long lanes are waited for after they were told to stop."""


class StoppedError(Exception):
    """Told to stop before training began."""


class ClusterError(RuntimeError):
    """Ray cannot be reached or cannot give what is asked for."""


class Sink(Protocol):
    """What the driver does with news from lanes."""

    def committed(self, name: str) -> None:
        """An object is there, in the order in which its lane wrote it."""

    def progressed(self, progress: Progress) -> None:
        """A lane is at work; a hint."""

    def remaining(self, task: Task) -> Task | None:
        """The task as it has to go on, from its newest checkpoint; None if the trial has ended."""

    def failed(self, trial_id: str, error: str, log_path: str | None) -> None:
        """A trial that cannot be trained."""

    def given_up(self, attempt_folder: str) -> None:
        """Nothing that this attempt still writes counts."""

    def retried(self, words: str) -> None:
        """Something went wrong that the user may want to know, and the lane goes on in another way."""


def check_address(address: str) -> None:
    """See that a cluster answers: Ray itself tries for minutes.

    Raises:
        ValueError: that is no address, or one that needs a client that streams.
        ClusterError: no cluster answers there.
    """
    if address.startswith("ray://"):
        raise ValueError(f"{address}: ray:// loses results when the client goes; use `ray job submit` on the cluster")
    if address == "auto":
        with connected(address):
            return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        raise ValueError(f"--address {address}: write auto, or HOST:PORT such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray at {address}: {error}; `ray status` on the head node shows its address") from None


def check_home() -> None:
    """See that Ray on this machine can keep its token, which it does in the home folder.

    Raises:
        ClusterError: the folder cannot be written.
    """
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    token = Path.home() / ".ray" / "auth_token"
    try:
        if given or token.exists():
            return
        token.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=token.parent).close()
    except OSError as error:
        raise ClusterError(
            f"Ray keeps a token in {token.parent}, which cannot be written ({error.strerror}); "
            "set HOME to a folder that can"
        ) from None


@contextmanager
def connected(address: str | None, *, dashboard: bool = False) -> Iterator[str]:
    """Ray, local or at an address, as long as the block lasts; gives the address of its dashboard, empty without one.

    A cluster has the dashboard that its head was started with; `dashboard` starts one on this machine.

    Raises:
        ClusterError: no cluster at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    _retitle()
    local: dict[str, Any] = {"include_dashboard": dashboard, "object_store_memory": 200 * 2**20}
    try:
        with _own_sigterm():
            context = ray.init(
                address or "local",
                configure_logging=False,
                log_to_driver=False,
                logging_level="ERROR",
                **(local if address is None else {}),
            )
            ray.cluster_resources()
    except Exception as error:  # which is what Ray itself raises where a machine is too busy to start it
        if address is None:
            raise ClusterError(f"Ray cannot be started on this machine: {error}") from None
        raise ClusterError(
            f"no Ray at {address} that lets this process in: {error}. {TOKEN_ADVICE}{DOCTOR_ADVICE}"
        ) from None
    leave: Callable[[], None] = ray.shutdown
    try:
        yield str(context.dashboard_url or "")
    except LostClusterError:
        leave = _leave_silent_head
        raise
    finally:
        leave()


def _leave_silent_head() -> None:
    """Ray waits for ever for the farewell of a head that is silent, not closed."""
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)


def _retitle() -> None:
    """Hide secrets in this process's title: Ray shows it on its dashboard and writes it into its logs."""
    with suppress(OSError):
        words = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        if (title := " ".join(map(redacted, words))) != " ".join(words):
            ray._raylet.setproctitle(title)


def num_lanes_at_once(resources: Resources) -> int:
    """How many lanes the nodes that are there have room for, side by side; 0 if none has room for one."""
    return sum(_room(node["Resources"], resources) for node in ray.nodes() if node["Alive"])


def _room(node: dict[str, float], resources: Resources) -> int:
    """Lanes that fit on one node."""
    cpus = int(node.get("CPU", 0) // resources.cpus)
    gpus = int(node.get("GPU", 0) / resources.gpus + 1e-9) if resources.gpus else cpus
    memory = int(node.get("memory", 0) // (resources.memory * 2**30)) if resources.memory else cpus
    return min(cpus, gpus, memory)


def asked(resources: Resources) -> dict[str, float]:
    """What is set aside for a lane, as the experiment names it."""
    named = {"cpus": resources.cpus, "gpus": resources.gpus, "memory": resources.memory}
    return {name: value for name, value in named.items() if value}


def _request(resources: Resources) -> dict[str, Any]:
    """What Ray is to set aside for a lane."""
    memory = {} if resources.memory is None else {"memory": resources.memory * 2**30}
    return {"num_cpus": resources.cpus, "num_gpus": resources.gpus, **memory}


def _avoiding(nodes: Iterable[str]) -> dict[str, Any]:
    """So that Ray does not use these nodes, nor waits for an answer of theirs with tasks that ask for the same."""
    unfit = ",".join(sorted(nodes))
    return {"label_selector": {"ray.io/node-id": f"!in({unfit})"}} if unfit else {}


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: `ray.init` replaces it, and so does the first look at the cluster's state.

    SIGTERM meanwhile acts like Ctrl-C.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@ray.remote(num_cpus=0, max_restarts=-1)
class News:
    """The process of a board."""

    def __init__(self) -> None:
        self._news: list[Begun | Progress] = []

    def post(self, news: Begun | Progress) -> None:
        """Add to the news."""
        self._news.append(news)

    def take(self) -> list[Begun | Progress]:
        """All news since the last call."""
        news, self._news = self._news, []
        return news


@dataclass(frozen=True)
class Board:
    """Where lanes leave what is new; the driver takes it. Lanes know it by name: a handle that comes and goes with each
    lane makes the worker connect anew each time, which costs more than all else that a short lane does."""

    name: str
    actor: Any

    def take(self) -> Any:
        """A reference to all news since the last call."""
        return self.actor.take.remote()


def new_board() -> Board:
    """A board in a process of its own on the driver's node, which takes half a second to start."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    name = f"board-{uuid.uuid4().hex}"
    return Board(name, News.options(scheduling_strategy=here, name=name).remote())  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def _actor(name: str) -> Any:
    """The board of this name, for lanes; kept by this process for the next ones."""
    return ray.get_actor(name)


def _post(board: str, news: Begun | Progress) -> None:
    """Leave a hint; one that cannot be left is lost."""
    with suppress(ValueError):
        _actor(board).post.remote(news)


Work = Callable[[Order, Callable[[Progress], None], Callable[[], bool]], Progress]
"""What a worker does for an order: it reports, asks whether to stop, and says how far it came in the end."""


@ray.remote(max_calls=0, max_retries=0)
def _train(orders: list[Order], board: str) -> list[Progress]:
    return in_turn(orders, board, _training)


def _training(order: Order, report: Callable[[Progress], None], stopping: Callable[[], bool]) -> Progress:
    from suite.worker import Attempt

    return Attempt(order, report=report, stopping=stopping).run()


def in_turn(orders: list[Order], board: str, work: Work) -> list[Progress]:
    """One attempt at each lane, one after another. Cancelling them, or SIGINT, makes the one at work commit and return
    at its next chunk, and no other begin."""
    told, done = list[int](), list[Progress]()
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        node = ray.get_runtime_context().get_node_id()
        _post(board, Begun(orders[0].lane, orders[0].attempt, node, _log_path()))
        for order in orders:
            if not told:
                done.append(_attempted(order, node, partial(work, order, partial(_post, board), lambda: bool(told))))
        return done
    finally:
        signal.signal(signal.SIGINT, before)


def _attempted(order: Order, node: str, work: Callable[[], Progress]) -> Progress:
    began = time.process_time()
    try:
        check_fit(order, node)
        return replace(work(), core_seconds=time.process_time() - began)
    except Exception as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            _leave_process(order, error)
        raise


def _leave_process(order: Order, error: Exception) -> None:
    """End this worker, since PyTorch keeps what a gradient held when memory ran out, and the next attempt needs room.
    The reason is left where the driver looks for commits."""
    words = next(iter(f"{type(error).__name__}: {error}".splitlines()))
    try:
        storage_at(order.root).write(f"{order.folder}/{OUT_OF_MEMORY}", words.encode())
    except (OSError, MemoryError):
        return
    sys.exit(0)


def _log_path() -> str | None:
    """HOST:FILE into which this process prints; None where the system does not tell."""
    with suppress(OSError):
        return f"{socket.gethostname()}:{os.readlink('/proc/self/fd/2')}"
    return None


@ray.remote(max_calls=0, max_retries=3)
def _measure(arguments: dict[str, Any]) -> Timings:
    from suite.calibration import measure

    settings = arguments.pop("settings")
    return measure(settings, **arguments)


def calibrate(
    requests: dict[str, dict[str, Any]],
    *,
    resources: Resources,
    notice: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Timings]:
    """Timings by shape key, each measured in a task with the resources that its lanes will have.

    A shape whose measuring fails is left out, with a notice: training it will show which of its trials is to blame.

    Raises:
        ValueError: a trial cannot be made from its settings.
        StoppedError: `stopped` said so.
        LostClusterError: Ray went away.
    """

    def handed_over(keys: Iterable[str]) -> dict[Any, str]:
        task = _measure.options(**_request(resources), **_avoiding(dead - dead_before))
        return {task.remote(requests[key]): key for key in keys}

    head = Head(ray.get_runtime_context().gcs_address)
    dead = dead_before = nodes.dead if (nodes := head.look()) else frozenset[str]()
    timings, waiting, next_look = dict[str, Timings](), handed_over(requests), time.monotonic() + NODES_SECONDS
    while waiting:
        if stopped():
            _cancel(waiting)
            raise StoppedError
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=HEAR_SECONDS)
        for reference in ready:
            key = waiting.pop(reference)
            try:
                timings[key] = ray.get(reference)
            except RayError as error:
                if isinstance(error, RayTaskError) and isinstance(error.cause, ValueError):
                    raise ValueError(str(error.cause)) from None
                notice(f"A shape of trial could not be timed, and trains with few slots: {failure_of(error).words}")
        if time.monotonic() >= next_look and (nodes := head.look()) is not None:
            next_look = time.monotonic() + NODES_SECONDS
            if nodes.dead - dead:  # Ray may say nothing any more of what ran there
                dead = nodes.dead
                _cancel(waiting)
                waiting = handed_over(waiting.values())
    return timings


def _cancel(references: Iterable[Any]) -> None:
    for reference in references:
        ray.cancel(reference, force=True)


@ray.remote(max_retries=0, num_cpus=0)
def _inspect(root: Any, mark: str, probes: str) -> NodeReport:
    return inspect(root, mark, probes, ray.get_runtime_context().get_node_id())


def inspect_nodes(folder: Storage, mark: str) -> tuple[list[NodeReport], dict[str, str]]:
    """Every node's report, and why others gave none, by their addresses; `mark` is an object of the folder that the
    driver wrote."""
    probes, asked = new_probes(), {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            reference = _inspect.options(scheduling_strategy=there).remote(folder.root, mark, probes)
            asked[reference] = (node, time.time())
    reports, silent, waiting = [], {}, list(asked)
    until = time.monotonic() + INSPECT_SECONDS
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=max(0.0, until - time.monotonic()))
        if not ready:
            break
        node, then = asked[ready[0]]
        try:
            reports.append(_seen(ray.get(ready[0]), node, then, folder, probes))
        except RayError as error:
            silent[node["NodeManagerAddress"]] = _cannot_report(error)
    for reference in waiting:
        silent[asked[reference][0]["NodeManagerAddress"]] = f"gave no answer in {INSPECT_SECONDS:.0f} s"
        ray.cancel(reference, force=True)
    folder.delete(folder.names(probes))
    return sorted(reports, key=lambda report: (report.host, report.node)), silent


def _seen(report: NodeReport, node: dict[str, Any], asked: float, folder: Storage, probes: str) -> NodeReport:
    """A node's report with what the driver alone can see of it."""
    ahead = clock_ahead(report.clock, asked=asked, answered=time.time())
    report = replace(report, clock_ahead=ahead, gpus_in_ray=node["Resources"].get("GPU", 0.0))
    if report.storage is None and not folder.exists(f"{probes}/{report.node}"):
        return replace(report, storage=not_shared(folder.root))
    return report


def _cannot_report(error: RayError) -> str:
    """Why a node cannot, in a line: most likely it lacks this package."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "ModuleNotFoundError" in line or "ImportError" in line]
    return f"cannot say how it is ({(telling or lines or [type(error).__name__])[-1]})"


@dataclass(frozen=True)
class _Waiting:
    """An order that is to be handed over."""

    order: Order
    fruitless: tuple[str | None, ...] = ()
    """Nodes of the attempts before this one, in a row, that brought the same trials no further."""


@dataclass
class _Running:
    """A task of Ray's: one order, or several that it takes one after another."""

    orders: list[_Waiting]
    node: str | None = None
    log_path: str | None = None
    told_to_stop: bool = False
    since: float = field(default_factory=time.monotonic)
    dead_since: float | None = None
    """When its node was seen to be dead."""


class Scheduler:
    """Runs orders to their end, retrying what dies and splitting what does not get on."""

    def __init__(
        self,
        folder: Storage,
        sink: Sink,
        board: Board,
        *,
        resources: Resources,
        num_workers: int,
        tick: Callable[[], bool],
        task: Any = _train,
    ) -> None:
        self._folder, self._sink, self._tick, self._board = folder, sink, tick, board
        self._task, self._resources = task, resources
        self._idle_since: float | None = None
        self._num_workers, self._most_at_once = num_workers, 2 * num_workers + FURTHER_LANES
        self._core_seconds: deque[float] = deque(maxlen=32)
        self._waiting: deque[_Waiting] = deque()
        self._running: dict[Any, _Running] = {}
        self._taken: set[str] = set()
        self._unfit: set[str] = set()
        self._left: set[str] = set()
        self._head = Head(ray.get_runtime_context().gcs_address)

    def run(self, orders: list[Order]) -> bool:
        """Train all; False if told to stop before the end. `tick` is called twice a second, and False stops.

        Raises:
            LostClusterError: Ray went away.
            StorageError: results cannot be written any more.
            UnfitNodeError: no node is left that could train.
        """
        try:
            return self._run(orders)
        except RayError as error:
            first = next(iter(str(error).splitlines()), "")
            raise LostClusterError(
                f"the Ray cluster does not answer any more ({type(error).__name__}: {first})"
            ) from None

    def _run(self, orders: list[Order]) -> bool:
        self._waiting.extend(map(_Waiting, orders))
        news, next_look, next_look_at_nodes = self._board.take(), 0.0, time.monotonic() + NODES_SECONDS
        while self._running or self._waiting:
            self._start_waiting()
            references = list(self._running)
            enough = -(-len(references) // 4)
            ready, _ = ray.wait(references, num_returns=enough, timeout=HEAR_SECONDS, fetch_local=False)
            for reference in ready:
                self._end(reference)
            if ray.wait([news], timeout=0)[0]:
                self._hear(news)
                news = self._board.take()
            if (now := time.monotonic()) >= next_look:
                next_look = now + POLL_SECONDS
                if (nodes := self._head.look()) is not None:
                    self._leave_draining_nodes(nodes)
                    if now >= next_look_at_nodes:
                        next_look_at_nodes = now + NODES_SECONDS
                        self._leave_dead_nodes(nodes, now)
                        self._hand_over_anew(nodes, now)
                if not self._tick():
                    self._stop()
                    return False
        return True

    def _start_waiting(self) -> None:
        """Hand orders to Ray: enough that no worker waits and a cluster can see that it should grow, and no more,
        because each costs every look at Ray."""
        task = self._task.options(**_request(self._resources), **_avoiding(self._unfit))
        while self._waiting and len(self._running) < self._most_at_once:
            together = self._next_orders()
            reference = task.remote([waiting.order for waiting in together], self._board.name)
            self._running[reference] = _Running(together)

    def _next_orders(self) -> list[_Waiting]:
        """The next one; several where lanes have been short of late and enough are left for all workers. One that got
        nowhere goes alone."""
        together, short = [self._waiting.popleft()], SHORT_SECONDS / max(self._core_seconds, default=SHORT_SECONDS)
        most = min(MOST_IN_TURN, int(short), len(self._waiting) // max(1, self._num_workers))
        while len(together) < most and not (together[0].fruitless or self._waiting[0].fruitless):
            together.append(self._waiting.popleft())
        return together

    def _hear(self, news: Any) -> None:
        try:
            heard = ray.get(news)
        except RayError:
            return  # the board died and comes back empty: what it held were hints
        current = {(w.order.lane, w.order.attempt): r for r in self._running.values() for w in r.orders}
        for message in heard:
            running = current.get((message.lane, message.attempt))
            if running is None:
                continue
            if isinstance(message, Begun):
                running.node, running.log_path = message.node, message.log_path
            else:
                self._take(message.commits)
                self._sink.progressed(message)

    def _take(self, names: list[str]) -> None:
        for name in names:
            if name not in self._taken:
                self._taken.add(name)
                self._sink.committed(name)

    def _leave_draining_nodes(self, nodes: Nodes) -> None:
        """Lanes on a node that is about to go commit, and go on elsewhere."""
        for reference, running in self._running.items():
            if running.node in nodes.draining and not running.told_to_stop:
                running.told_to_stop = True
                ray.cancel(reference, force=False)
        for node in nodes.draining & {running.node for running in self._running.values()} - self._left:
            self._left.add(node)
            self._sink.retried(f"node {node[:12]} is about to go: its lanes commit, and go on elsewhere")

    def _leave_dead_nodes(self, nodes: Nodes, now: float) -> None:
        """Lanes of which Ray says nothing any more go on elsewhere; what they still write does not count."""
        for reference, running in list(self._running.items()):
            if running.node in nodes.dead:
                running.dead_since = running.dead_since or now
                if now - running.dead_since > LOST_SECONDS:
                    self._conclude(self._running.pop(reference), [], Failure("node", "its node went away"))

    def _hand_over_anew(self, nodes: Nodes, now: float) -> None:
        """Lanes that wait, for no reason that can be seen."""
        if not any(_room(free, self._resources) for free in nodes.free):
            self._idle_since = None
            return
        self._idle_since = self._idle_since or now
        if now - self._idle_since < IDLE_SECONDS:
            return
        for reference, running in list(self._running.items()):
            if running.node is None and now - running.since > IDLE_SECONDS:
                ray.cancel(reference, force=False)
                self._conclude(self._running.pop(reference), [], Failure("stopped", "it did not begin"))

    def _end(self, reference: Any) -> None:
        progresses, failure = _ended(reference)
        self._conclude(self._running.pop(reference), progresses, failure)

    def _conclude(self, running: _Running, progresses: list[Progress], failure: Failure | None) -> None:
        """A task returned or died. What its orders did not do is tried again; a failure is that of the first of them:
        those before it are done, and those after it have not begun."""
        for waiting, progress in zip_longest(running.orders, progresses):
            if progress is not None:
                self._take(progress.commits)
                self._sink.progressed(progress)
                self._core_seconds.append(progress.core_seconds)
            if (progress is None or running.told_to_stop) and self._go_on(waiting, failure, running):
                failure = None

    def _go_on(self, waiting: _Waiting, failure: Failure | None, running: _Running) -> bool:
        """Whether anything is left of an order, as its folder says; it is tried again."""
        order = waiting.order
        before = {task.trial_id: task.step for task in order.tasks}
        accepted = self._folder.names(order.folder)
        self._take([name for name in accepted if name.endswith(".zip")])
        if f"{order.folder}/{OUT_OF_MEMORY}" in accepted:
            failure = Failure("memory", self._folder.read(f"{order.folder}/{OUT_OF_MEMORY}").decode())
        left = [task for task in map(self._sink.remaining, order.tasks) if task is not None]
        self._sink.given_up(order.folder)
        if not left:
            return False
        advanced = len(left) < len(order.tasks) or any(task.step > before[task.trial_id] for task in left)
        follower = replace(order, attempt=order.attempt + 1, tasks=left)
        follower = replace(follower, accepted=accepted, predecessor=order.folder)
        if failure is None or failure.kind in ("stopped", "node"):
            self._waiting.appendleft(_Waiting(follower, waiting.fruitless))
        elif failure.kind == "storage":
            self._stop()
            raise StorageError(failure.words)
        elif failure.kind == "unfit":
            self._avoid(failure)
            self._waiting.appendleft(_Waiting(follower, waiting.fruitless))
        elif failure.kind == "memory" and order.slots > 1:
            fewer = order.slots // 2
            self._sink.retried(f"lane {order.lane}: {failure.words}; it goes on with {fewer} slots")
            self._waiting.appendleft(_Waiting(replace(follower, slots=fewer), waiting.fruitless))
        else:
            fruitless = () if advanced else (*waiting.fruitless, running.node)
            self._try_again(follower, failure, self._on_living_nodes(fruitless), running.log_path)
        return True

    def _on_living_nodes(self, attempts: tuple[str | None, ...]) -> tuple[str | None, ...]:
        """Without those whose node has died since: Ray may tell of a node some time after it told of its workers."""
        if not attempts or (nodes := self._head.look()) is None:
            return attempts
        return tuple(node for node in attempts if node not in nodes.dead)

    def _try_again(
        self, follower: Order, failure: Failure, fruitless: tuple[str | None, ...], log_path: str | None
    ) -> None:
        """After an attempt that one of its trials may have ended: in two halves, if it brought none of them further."""
        tasks = follower.tasks
        if len(tasks) == 1 and len(fruitless) >= MOST_FRUITLESS:
            self._sink.failed(tasks[0].trial_id, failure.words, log_path)
            return
        if not fruitless or len(tasks) == 1:
            self._waiting.appendleft(_Waiting(follower, fruitless))
            return
        half = len(tasks) // 2
        for index, part in enumerate((tasks[:half], tasks[half:])):
            lane = f"{follower.lane}.{index}"
            blamed = fruitless if len(part) == 1 else ()
            self._waiting.appendleft(_Waiting(replace(follower, lane=lane, tasks=part), blamed))

    def _avoid(self, failure: Failure) -> None:
        """Place nothing more on an unfit node."""
        if failure.node not in self._unfit:
            self._unfit.add(failure.node)
            self._sink.retried(failure.words)
        if (nodes := self._head.look()) is not None and nodes.alive <= self._unfit:
            self._stop()
            raise UnfitNodeError(failure.words)

    def _stop(self) -> None:
        """Tell every lane to commit and return, wait for those that do, and list what they wrote."""
        for reference in self._running:
            ray.cancel(reference, force=False)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_SECONDS, fetch_local=False)
        for waiting in (each for running in self._running.values() for each in running.orders):
            self._take([n for n in self._folder.names(waiting.order.folder) if n.endswith(".zip")])


def drain_host(address: str, host: str | None, *, words: str, seconds: int) -> list[str]:
    """Say that a machine is about to go, in so many seconds; gives the ids of its nodes. `host` is the address under
    which the cluster knows it, this machine's if None."""
    from ray.core.generated import autoscaler_pb2, gcs_pb2

    host = host or ray.util.get_node_ip_address()
    gcs = ray._raylet.GcsClient(address=address)  # as `ray drain-node` does, which knows no node by its host
    alive = gcs_pb2.GcsNodeInfo.GcsNodeState.Value("ALIVE")
    nodes = [
        node_id.hex()
        for node_id, node in gcs.get_all_node_info().items()
        if node.state == alive and node.node_manager_address == host
    ]
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    until = (time.time_ns() // 10**6) + 1000 * seconds
    for node in nodes:
        accepted, refusal = gcs.drain_node(node, reason, words, until)
        if not accepted:
            raise ClusterError(f"node {node[:12]} cannot be drained: {refusal}")
    return nodes


def _ended(reference: Any) -> tuple[list[Progress], Failure | None]:
    """What a task returned, or why it did not."""
    try:
        return ray.get(reference), None
    except RayError as error:
        return [], failure_of(error)


def ray_version() -> str:
    """For the trial table."""
    return str(ray.__version__)
