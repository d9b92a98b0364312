"""The MLflow side on a real SQLite store: each trial once, however often and in whatever order it is delivered."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Terminal
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import event

from suite import tracking, tracking_store
from suite.one_transaction import one_transaction
from suite.sweep_page import CURVES, Sweep
from suite.tracking import MAX_POINTS, Tracker, TrialUpdate, is_browsable
from suite.tracking_store import default_tracking_uri

START_MS = 1_700_000_000_000
SWEEP = Sweep("5eed", "quickstart", "Does it come to rest?", ("encoder.width", "seed"), "name: quickstart\n")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database, made once because that takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    tracking_store.open_client(default_tracking_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def results(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A results folder with an empty store, the current directory being another one that must stay empty."""
    folder, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(elsewhere)
    yield folder
    assert list(elsewhere.iterdir()) == []


def grid(last: int, per_decade: int = 16) -> list[int]:
    """Steps at which a trial of `last` steps is recorded."""
    powers = (round(10 ** (k / per_decade)) for k in range(20 * per_decade))
    return sorted({0, last, *(step for step in powers if step < last)})


def records(last: int, first: int = 0) -> list[dict[str, Any]]:
    rows = ({"step": s, "timestamp_ms": START_MS + s, "final": s == last, "grad_norm_sq": 1.0} for s in grid(last))
    return [row | dict.fromkeys(CURVES, 1 / (1 + row["step"])) for row in rows if row["step"] >= first]


def trial(name: str = "m32-s0", last: int = 1000, **changes: Any) -> TrialUpdate:
    """A finished trial."""
    summary = {f"final_{i}": i + 1 / last for i in range(13)} | {"stationary": True, "learning_rate": 0.1}
    params = {"encoder.width": 32, "encoder.key.width": None, "note": "x" * 9000, "records_per_decade": 16}
    update = TrialUpdate(
        f"id-{name}", name, params, "finished", None, records(last), summary, last, START_MS + last,
        {"code_version": "0.1.0", "hardware": "cpu"}, START_MS, START_MS + last,
    )  # fmt: skip
    return replace(update, **changes)


def running(update: TrialUpdate, upto: int, first: int = 0) -> TrialUpdate:
    """What was known of a trial while it ran."""
    rows = [row | {"final": False} for row in update.records if first <= row["step"] <= upto]
    return replace(update, status="running", records=rows, summary={}, summary_step=0, ended_ms=None)


def deliver(results: Path, *batches: list[TrialUpdate], finish: str | None = None) -> None:
    """One session: the batches one by one, as if time passed between them."""
    with Tracker(default_tracking_uri(results), SWEEP, results / "mlartifacts") as tracker:
        for batch in batches:
            tracker.deliver(batch)
            drain(tracker)
        if finish:
            tracker.finish([], finish, {})
    assert tracker.problem is None
    assert tracker.pending() == 0


