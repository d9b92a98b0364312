"""Ray: a task per lane. The driver alone retries, so that it knows every attempt; committed objects are the truth."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from suite.lanes import Timings
from suite.orders import Order, Progress
from suite.storage import Folder
from suite.trials import Task

POLL_SECONDS = 0.5
MOST_FRUITLESS = 3
"""A trial alone in its lane fails after so many attempts without a step of progress; fewer could be another's fault,
such as memory that a neighbour took."""
CONNECT_SECONDS = 10.0
STOP_SECONDS = 15.0
"""How long lanes are waited for after they were told to stop."""


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


def check_address(address: str) -> None:
    """See that a cluster answers: Ray itself tries for minutes.

    Raises:
        ClusterError: none does, or the address needs a client that streams.
    """
    if address.startswith("ray://"):
        raise ClusterError(f"{address}: ray:// loses results when the client goes; use `ray job submit` on the cluster")
    if address == "auto":
        with connected(address, cpus=1):
            return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        raise ClusterError(f"--address {address}: write auto, or HOST:PORT such as 10.0.0.1:6379")
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
def connected(address: str | None, *, cpus: int) -> Iterator[int]:
    """Ray, local or at an address, as long as the block lasts; gives the number of workers of `cpus` cores.

    Raises:
        ClusterError: no cluster at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 200 * 2**20}
    try:
        with _own_sigterm():
            ray.init(
                address or "local",
                configure_logging=False,
                log_to_driver=False,
                logging_level="ERROR",
                **(local if address is None else {}),
            )
            num_cpus = int(ray.cluster_resources().get("CPU", 1))
    except (OSError, RayError, RuntimeError, ValueError) as error:
        where = f"no Ray at {address}" if address else "Ray cannot be started on this machine"
        raise ClusterError(f"{where}: {error}") from None
    try:
        yield max(1, num_cpus // cpus)
    finally:
        ray.shutdown()


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
class Board:
    """Where lanes leave what is new; the driver takes it."""

    def __init__(self) -> None:
        self._news: list[Progress] = []

    def post(self, progress: Progress) -> None:
        """Add to the news."""
        self._news.append(progress)

    def take(self) -> list[Progress]:
        """All news since the last call."""
        news, self._news = self._news, []
        return news


def new_board() -> Any:
    """A board in a process of its own, which takes half a second to start."""
    return Board.remote()  # type: ignore[attr-defined]


@ray.remote(max_calls=0, max_retries=0)
def _train(order: Order, board: Any) -> list[str]:
    """One attempt at a lane; cancelling it, or SIGINT, makes it commit and return at the next chunk."""
    from suite.worker import Attempt

    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        attempt = Attempt(order, report=board.post.remote, stopping=lambda: bool(told))
        return attempt.run()
    finally:
        signal.signal(signal.SIGINT, before)


@ray.remote(max_calls=0, max_retries=0)
def _measure(arguments: dict[str, Any]) -> Timings:
    from suite.calibration import measure

    settings = arguments.pop("settings")
    return measure(settings, **arguments)


def calibrate(requests: dict[str, dict[str, Any]], *, cpus: int, gpus: float) -> dict[str, Timings]:
    """Timings by shape key, each measured in a task with the resources that its lanes will have.

    Raises:
        ValueError: a trial cannot be made from its settings.
    """
    task = _measure.options(num_cpus=cpus, num_gpus=gpus)
    try:
        costs = ray.get([task.remote(arguments) for arguments in requests.values()])
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from None
        raise
    return dict(zip(requests, costs, strict=True))


@dataclass(frozen=True)
class _Running:
    order: Order
    fruitless: int
    """Attempts before this one, in a row, that brought the same trials no further."""


class Scheduler:
    """Runs orders to their end, retrying what dies and splitting what does not get on."""

    def __init__(
        self, folder: Folder, sink: Sink, board: Any, *, cpus: int, gpus: float, tick: Callable[[], bool]
    ) -> None:
        self._folder, self._sink, self._tick = folder, sink, tick
        self._task = _train.options(num_cpus=cpus, num_gpus=gpus)
        self._board = board
        self._running: dict[Any, _Running] = {}
        self._taken: set[str] = set()

    def run(self, orders: list[Order]) -> bool:
        """Train all; False if told to stop before the end. `tick` is called twice a second, and False stops."""
        for order in orders:
            self._start(order)
        news = self._board.take.remote()
        while self._running:
            ready, _ = ray.wait([*self._running, news], num_returns=1, timeout=POLL_SECONDS)
            if news in ready:
                self._hear(news)
                time.sleep(POLL_SECONDS / 4)
                news = self._board.take.remote()
            for reference in ready:
                if reference in self._running:
                    self._end(reference)
            if not self._tick():
                self._stop()
                return False
        return True

    def _start(self, order: Order, fruitless: int = 0) -> None:
        self._running[self._task.remote(order, self._board)] = _Running(order, fruitless)

    def _hear(self, news: Any) -> None:
        try:
            heard = ray.get(news)
        except RayError:
            return  # the board died and comes back empty: what it held were hints
        for progress in heard:
            current = {(r.order.lane, r.order.attempt) for r in self._running.values()}
            if (progress.lane, progress.attempt) in current:
                self._take(progress.commits)
                self._sink.progressed(progress)

    def _take(self, names: list[str]) -> None:
        for name in names:
            if name not in self._taken:
                self._taken.add(name)
                self._sink.committed(name)

    def _end(self, reference: Any) -> None:
        """A lane returned or died: its folder says what it did, and what is left is tried again."""
        running = self._running.pop(reference)
        order = running.order
        error = _cause(reference)
        before = {task.trial_id: task.step for task in order.tasks}
        accepted = self._folder.names(order.folder)
        self._take([name for name in accepted if name.endswith(".zip")])
        if error is None:
            return
        left = [task for task in map(self._sink.remaining, order.tasks) if task is not None]
        advanced = len(left) < len(order.tasks) or any(task.step > before[task.trial_id] for task in left)
        self._sink.given_up(order.folder)
        if not left:
            return
        fruitless = 0 if advanced else running.fruitless + 1
        if len(left) == 1 and fruitless == MOST_FRUITLESS:
            self._sink.failed(left[0].trial_id, error, None)
            return
        halves = [left] if advanced or len(left) == 1 else [left[: len(left) // 2], left[len(left) // 2 :]]
        for index, tasks in enumerate(halves):
            lane = order.lane if len(halves) == 1 else f"{order.lane}.{index}"
            follower = replace(order, lane=lane, attempt=order.attempt + 1, tasks=tasks)
            follower = replace(follower, accepted=accepted, predecessor=order.folder)
            self._start(follower, fruitless if len(left) == 1 else 0)

    def _stop(self) -> None:
        """Tell every lane to commit and return, wait for those that do, and list what they wrote."""
        for reference in self._running:
            ray.cancel(reference, force=False)
        ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_SECONDS)
        for running in self._running.values():
            self._take([n for n in self._folder.names(running.order.folder) if n.endswith(".zip")])


def _cause(reference: Any) -> str | None:
    """Why a task did not return, in words; None if it did."""
    try:
        ray.get(reference)
    except TaskCancelledError:
        return "the task was cancelled"
    except RayTaskError as error:
        return f"{type(error.cause).__name__}: {error.cause}" if error.cause else str(error).splitlines()[-1]
    except RayError as error:
        return f"the worker died ({type(error).__name__}): {next(iter(str(error).splitlines()), '')}"
    return None


def ray_version() -> str:
    """For the trial table."""
    return str(ray.__version__)
