"""Short lanes share a task of Ray's, and nothing else: one that ends its process takes no other along."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from benchmarks.many_lanes import Kept, commit_at_once, make_orders
from suite.experiment import Resources
from suite.orders import Order, Progress
from suite.scheduling import MOST_FRUITLESS, Board, Scheduler, connected, in_turn, new_board
from suite.storage import storage_at

pytestmark = pytest.mark.cluster

NUM_WORKERS, NUM_LANES = 2, 400
DEADLY = "00200"


class Known(Kept):
    """What the driver hears of lanes that may fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(storage_at(root))
        self.failures: dict[str, str] = {}

    def failed(self, trial_id: str, error: str, log_path: str | None) -> None:
        self.failures[trial_id] = error

    def given_up(self, attempt_folder: str) -> None:
        self.results.close_attempt(attempt_folder)

    def finished(self) -> list[str]:
        return [i for i in self.results.outcomes if self.results.outcome(i)["status"] == "finished"]


def commit_or_die(order: Order, report: Callable[[Progress], None], stopping: Callable[[], bool]) -> Progress:
    """One lane of all ends its process."""
    if order.lane == DEADLY:
        os._exit(7)
    return commit_at_once(order, report, stopping)


def commit_slowly(order: Order, report: Callable[[Progress], None], stopping: Callable[[], bool]) -> Progress:
    """Waiting costs no time of a core: the lane counts as a short one."""
    time.sleep(0.02)
    return commit_at_once(order, report, stopping)


def note(orders: list[Order]) -> None:
    """Leave which lanes a task took."""
    with (Path(orders[0].root) / "tasks").open("a") as file:
        file.write(" ".join(order.lane for order in orders) + "\n")


@ray.remote(max_calls=0, max_retries=0)
def dying(orders: list[Order], board: str) -> list[Progress]:
    note(orders)
    return in_turn(orders, board, commit_or_die)


@ray.remote(max_calls=0, max_retries=0)
def slow(orders: list[Order], board: str) -> list[Progress]:
    note(orders)
    return in_turn(orders, board, commit_slowly)


@pytest.fixture(scope="module")
def board(home: Path) -> Iterator[Board]:
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("PYTHONPATH", f"{here}:{here.parent.parent}")
        with connected(None):
            yield new_board()


def scheduled(root: Path, board: Board, known: Known, *, task: object, tick: Callable[[], bool]) -> bool:
    scheduler = Scheduler(
        storage_at(root), known, board, resources=Resources(cpus=1), num_workers=NUM_WORKERS, tick=tick, task=task
    )
    return scheduler.run(make_orders(root, NUM_LANES))


def tasks(root: Path) -> list[list[str]]:
    return [line.split() for line in (root / "tasks").read_text().splitlines()]


def committed(root: Path) -> Counter[str]:
    """Objects by lane."""
    return Counter(name.split("/")[2] for name in storage_at(root).names("lanes") if name.endswith(".zip"))


def test_a_lane_that_ends_its_process_fails_alone(tmp_path: Path, board: Board):
    known = Known(tmp_path)
    assert scheduled(tmp_path, board, known, task=dying, tick=lambda: True)
    deadly = make_orders(tmp_path / "again", NUM_LANES)[int(DEADLY)].tasks[0].trial_id
    assert list(known.failures) == [deadly]
    assert "worker died" in known.failures[deadly]
    assert len(known.finished()) == NUM_LANES - 1
    assert set(committed(tmp_path).values()) == {1}
    assert len(committed(tmp_path)) == NUM_LANES - 1
    took = tasks(tmp_path)
    assert len(took[0]) == 1, "nothing is known of the first"
    assert len(took[-1]) == 1, "the last lanes are shared out"
    assert len(took) < NUM_LANES / 2
    blamed = [lanes for lanes in took if DEADLY in lanes]
    assert [len(lanes) > 1 for lanes in blamed] == [True] + [False] * (MOST_FRUITLESS - 1), "then it goes alone"


def test_lanes_that_are_told_to_stop_keep_what_they_did_and_begin_no_other(tmp_path: Path, board: Board):
    known = Known(tmp_path)
    assert not scheduled(tmp_path, board, known, task=slow, tick=lambda: len(known.results.outcomes) < NUM_LANES / 4)
    done = len(committed(tmp_path))
    assert NUM_LANES / 4 <= done < NUM_LANES
    assert len(known.finished()) == done
    assert max(map(len, tasks(tmp_path))) > 1
    time.sleep(1)
    assert len(committed(tmp_path)) == done
