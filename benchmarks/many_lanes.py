"""2,000 lanes of trivial work over 20 simulated nodes: what our scheduler adds to a Ray task, and how the driver grows.

`python -m benchmarks.many_lanes` runs as many empty Ray tasks, then the lanes, and this in turns. A lane goes all its
way: it looks whether its node fits, commits one trial with its records as an object on disk, and the driver reads and
keeps that; only training is left out. The scheduler soon sees that lanes are short, and hands over several in one task.
"""

from __future__ import annotations

import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from benchmarks.saved import NARROW, asked_quick, save
from suite.commits import Address, Commit, encode
from suite.experiment import Resources
from suite.loading import load_experiment
from suite.nodes import versions
from suite.orders import Order, Progress
from suite.results import Results
from suite.scheduling import Board, Scheduler, in_turn, new_board
from suite.storage import Folder, Storage, storage_at
from suite.tables import OUTCOMES, PASSAGES, RECORDS, table
from suite.training.records import record_steps
from suite.trials import Task, expand

NUM_NODES, NUM_LANES, ROUNDS = 20, 2000, 3
STEPS = 1000
"""Of the trial that each lane says it has trained."""
MARK = "mark"


@ray.remote(max_calls=0, max_retries=0)
def _nothing(order: Any, board: str) -> list[str]:
    return []


@ray.remote(max_calls=0, max_retries=0)
def _commit(orders: list[Order], board: str) -> list[Progress]:
    return in_turn(orders, board, commit_at_once)


def commit_at_once(order: Order, report: Callable[[Progress], None], stopping: Callable[[], bool]) -> Progress:
    """What a worker does for a lane, without training."""
    trial_id = order.tasks[0].trial_id
    rows = [{"trial_id": trial_id, "step": s, "loss": 1 / (1 + s), "final": s == STEPS} for s in steps_recorded()]
    outcome = {"trial_id": trial_id, "status": "finished", "steps": STEPS, "slots": order.slots, "lane": order.lane}
    commit = Commit(records=table(rows, RECORDS), outcomes=table([outcome], OUTCOMES), passages=PASSAGES.empty_table())
    name = Address(epoch=order.epoch, lane=order.lane, attempt=order.attempt, number=0).name
    storage_at(order.root).write(name, encode(commit, {}))
    return Progress(order.lane, order.attempt, STEPS, {}, [name])


def steps_recorded() -> list[int]:
    """As a trial's curve has them."""
    return sorted(record_steps(STEPS, 16, ended=True))


class Kept:
    """What the driver keeps of lanes, as in a run; notes its memory after each commit."""

    def __init__(self, folder: Storage) -> None:
        self.results, self.memory = Results(folder), [resident()]

    def committed(self, name: str) -> None:
        """Take it in."""
        self.results.take(name)
        self.memory.append(resident())

    def progressed(self, progress: Progress) -> None:
        """A hint."""

    def remaining(self, task: Task) -> Task | None:
        """The task, if its trial did not end."""
        return None if self.results.outcome(task.trial_id)["status"] == "finished" else task

    def failed(self, trial_id: str, error: str, log_path: str | None) -> None:
        """None should."""
        raise AssertionError(error)

    def given_up(self, attempt_folder: str) -> None:
        """None should."""
        raise AssertionError(attempt_folder)

    def retried(self, words: str) -> None:
        """None should."""
        raise AssertionError(words)


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize()


def make_orders(root: Path, number: int) -> list[Order]:
    """One lane of one trial each."""
    experiment = load_experiment(NARROW, overrides=[f"seed={{range: {number}}}", "encoder.width=8", "encoder.depth=1"])
    trials = expand(experiment).trials
    Folder(root).write(MARK, b"")
    first = Order(
        root=root,
        epoch=1,
        lane="",
        attempt=1,
        tasks=[],
        slots=1,
        threads=1,
        device="cpu",
        budget=experiment.budget,
        stop_below=0,
        levels=experiment.levels,
        measure=experiment.measure,
        keep_states=False,
        expected=versions(),
        mark=MARK,
    )
    return [
        replace(first, lane=f"{index:05d}", tasks=[Task(trial_id=trial.trial_id, settings=trial.settings)])
        for index, trial in enumerate(trials)
    ]


def seconds_of_tasks(orders: list[Order], board: Board) -> float:
    """Wall of so many empty Ray tasks, given to Ray all at once, with the same arguments."""
    began = time.monotonic()
    ray.get([_nothing.options(num_cpus=1).remote(order, board.name) for order in orders])
    return time.monotonic() - began


def seconds_of_lanes(orders: list[Order], board: Board, num_nodes: int) -> tuple[float, Kept]:
    """Wall of so many lanes through the scheduler, and what the driver kept."""
    kept = Kept(storage_at(orders[0].root))
    scheduler = Scheduler(
        storage_at(orders[0].root),
        kept,
        board,
        resources=Resources(cpus=1),
        num_workers=num_nodes,
        tick=lambda: True,
        task=_commit,
    )
    gc.collect()
    began = time.monotonic()
    assert scheduler.run(orders)
    return time.monotonic() - began, kept


def measure(scratch: Path, *, num_nodes: int, num_lanes: int, rounds: int) -> dict[str, Any]:
    """Seconds of each round, and the driver's memory on the way through the first one, in bytes."""
    tasks, lanes, memory = [], [], []
    cluster = started(num_nodes)
    try:
        board = new_board()
        warm = make_orders(scratch / "warm", 20 * num_nodes)
        seconds_of_tasks(warm, board)
        seconds_of_lanes(warm, board, num_nodes)
        for number in range(rounds):
            orders = make_orders(scratch / str(number), num_lanes)
            tasks.append(seconds_of_tasks(orders, board))
            took, kept = seconds_of_lanes(orders, board, num_nodes)
            lanes.append(took)
            memory.append(kept.memory[-1] - kept.memory[num_lanes // 2])
            assert len(kept.results.outcomes) == num_lanes
            print(
                f"round {number + 1}: {1e3 * took / num_lanes:.2f} ms a lane, "
                f"{1e3 * tasks[-1] / num_lanes:.2f} an empty task, {memory[-1] / 1e6:.1f} MB",
                flush=True,
            )
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {"nodes": num_nodes, "lanes": num_lanes, "task_seconds": tasks, "lane_seconds": lanes, "grown": memory}


def started(num_nodes: int) -> Cluster:
    """A head without cores and so many nodes with one each, on this machine, and this process connected to them."""
    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    for _ in range(num_nodes):
        cluster.add_node(num_cpus=1, **small)
    ray.init(cluster.address, logging_level="error", log_to_driver=False)
    cluster.wait_for_nodes()
    return cluster


def main() -> None:
    """Measure in a folder and a home of their own."""
    quick = asked_quick(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ |= {"HOME": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        sizes = (3, 100, 1) if quick else (NUM_NODES, NUM_LANES, ROUNDS)
        figures = measure(scratch, num_nodes=sizes[0], num_lanes=sizes[1], rounds=sizes[2])
    save("many_lanes", figures, quick=quick)


if __name__ == "__main__":
    main()