def drain(tracker: Tracker, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while tracker.pending() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tracker.pending() == 0


def client(results: Path) -> Any:
    return tracking_store.open_client(default_tracking_uri(results))


def runs(results: Path, kind: str = "trial") -> list[Any]:
    mlflow = client(results)
    experiment = mlflow.get_experiment_by_name("quickstart")
    return list(mlflow.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def points(results: Path, run: Any) -> list[tuple[str, int, int, float]]:
    mlflow = client(results)
    keys = run.data.metrics
    return sorted(
        (key, m.step, m.timestamp, m.value) for key in keys for m in mlflow.get_metric_history(run.info.run_id, key)
    )


def only(results: Path) -> tuple[Any, list[tuple[str, int, int, float]]]:
    """The only child and its points, of which no step of a metric may come twice."""
    (run,) = runs(results)
    found = points(results, run)
    assert len({(key, step) for key, step, *_ in found}) == len(found) <= MAX_POINTS
    return run, found


def steps(found: list[tuple[str, int, int, float]], key: str = "loss") -> list[int]:
    return [step for k, step, *_ in found if k == key]


@pytest.mark.parametrize("per_decade", [1, 2, 3, 4, 10, 16, 1000])
def test_browsable_steps_are_recorded_steps_about_three_per_decade(per_decade: int) -> None:
    recorded = grid(10**6, per_decade)
    chosen = [step for step in range(2000) if is_browsable(step, per_decade)]
    assert set(chosen) <= set(recorded)
    shown = [step for step in recorded if is_browsable(step, per_decade)]
    assert len(shown) <= 20
    assert {0, 1, 10, 1000, 10**6} <= set(shown)
    gaps = [b / a for a, b in itertools.pairwise(shown[1:])]
    assert max(gaps) <= (10 if per_decade == 1 else 5)


def test_a_trial_becomes_a_child_run_with_its_own_times_params_and_tags(results: Path) -> None:
    deliver(results, [trial()])
    run, found = only(results)
    (parent,) = runs(results, "sweep")
    assert run.info.run_name == "m32-s0"
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", START_MS, START_MS + 1000)
    assert run.data.params["encoder.width"] == "32"
    assert "encoder.key.width" not in run.data.params
    assert 1000 < len(run.data.params["note"]) <= 6000
    expected = {"trial_id": "id-m32-s0", "sweep": "5eed", "status": "finished", "code_version": "0.1.0"}
    expected |= {"axes": "encoder.width, seed", "hardware": "cpu", "mlflow.parentRunId": parent.info.run_id}
    assert expected.items() <= run.data.tags.items()
    assert ("loss", 1000, START_MS + 1000, 1 / 1001) in found
    assert ("stationary", 1000, START_MS + 1000, 1.0) in found


def test_the_parent_shows_the_sweep_and_its_files(results: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    files = [tmp_path / "trials.parquet", tmp_path / "report.html", tmp_path / "figures" / "law.png"]
    for path in files:
        path.write_text("content")
    with Tracker(default_tracking_uri(results), SWEEP, results / "mlartifacts") as tracker:
        tracker.deliver([trial()])
        tracker.finish([*files[:2], tmp_path / "figures"], "finished", {"share": 0.5, "bad": float("nan")}, "At rest.")
    assert tracker.problem is None
    (parent,) = runs(results, "sweep")
    assert (parent.info.run_name, parent.info.status) == ("quickstart", "FINISHED")
    assert parent.data.tags["axes"] == "encoder.width, seed"
    text, _, linked = parent.data.tags["mlflow.note.content"].rpartition("\n\n")
    assert text == "At rest."
    page = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}/artifacts"
    assert f"[report.html]({page}/report.html)" in linked
    assert f"[figures]({page}/figures)" in linked
    assert parent.data.metrics == {"share": 0.5}
    folder = results / "mlartifacts" / parent.info.run_id / "artifacts"
    assert (folder / "experiment.yaml").read_text() == "name: quickstart\n"
    for name in ("tables/trials.parquet", "report.html", "figures/law.png"):
        assert (folder / name).read_text() == "content"


def test_delivering_again_changes_nothing(results: Path) -> None:
    updates = [trial("a"), trial("b", 700)]
    deliver(results, updates, updates, finish="finished")
    before = [(r.to_dictionary(), points(results, r)) for kind in ("sweep", "trial") for r in runs(results, kind)]
    deliver(results, updates, finish="finished")
    assert before == [
        (r.to_dictionary(), points(results, r)) for kind in ("sweep", "trial") for r in runs(results, kind)
    ]
    assert len(before) == 3


def test_a_crash_in_the_middle_of_a_delivery_is_made_good(results: Path) -> None:
    deliver(results, [trial()])
    whole, found = only(results)
    store = client(results)
    for tag in ("delivered_steps", "delivered_outcome"):
        store.delete_tag(whole.info.run_id, tag)
    store.update_run(whole.info.run_id, status="RUNNING")
    deliver(results, [trial()])
    run, again = only(results)
    assert again == found
    assert run.data.tags == whole.data.tags
    assert run.info.status == "FINISHED"


class Counter:
    """A client that notes its calls that write, and fails at one of them."""

    def __init__(self, client: Any, fails_at: int | None = None) -> None:
        self._client, self._fails_at, self.calls = client, fails_at, list[str]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name not in ("create_run", "log_batch", "set_terminated", "update_run"):
            return method

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == self._fails_at:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        return counted


def mirror(results: Path, fails_at: int | None = None) -> tuple[tracking._Mirror, Counter]:
    opened = tracking._Mirror.opened(default_tracking_uri(results), SWEEP, results / "mlartifacts")
    opened._client = counter = Counter(opened._client, fails_at)
    return opened, counter


def test_a_trial_that_arrives_finished_takes_three_calls(results: Path) -> None:
    opened, counter = mirror(results)
    opened.write([trial("a"), trial("b")])
    assert counter.calls == ["create_run", "log_batch", "set_terminated"] * 2
    counter.calls.clear()
    opened.write([trial("a"), trial("b")])
    mirror(results)[0].write([trial("a"), trial("b")])
    assert counter.calls == []


def test_trials_delivered_together_are_one_transaction(results: Path) -> None:
    opened, counter = mirror(results)
    commits: list[str] = []
    event.listen(counter._tracking_client.store.engine, "commit", lambda connection: commits.append("commit"))
    opened.write([trial(f"s{i}") for i in range(5)])
    assert len(commits) == 1
    assert len(runs(results)) == 5


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_crash_at_any_call_is_made_good(
    results: Path, number: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not together:
        monkeypatch.setattr(tracking._Mirror, "_together", lambda self: nullcontext())
    batches = [[running(trial("a"), 100), trial("b")], [trial("a"), trial("c")]]
    opened, counter = mirror(results, fails_at=number)
    with pytest.raises(KeyboardInterrupt):
        deliver_batches(opened, batches)
    assert len(counter.calls) == number
    deliver_batches(mirror(results)[0], batches)
    found = {run.info.run_name: run for run in runs(results)}
    assert sorted(found) == ["a", "b", "c"]
    for run in found.values():
        assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "finished")
        assert len(points(results, run)) == len({(key, step) for key, step, *_ in points(results, run)})
        assert steps(points(results, run)) == [step for step in grid(1000) if is_browsable(step, 16)]
        assert run.data.metrics["final_0"] == 1 / 1000
        assert run.data.params["encoder.width"] == "32"


def deliver_batches(opened: tracking._Mirror, batches: list[list[TrialUpdate]]) -> None:
    for batch in batches:
        opened.write(batch)


def test_nothing_of_a_transaction_that_fails_is_kept_and_others_may_write_meanwhile(results: Path) -> None:
    opened, counter = mirror(results)
    opened.write([trial("a")])
    (run,) = runs(results)
    store = counter._tracking_client.store

    def take_back() -> None:
        with one_transaction(store), store.ManagedSessionMaker(read_only=False) as session:
            store.set_tag(run.info.run_id, RunTag("colour", "red"))
            session.rollback()

    with pytest.raises(MlflowException, match="cannot be taken back"):
        take_back()
    with ThreadPoolExecutor(1) as others, one_transaction(store):
        store.get_run(run.info.run_id)
        others.submit(store.set_tag, run.info.run_id, RunTag("shape", "round")).result()
        store.set_tag(run.info.run_id, RunTag("size", "small"))
    tags = runs(results)[0].data.tags
    assert ("colour" in tags, tags["shape"], tags["size"]) == (False, "round", "small")


def deliver_many(results: Path) -> None:
    """The process that is killed."""
    deliver(results, [running(trial(f"s{i}"), 100) for i in range(20)], [trial(f"s{i}") for i in range(20)])


def num_finished(results: Path) -> int:
    with closing(sqlite3.connect(results / "mlflow.db")) as database:
        return int(database.execute("select count(*) from runs where status = 'FINISHED'").fetchone()[0])


def test_a_killed_driver_leaves_nothing_twice(results: Path) -> None:
    driver = multiprocessing.get_context("spawn").Process(target=deliver_many, args=(results,))
    driver.start()
    while driver.is_alive() and num_finished(results) < 5:
        time.sleep(0.005)
    driver.kill()
    driver.join()
    assert 5 <= num_finished(results) < 20
    deliver_many(results)
    names = [run.info.run_name for run in runs(results)]
    assert sorted(names) == sorted(f"s{i}" for i in range(20))
    for run in runs(results):
        found = points(results, run)
        assert steps(found) == [step for step in grid(1000) if is_browsable(step, 16)]
        assert len({(key, step) for key, step, *_ in found}) == len(found)


def test_a_trial_that_never_began_has_no_run(results: Path) -> None:
    deliver(results, [trial(status="pending", records=[], summary={})])
    assert runs(results) == []


def test_a_trial_trained_again_keeps_its_first_points(results: Path) -> None:
    failed = replace(running(trial(), 100), status="failed", error="CUDA error", ended_ms=START_MS + 150)
    deliver(results, [failed])
    assert only(results)[0].data.tags["error"] == "CUDA error"
    assert only(results)[0].info.status == "FAILED"
    again = trial(records=[row | {"timestamp_ms": row["timestamp_ms"] + 5000} for row in records(1000)])
    deliver(results, [running(again, 50)])
    assert only(results)[0].info.status == "RUNNING"
    deliver(results, [again])
    run, found = only(results)
    assert (run.info.status, run.data.tags["status"], run.data.tags["error"]) == ("FINISHED", "finished", "")
    assert steps(found) == [step for step in grid(1000) if is_browsable(step, 16)]


def test_parts_in_any_order_give_the_same_points(results: Path) -> None:
    whole = trial(last=1500)
    early, late = running(whole, 50), running(whole, 1200, first=51)
    deliver(results, [late], [replace(whole, records=whole.records[-3:])], [early])
    run, found = only(results)
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "finished")
    deliver(results, [whole])
    assert only(results)[1] == found
    assert steps(found) == [step for step in grid(1500) if is_browsable(step, 16) or step == 1500]


def test_updates_that_wait_are_merged(results: Path) -> None:
    whole = trial(last=300)
    parts = [running(whole, 20), replace(whole, records=whole.records[-5:]), running(whole, 250, first=21)]
    deliver(results, parts)
    run, found = only(results)
    assert run.info.status == "FINISHED"
    assert steps(found) == [step for step in grid(300) if is_browsable(step, 16) or step == 300]


@pytest.mark.parametrize(
    ("status", "shown"), [("diverged", "FINISHED"), ("timeout", "KILLED"), ("failed", "FAILED"), ("pending", "KILLED")]
)
def test_statuses(results: Path, status: str, shown: str) -> None:
    deliver(results, [running(trial(), 100)], [trial(status=status)])
    run, _ = only(results)
    assert (run.info.status, run.data.tags["status"]) == (shown, status)


def test_what_is_not_finite_is_left_out(results: Path) -> None:
    rows = [row | {"loss": float("nan") if row["final"] else row["loss"]} for row in records(100)]
    deliver(results, [trial(last=100, status="diverged", records=rows, summary={"slack": float("inf"), "drift": None})])
    run, found = only(results)
    assert 100 not in steps(found)
    assert 100 in steps(found, "scaled_grad_norm_sq")
    assert not {"slack", "drift"} & run.data.metrics.keys()


def test_an_extended_trial_goes_on_in_the_same_run_within_its_points(results: Path) -> None:
    short, long = trial(last=1500), trial(last=1_300_000)
    deliver(results, [short])
    first, _ = only(results)
    rows = [*short.records, *records(1_300_000, first=1501)]
    deliver(results, [running(replace(long, records=rows), 2000)])
    assert only(results)[0].info.status == "RUNNING"
    deliver(results, [replace(long, records=rows)])
    run, found = only(results)
    assert run.info.run_id == first.info.run_id
    assert (run.info.status, run.info.end_time) == ("FINISHED", START_MS + 1_300_000)
    assert {0, 1500, 10**6, 1_300_000} <= set(steps(found))
    assert "incomplete" not in run.data.tags
    assert steps(found, "learning_rate") == [1500]
    assert steps(found, "final_0") == [1500, 1_300_000]


def test_a_trial_extended_many_times_says_that_points_are_left_out(results: Path) -> None:
    deliver(results, *([trial(last=last)] for last in (1111, 2222, 3333, 4444, 5555, 6666)))
    run, found = only(results)
    assert len(found) == MAX_POINTS
    assert str(MAX_POINTS) in run.data.tags["incomplete"]


def test_more_params_than_one_batch_takes(results: Path) -> None:
    deliver(results, [trial(params={f"setting.{i}": i for i in range(250)})])
    deliver(results, [trial(params={f"setting.{i}": -i for i in range(251)}, ended_ms=START_MS + 1001)])
    params = only(results)[0].data.params
    assert len(params) == 251
    assert (params["setting.249"], params["setting.250"]) == ("249", "-250")


def test_a_run_deleted_by_the_user_is_made_again(results: Path) -> None:
    with Tracker(default_tracking_uri(results), SWEEP, results / "mlartifacts", retry_seconds=0.01) as tracker:
        tracker.deliver([running(trial(), 10)])
        drain(tracker)
        (old,) = runs(results)
        client(results).delete_run(old.info.run_id)
        tracker.deliver([trial()])
    assert tracker.problem is None
    run, found = only(results)
    assert run.info.run_id != old.info.run_id
    assert 0 in steps(found)


def test_a_refused_trial_is_set_aside_and_told(results: Path) -> None:
    with Tracker(default_tracking_uri(results), SWEEP, results / "mlartifacts", retry_seconds=0.01) as tracker:
        tracker.deliver([trial("bad", params={"a*b": 1}), trial("good")])
        tracker.finish([], "finished", {})
    assert tracker.problem is not None
    assert "refused 1 trial, such as id-bad" in tracker.problem
    assert tracker.pending() == 0
    assert {run.info.run_name: run.info.status for run in runs(results)}["good"] == "FINISHED"
    assert runs(results, "sweep")[0].info.status == "FINISHED"


@pytest.mark.parametrize(
    "uri",
    ["http://ada:s3cret@127.0.0.1:9", "postgresql://ada:s3cret@127.0.0.1:9/mlflow", "sqlite:////proc/no/mlflow.db"],
)
def test_a_store_that_is_away_neither_blocks_nor_raises(
    uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    tracker = Tracker(uri, SWEEP, tmp_path / "mlartifacts", retry_seconds=0.05, retry_seconds_max=0.05)
    tracker.deliver([trial("a"), trial("b")])
    assert time.monotonic() - began < 0.5
    assert tracker.pending() == 2
    tracker.close(timeout=30)
    assert time.monotonic() - began < 15
    assert tracker.problem is not None
    assert "2 trials not in it yet" in tracker.problem
    assert tracker.problem.count(".") <= 6
    assert "\n" not in tracker.problem
    assert "s3cret" not in tracker.problem
    assert capfd.readouterr() == ("", "")


def test_a_store_that_comes_back_gets_everything(results: Path) -> None:
    (results / "mlflow.db").rename(results / "kept.db")
    (results / "mlflow.db").mkdir()
    tracker = Tracker(default_tracking_uri(results), SWEEP, results / "mlartifacts", retry_seconds=0.01)
    tracker.deliver([trial()])
    while tracker.problem is None:
        time.sleep(0.01)
    (results / "mlflow.db").rmdir()
    (results / "kept.db").rename(results / "mlflow.db")
    drain(tracker)
    tracker.close()
    assert tracker.problem is None
    assert len(runs(results)) == 1


def make_store(folder: Path) -> None:
    """The process that makes the database."""
    assert tracking_store.open_client(default_tracking_uri(folder)).search_experiments()


def test_a_database_whose_making_was_killed_is_made_by_the_next_run(tmp_path: Path) -> None:
    """Killed at moments spread over the making, from the first table to the last."""
    sizes = []
    for wanted in (0, 30_000, 250_000):
        process = multiprocessing.get_context("spawn").Process(target=make_store, args=(tmp_path,))
        process.start()
        while process.is_alive() and sum(path.stat().st_size for path in made(tmp_path)) <= wanted:
            time.sleep(0.001)
        process.kill()
        process.join()
        sizes.append(sum(path.stat().st_size for path in made(tmp_path)))
        assert not (tmp_path / "mlflow.db").exists()
    assert sizes == sorted(sizes)
    make_store(tmp_path)
    deliver(tmp_path, [trial()])
    assert len(runs(tmp_path)) == 1
    assert sorted(os.listdir(tmp_path)) == ["mlartifacts", "mlflow.db"]


def made(folder: Path) -> list[Path]:
    """Databases that are being made."""
    return list(folder.glob(f"{tracking_store.UNFINISHED}*/mlflow.db"))


def test_two_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make_store, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_a_database_left_half_made_says_what_to_do(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create table _alembic_tmp_experiments (experiment_id integer)")
    with Tracker(default_tracking_uri(tmp_path), SWEEP, tmp_path / "mlartifacts", retry_seconds=0.01) as tracker:
        tracker.deliver([trial()])
    assert "killed while it made this database: move it away" in str(tracker.problem)


def test_nothing_is_said_on_the_terminal_when_a_store_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    deliver(tmp_path / "new", [trial()], finish="finished")
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == ["new"]
    assert logging.getLogger().level == level
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def deliver_file(folder: Path, file: Path) -> None:
    """A run that ends with a report."""
    with Tracker(default_tracking_uri(folder), SWEEP, folder / "mlartifacts") as tracker:
        tracker.deliver([trial()])
        tracker.finish([file], "finished", {})
    assert tracker.problem is None


def test_files_go_to_where_a_moved_folder_is_now(results: Path, tmp_path: Path) -> None:
    report, moved = tmp_path / "report.html", tmp_path / "moved"
    report.write_text("first")
    deliver_file(results, report)
    results.rename(moved)
    report.write_text("second")
    process = multiprocessing.get_context("spawn").Process(target=deliver_file, args=(moved, report))
    process.start()
    process.join()
    assert process.exitcode == 0
    (parent,) = runs(moved, "sweep")
    assert (moved / "mlartifacts" / parent.info.run_id / "artifacts" / "report.html").read_text() == "second"
    assert not results.exists()


def answers(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_ui_ends_its_server(results: Path, home: Path, sent: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = Terminal(results, home).start("ui", ".", "--port", str(port))
    while not answers(port):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(sent)
    assert process.wait(timeout=20) == 0
    deadline = time.monotonic() + 10
    while answers(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(port)
    process.communicate()


def test_a_connection_that_breaks_off_is_told_by_the_tracker_alone(tmp_path: Path):
    """As where a disk is full, and SQLAlchemy finds that it cannot even roll back."""
    script = f"""
import logging, sys
from suite import tracking, tracking_store
tracking_store.open_client("sqlite:///{tmp_path}/mlflow.db")
for name in ("sqlalchemy.pool.impl.QueuePool", "sqlalchemy.pool.impl.NullPool"):
    try:
        raise OSError("no space left")
    except OSError:
        logging.getLogger(name).error("Exception during reset or similar", exc_info=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout + done.stderr == ""


def test_mlflow_may_be_imported_while_another_thread_forks(results: Path):
    """Ray forks while MLflow loads; a lock around forks that came in between was once released without being held."""
    script = f"""
import os, sys, time
from pathlib import Path
from suite.sweep_page import Sweep
from suite.tracking import Tracker

def until_imported():
    while not hasattr(sys.modules.get("concurrent.futures.thread"), "ThreadPoolExecutor"):
        time.sleep(0.001)

os.register_at_fork(before=until_imported)
with Tracker("sqlite:///{results}/mlflow.db", Sweep("5eed", "name", "", (), ""), Path("{results}")) as tracker:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
print(tracker.problem)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("None\n", "")
