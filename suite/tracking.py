"""MLflow: one writer in a background thread mirrors what is committed on disk, and delivering it again changes nothing.

The parent run is the sweep, a child run is a trial. Both are found by their tags before they are created; a metric
point is written once per step; params are written once. Trials that wait are written in one transaction, because
MLflow's time goes into sessions and commits. The results folder stays the truth: when MLflow is away or
refuses, training goes on, and `stillpoint sync` or the next run of the same command delivers what is missing.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from suite.one_transaction import one_transaction
from suite.redaction import redacted, without_secrets_of
from suite.storage import process_lives

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
Rows = dict[int, Mapping[str, Any]]
TrialStatus = Literal["running", "finished", "diverged", "timeout", "failed", "pending"]

MAX_POINTS = 100
"""Metric points of one child run, over its whole life; whole curves are in records.parquet."""
CURVES = ("loss", "scaled_grad_norm_sq", "running_min_scaled_grad_norm_sq")
"""The columns of records.parquet that are drawn in MLflow."""
POINTS_PER_DECADE = 3

MLFLOW_STATUS: Mapping[str, str] = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "timeout": "KILLED",
    "pending": "KILLED",
    "interrupted": "KILLED",
}

MAX_PARAMS_PER_BATCH = 100
MAX_VALUE_LENGTH = 5000
RUNS_PER_PAGE = 1000
UNFINISHED = ".mlflow-unfinished."
"""Begins the name of a folder in which a database is being made."""
GATHER_SECONDS = 0.5
MOST_TOGETHER = 10
"""Trials written in one transaction: more of them would keep other writers of the same database waiting."""
ATTEMPTS_WHEN_CLOSING, RETRY_SECONDS_WHEN_CLOSING = 3, 5.0
PATIENCE_SECONDS = 60.0
"""How long the end of a sweep waits for a server that was there before: it may be on its way back from a restart."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}

# A request repeated inside the HTTP layer could create a run twice when only the answer was lost, so it is this
# module that repeats, after it has looked the runs up again.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True)
class Sweep:
    """What the parent run shows."""

    sweep_id: str
    name: str
    """Name of the MLflow experiment and of the parent run."""
    description: str
    axes: tuple[str, ...]
    """Full paths of the swept settings."""
    experiment_yaml: str


@dataclass(frozen=True)
class TrialUpdate:
    """What is known of one trial: everything since the last update, or any superset of it."""

    trial_id: str
    name: str
    params: Mapping[str, Any]
    """Every resolved setting by its full path; None is left out."""
    status: TrialStatus
    error: str | None = None
    records: Sequence[Mapping[str, Any]] = ()
    """Rows with the columns of records.parquet: step, timestamp_ms, final and the curves."""
    summary: Mapping[str, float | bool | None] = field(default_factory=dict)
    """Numbers at the end of the trial, the most useful first; empty while it runs."""
    summary_step: int = 0
    summary_timestamp_ms: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    """Code version, hardware and the like."""
    started_ms: int | None = None
    ended_ms: int | None = None


def default_tracking_uri(results_dir: Path | str) -> str:
    """The SQLite database of a results folder, by its absolute path."""
    return f"sqlite:///{Path(results_dir).resolve() / 'mlflow.db'}"


def is_browsable(step: int, records_per_decade: int) -> bool:
    """Whether MLflow shows this step: 0 and about three steps of the records grid per decade.

    Depends on nothing else, so an extended or repeated trial chooses the same steps.
    """
    if step <= 0:
        return step == 0
    nearest = round(POINTS_PER_DECADE * math.log10(step))
    return any(step == _browsable_step(j, records_per_decade) for j in (nearest - 1, nearest, nearest + 1))


def _browsable_step(j: int, records_per_decade: int) -> int:
    return round(10 ** (round(j * records_per_decade / POINTS_PER_DECADE) / records_per_decade))


class Tracker:
    """Mirrors committed results into MLflow from a background thread; no call but `close` ever waits for it.

    Use as a context manager, or call `close`. Nothing is raised for MLflow's sake: look at `problem`.
    """

    def __init__(
        self,
        tracking_uri: str,
        sweep: Sweep,
        artifact_root: Path | None,
        *,
        retry_seconds: float = 1.0,
        retry_seconds_max: float = 60.0,
    ) -> None:
        _set_environment()  # not in the thread: others may be copying os.environ
        importlib.import_module("concurrent.futures.thread")  # nor this: it locks around forks, and Ray may be at one
        self._uri, self._sweep, self._artifact_root = tracking_uri, sweep, artifact_root
        self._retry_seconds, self._retry_seconds_max = retry_seconds, retry_seconds_max
        self._changed = threading.Condition()
        self._backlog: dict[str, TrialUpdate] = {}
        self._ending: _Ending | None = None
        self._refused: dict[str, str] = {}
        self._trouble: str | None = None
        self._closing = self._abandoned = self._has_answered = False
        self._patient_until = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def deliver(self, updates: Iterable[TrialUpdate]) -> None:
        """Queue the updates; those of one trial are merged while they wait."""
        with self._changed:
            for update in updates:
                waiting = self._backlog.get(update.trial_id)
                self._backlog[update.trial_id] = merged(waiting, update) if waiting else update
            self._changed.notify_all()

    def finish(
        self,
        artifacts: Iterable[Path],
        sweep_status: str,
        sweep_metrics: Mapping[str, float | None],
        description: str | None = None,
    ) -> None:
        """Queue the end of the sweep, after all updates: files and folders onto the parent run, then its status."""
        with self._changed:
            self._ending = _Ending(tuple(artifacts), sweep_status, dict(sweep_metrics), description)
            self._changed.notify_all()

    def pending(self) -> int:
        """Updates not yet in MLflow, the end of the sweep counted as one."""
        with self._changed:
            return len(self._backlog) + (self._ending is not None)

    @property
    def problem(self) -> str | None:
        """One sentence on what is not in MLflow, and why, without passwords; None when all is well."""
        with self._changed:
            missing = len(self._backlog) + len(self._refused)
            where = f"MLflow at {redacted(self._uri)}"
            if self._trouble:
                what = f"{_trials(missing)} not" if missing else "the sweep's files and status are not"
                return f"{where} {self._trouble}; {what} in it yet."
            if self._refused:
                trial_id, reason = next(iter(self._refused.items()))
                return f"{where} refused {_trials(missing)}, such as {trial_id} ({reason})."
            return None

    def close(self, timeout: float = 60.0, *, patience: float = 0.0) -> None:
        """Deliver what is left, for at most `timeout` seconds; give up earlier when MLflow is away.

        One that has answered before is waited for `patience` seconds.
        """
        with self._changed:
            self._closing = True
            self._patient_until = time.monotonic() + patience
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            self._abandoned = True
            if self._thread.is_alive() and not self._trouble:
                self._trouble = f"took longer than {timeout:g} s"
            self._changed.notify_all()

    def _work(self) -> None:
        failures, suspects, mirror = 0, 0, None
        while not self._abandoned:
            jobs: Sequence[Job] = ()
            try:
                mirror = mirror or _Mirror.opened(self._uri, self._sweep, self._artifact_root)
                self._has_answered = True
                jobs = self._next_jobs(1 if suspects else MOST_TOGETHER)
                if not jobs:
                    return
                mirror.write(jobs)
                self._done(jobs)
                failures, suspects = 0, max(0, suspects - 1)
            except Exception as error:
                failures, suspects, mirror = failures + 1, max(suspects, len(jobs)), None
                if self._give_up(jobs, error, failures):
                    return

    def _next_jobs(self, most: int) -> Sequence[Job]:
        """The oldest updates, then the end of the sweep; none when closing and nothing is left."""
        with self._changed:
            while not (self._backlog or self._ending or self._closing):
                self._trouble = None
                self._changed.wait()
                self._changed.wait_for(lambda: self._closing or self._ending, GATHER_SECONDS)
            waiting = list(itertools.islice(self._backlog.values(), most))
            return waiting or ([self._ending] if self._ending else [])

    def _done(self, jobs: Iterable[Job]) -> None:
        """Forget the jobs, but those to which more has come meanwhile."""
        with self._changed:
            self._trouble = None
            for job in jobs:
                if job is self._ending:
                    self._ending = None
                elif isinstance(job, TrialUpdate) and self._backlog.get(job.trial_id) is job:
                    del self._backlog[job.trial_id]

    def _give_up(self, jobs: Sequence[Job], error: Exception, failures: int) -> bool:
        """After a failure: set a job aside that was refused twice, else wait; whether there is no use in going on."""
        with self._changed:
            if len(jobs) == 1 and failures > 1 and _is_refusal(error):
                (job,) = jobs
                what = job.trial_id if isinstance(job, TrialUpdate) else "the sweep itself"
                self._refused[what] = _reason(error, self._uri)
                self._done(jobs)
                return False
            self._trouble = f"cannot be written ({_reason(error, self._uri)})"
            closing = self._closing
            if closing and failures >= ATTEMPTS_WHEN_CLOSING and not self._may_come_back():
                return True
            most = min(self._retry_seconds_max, RETRY_SECONDS_WHEN_CLOSING if closing else math.inf)
            delay = min(self._retry_seconds * 2 ** min(failures - 1, 16), most)
            self._changed.wait_for(lambda: self._abandoned or self._closing != closing, delay)
            return False

    def _may_come_back(self) -> bool:
        return self._has_answered and time.monotonic() < self._patient_until


@dataclass(frozen=True)
class _Ending:
    """The end of a sweep."""

    artifacts: tuple[Path, ...]
    status: str
    metrics: Mapping[str, float | None]
    description: str | None


Job = TrialUpdate | _Ending


@dataclass
class _Child:
    """What MLflow holds of one run, as far as the writer knows; `points` is None until its history is read."""

    run_id: str
    status: str
    ended_ms: int | None
    params: set[str]
    tags: dict[str, str]
    latest: dict[str, float]
    points: set[tuple[str, int]] | None

    @classmethod
    def of(cls, run: Run) -> _Child:
        """The run as MLflow returned it."""
        info, data = run.info, run.data
        points: set[tuple[str, int]] | None = None if data.metrics else set()
        params, tags, latest = set(data.params), dict(data.tags), dict(data.metrics)
        return cls(info.run_id, info.status, info.end_time, params, tags, latest, points)

    def delivered_steps(self) -> set[int]:
        """Steps whose records were written, or had no room."""
        return {int(step) for step in self.tags.get("delivered_steps", "").split(",") if step}

    def holds(self, update: TrialUpdate, steps: Set[int]) -> bool:
        """Whether the update was written completely, in this session or an earlier one.

        The status is written last, so tags that promise more than is there are never believed.
        """
        told = self.tags.get("delivered_outcome") == _outcome(update) and steps <= self.delivered_steps()
        return told and self.status == MLFLOW_STATUS[update.status]

    def remember(self, points: list[Point], params: dict[str, str], tags: dict[str, str]) -> None:
        """Note what was written."""
        assert self.points is not None
        self.points |= {(p.key, p.step) for p in points}
        self.latest |= {p.key: p.value for p in points}
        self.params |= params.keys()
        self.tags |= tags


class _Mirror:
    """The sweep's runs in MLflow, and how to bring them up to date. Lives in one thread."""

    def __init__(self, client: MlflowClient, sweep: Sweep, experiment_id: str, parent: Run) -> None:
        self._client, self._sweep, self._experiment_id = client, sweep, experiment_id
        self._parent = _Child.of(parent)
        self._children: dict[str, _Child] = {}

    @classmethod
    def opened(cls, uri: str, sweep: Sweep, artifact_root: Path | None) -> _Mirror:
        """Connect, make what is missing, and look all runs of the sweep up once."""
        client = _client(uri)
        _relocate(sqlite_file(uri), artifact_root)
        experiment_id = _experiment_id(client, sweep.name, None if uri.startswith("http") else artifact_root)
        runs = list(_runs(client, experiment_id, sweep.sweep_id))
        parent = next((run for run in runs if run.data.tags.get("kind") == "sweep"), None)
        mirror = cls(client, sweep, experiment_id, parent or _create_parent(client, experiment_id, sweep))
        mirror._children = {t: _Child.of(run) for run in runs if (t := run.data.tags.get("trial_id"))}
        return mirror

    def write(self, jobs: Sequence[Job]) -> None:
        """Bring trials, or the sweep, up to date; several trials together, or none of them."""
        with self._together() if len(jobs) > 1 else nullcontext():
            for job in jobs:
                if isinstance(job, _Ending):
                    self._end(job)
                else:
                    self._update(job)

    def _together(self) -> AbstractContextManager[None]:
        return one_transaction(getattr(getattr(self._client, "_tracking_client", None), "store", None))

    def _update(self, update: TrialUpdate) -> None:
        rows = browsable_rows(update)
        child = self._children.get(update.trial_id)
        if child is None:
            if update.status == "pending" and not rows:
                return  # it never began
            self._resume_parent()
            child = self._children[update.trial_id] = self._create(update, rows)
        if child.status != "RUNNING" and _is_late(update, child.ended_ms):
            self._log(child, update, rows, {})
        elif not child.holds(update, rows.keys()):
            self._resume_parent()
            self._log(child, update, rows, _outcome_tags(update))
            self._set_status(child, update)

    def _create(self, update: TrialUpdate, rows: Rows) -> _Child:
        """A run with all its tags; one that has ended gets those too that tell what is written, which saves a call."""
        tags = {**update.tags, "kind": "trial", "sweep": self._sweep.sweep_id, "trial_id": update.trial_id}
        tags |= {"axes": ", ".join(self._sweep.axes), "status": update.status}
        tags = _shortened(tags) | {"mlflow.parentRunId": self._parent.run_id}
        if MLFLOW_STATUS[update.status] != "RUNNING":
            told = _outcome_tags(update) | {"delivered_steps": _joined(rows.keys())}
            tags |= {key: value for key, value in told.items() if value}
        started = update.started_ms or _now_ms()
        return _Child.of(self._client.create_run(self._experiment_id, started, tags, update.name))

    def _resume_parent(self) -> None:
        if self._parent.status != "RUNNING":
            self._client.update_run(self._parent.run_id, status="RUNNING")
            self._parent.status = "RUNNING"

    def _set_status(self, child: _Child, update: TrialUpdate) -> None:
        status = MLFLOW_STATUS[update.status]
        ended = update.ended_ms or update.summary_timestamp_ms or child.ended_ms or _now_ms()
        if status == "RUNNING" and child.status != status:
            self._client.update_run(child.run_id, status=status)
        elif status != "RUNNING" and (child.status, child.ended_ms) != (status, ended):
            self._client.set_terminated(child.run_id, status, ended)
            child.ended_ms = ended
        child.status = status

    def _log(self, child: _Child, update: TrialUpdate, rows: Rows, tags: dict[str, str]) -> None:
        """Everything new in one call; MLflow writes tags last, so those of a running trial never promise too much."""
        from mlflow.entities import Metric, Param, RunTag

        points, left_out = self._new_points(child, update, rows)
        params = {k: _short(v) for k, v in update.params.items() if v is not None and k not in child.params}
        tags |= {"delivered_steps": _joined(child.delivered_steps() | rows.keys())}
        tags |= {"incomplete": f"no more than {MAX_POINTS} metric points are kept here"} if left_out else {}
        tags = {key: value for key, value in tags.items() if child.tags.get(key, "") != value}
        *early, last = _chunks([Param(key, value) for key, value in params.items()], MAX_PARAMS_PER_BATCH)
        for chunk in early:
            self._client.log_batch(child.run_id, params=chunk)
        metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
        self._client.log_batch(child.run_id, metrics, last, [RunTag(key, value) for key, value in tags.items()])
        child.remember(points, params, tags)

    def _new_points(self, child: _Child, update: TrialUpdate, rows: Rows) -> tuple[list[Point], int]:
        """The points MLflow does not hold yet, and how many more there was no room for.

        The summary goes first, then the last record, because what has no room is left out.
        """
        if child.points is None:
            keys = child.latest
            child.points = {(key, m.step) for key in keys for m in self._client.get_metric_history(child.run_id, key)}
        new: dict[tuple[str, int], Point] = {}
        changed = [p for p in summary_points(update) if child.latest.get(p.key) != p.value]
        last_first = sorted(rows.values(), key=lambda row: not row["final"])
        for point in (*changed, *(p for row in last_first for p in curve_points(row))):
            if (point.key, point.step) not in child.points:
                new.setdefault((point.key, point.step), point)
        points = list(new.values())
        room = max(MAX_POINTS - len(child.points), 0)
        return points[:room], len(points[room:])

    def _end(self, ending: _Ending) -> None:
        run_id, client = self._parent.run_id, self._client
        client.log_text(run_id, self._sweep.experiment_yaml, "experiment.yaml")
        for path in ending.artifacts:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():
                client.log_artifact(run_id, str(path), "tables" if path.suffix == ".parquet" else None)
        for key, value in ending.metrics.items():
            if value is not None and math.isfinite(value) and self._parent.latest.get(key) != float(value):
                client.log_metric(run_id, key, float(value), step=0)
                self._parent.latest[key] = float(value)
        if ending.description is not None:
            client.set_tag(run_id, "mlflow.note.content", _short(ending.description))
        status = MLFLOW_STATUS[ending.status]
        if self._parent.status != status:
            client.set_terminated(run_id, status)
            self._parent.status = status


@dataclass(frozen=True)
class Point:
    """One metric point."""

    key: str
    value: float
    timestamp_ms: int
    step: int


def browsable_rows(update: TrialUpdate) -> Rows:
    """The records MLflow shows, by step: the thinned grid and the last record."""
    per_decade = int(update.params.get("records_per_decade") or 16)
    rows: Rows = {}
    for row in update.records:
        if row["final"] or is_browsable(int(row["step"]), per_decade):
            rows.setdefault(int(row["step"]), row)
    return rows


def curve_points(row: Mapping[str, Any]) -> list[Point]:
    """The finite curve values of one record."""
    step, timestamp_ms = int(row["step"]), int(row["timestamp_ms"])
    return [Point(key, float(row[key]), timestamp_ms, step) for key in CURVES if _is_finite(row.get(key))]


def summary_points(update: TrialUpdate) -> list[Point]:
    """The finite numbers at the end of the trial, True as 1."""
    step, timestamp_ms = update.summary_step, update.summary_timestamp_ms
    return [
        Point(k, float(v), timestamp_ms, step) for k, v in update.summary.items() if v is not None and _is_finite(v)
    ]


def merged(earlier: TrialUpdate, later: TrialUpdate) -> TrialUpdate:
    """One update that says what both say; the later one decides on the status, unless it was overtaken."""
    records = (*earlier.records, *later.records)
    if earlier.status != "running" and _is_late(later, earlier.ended_ms):
        return replace(earlier, records=records)
    return replace(later, records=records)


def _is_late(update: TrialUpdate, ended_ms: int | None) -> bool:
    """Whether a running update was overtaken: all its records were measured before the trial ended."""
    times = [int(row["timestamp_ms"]) for row in update.records]
    return update.status == "running" and ended_ms is not None and bool(times) and max(times) <= ended_ms


def _outcome(update: TrialUpdate) -> str:
    """A short hash of everything but the records."""
    known = [update.status, update.error, update.ended_ms, update.summary_step, dict(update.summary)]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=float).encode()).hexdigest()[:12]


def _outcome_tags(update: TrialUpdate) -> dict[str, str]:
    """The tags that say how the trial stands; an error that is over becomes empty."""
    tags = {**update.tags, "status": update.status, "error": update.error or ""}
    return _shortened(tags) | {"delivered_outcome": _outcome(update)}


def _set_environment() -> None:
    """What MLflow reads at import; what the user has set stays."""
    for key, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def _client(uri: str) -> MlflowClient:
    """Import MLflow without a word on the terminal, and make a client and the database if need be."""
    _set_environment()
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic|sqlalchemy|google|pydantic)\b.*")
    database = sqlite_file(uri)
    if database is None or database.exists():
        _probe(uri)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # a full disk, say, which the tracker tells itself
    if database is not None and not database.exists():
        _create_database(database)
    return MlflowClient(tracking_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite tracking store; None for any other store."""
    _, found, path = uri.partition("sqlite:///")
    path = path.partition("?")[0]
    return Path(path) if found and path and path != ":memory:" else None


@dataclass(frozen=True)
class Store:
    """A tracking store as it was found."""

    uri: str
    """Without passwords."""
    is_there: str
    """What answers, in a few words."""
    problem: str | None = None
    """Why nothing can be written there."""


def examine_store(uri: str) -> Store:
    """Whether runs can be written to a store, without writing anything."""
    database, public = sqlite_file(uri), redacted(uri)
    if database is not None and not database.exists():
        return Store(public, "a database that the first run makes")
    try:
        if database is not None:
            _check_is_mlflow(database)
        client = _client(uri)
        client.search_experiments(max_results=1)
        return _store_of(uri, public)
    except Exception as error:
        return Store(public, "", f"cannot be used ({_reason(error, uri)})")


def _store_of(uri: str, public: str) -> Store:
    """What is known of a store that has let this process in."""
    from mlflow import __version__

    if not uri.startswith("http"):
        return Store(public, f"MLflow {__version__} lets this process in")
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(uri), "/version", "GET", max_retries=0)
    there = answer.text.strip() if answer.ok else ""
    if not re.fullmatch(r"\d+\.\S+", there):
        return Store(public, "a server that does not tell its version lets this process in")
    problem = (
        f"is MLflow {there}, and here is {__version__}" if there.split(".")[0] != __version__.split(".")[0] else None
    )
    return Store(public, f"MLflow {there} lets this process in", problem)


def _check_is_mlflow(database: Path) -> None:
    """Fail for a database without MLflow's tables, which MLflow itself would fill with them."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        known = connection.execute("select count(*) from sqlite_master where name = 'alembic_version'").fetchone()
    if not known[0]:
        raise ValueError("it is no database of MLflow's")


def _probe(uri: str) -> None:
    """Fail at once for a database that cannot be opened: MLflow itself would retry for minutes without a word."""
    if uri.split(":")[0].split("+")[0] in {"sqlite", "postgresql", "mysql", "mssql"}:
        from sqlalchemy import create_engine, inspect

        engine = create_engine(uri)
        try:
            inspect(engine).has_table("experiments")
        finally:
            engine.dispose()


def _create_database(database: Path) -> None:
    """Make a database with all its tables, which takes MLflow seconds, or none: a kill leaves a folder that is ignored.

    Of two processes that do so at once, the second uses what the first has made.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(database.parent)
    prefix = f"{UNFINISHED}{socket.gethostname()}.{os.getpid()}."
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=prefix) as folder:
        made = Path(folder) / database.name
        store = SqlAlchemyStore(f"sqlite:///{made}", (database.parent.resolve() / "mlartifacts").as_uri())
        store.engine.dispose()
        with suppress(FileExistsError):
            os.link(made, database)


def _remove_unfinished(parent: Path) -> None:
    """Remove what processes of this host that are dead left of databases they were making."""
    for folder in parent.glob(f"{UNFINISHED}{socket.gethostname()}.*"):
        pid = folder.name.split(".")[-2]
        if pid.isdigit() and not process_lives(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _relocate(database: Path | None, artifact_root: Path | None) -> None:
    """Let runs find their files again after the folder with the database and the files was moved or copied.

    MLflow keeps absolute paths, and would write the files of later runs to the old place.
    """
    if database is None or artifact_root is None or database.resolve().parent != artifact_root.resolve().parent:
        return
    here = artifact_root.resolve().as_uri()
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        known = connection.execute("select distinct artifact_location from experiments").fetchall()
        for (old,) in known:
            if old != here and old.startswith("file:") and old.endswith(f"/{artifact_root.name}"):
                moved = (here, len(old) + 1, len(old) + 1, f"{old}/")
                connection.execute(
                    "update experiments set artifact_location = ? where artifact_location = ?", (here, old)
                )
                connection.execute(
                    "update runs set artifact_uri = ? || substr(artifact_uri, ?) where substr(artifact_uri, 1, ?) = ?",
                    moved,
                )


def _experiment_id(client: MlflowClient, name: str, artifact_root: Path | None) -> str:
    """The MLflow experiment of that name, created when missing."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = artifact_root.resolve().as_uri() if artifact_root else None
        return str(client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _runs(client: MlflowClient, experiment_id: str, sweep_id: str) -> Iterator[Run]:
    """All runs of the sweep, parent included, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.sweep = '{sweep_id}'", 1, RUNS_PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _create_parent(client: MlflowClient, experiment_id: str, sweep: Sweep) -> Run:
    tags = {"kind": "sweep", "sweep": sweep.sweep_id, "axes": ", ".join(sweep.axes)}
    tags["mlflow.note.content"] = sweep.description
    parent = client.create_run(experiment_id, tags=_shortened(tags), run_name=sweep.name)
    with suppress(Exception):  # the end of the sweep writes it again, and tells
        client.log_text(parent.info.run_id, sweep.experiment_yaml, "experiment.yaml")
    return parent


def _is_refusal(error: Exception) -> bool:
    """Whether MLflow answered that it will not take this, rather than that it cannot now."""
    code = getattr(error, "error_code", None)
    return code in REFUSALS if code else not isinstance(error, OSError)


def _reason(error: Exception, uri: str) -> str:
    """The cause in a few words, without passwords."""
    text = without_secrets_of(uri, " ".join(str(getattr(error, "orig", error)).split()))
    for pattern, reason in (
        (r"(?i)refused", "connection refused"),
        (r"(?i)timed out|timeout", "no answer in time"),
        (r"(?i)name or service|resolve|getaddrinfo|name resolution", "unknown host"),
        (r"(?i)locked", "the database is locked"),
        (r"table \S+ already exists|duplicate column", "a run was killed while it made this database: move it away"),
    ):
        if re.search(pattern, text):
            return reason
    return textwrap.shorten(text or type(error).__name__, 160, placeholder=" …").rstrip(".")


def _joined(steps: Iterable[int]) -> str:
    return ",".join(map(str, sorted(steps)))


def _chunks(items: list[T], size: int) -> list[list[T]]:
    """Lists of at most `size` items; at least one list, empty for no items."""
    return [items[i : i + size] for i in range(0, len(items), size)] or [[]]


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 1] + "…"


def _shortened(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _short(value) for key, value in tags.items()}


def _trials(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"


def _now_ms() -> int:
    return int(time.time() * 1000)


def serve(folder: str, *, host: str, port: int) -> int:
    """Run MLflow's server on a results folder until it ends or Ctrl-C; gives its exit status.

    Raises:
        ValueError: there is no MLflow database beside the folder.
    """
    if "://" in folder:
        raise ValueError(f"{folder} is a bucket: open the address of its tracking server in a browser")
    root = Path(folder).resolve()
    database = next((p / "mlflow.db" for p in (root, root.parent) if (p / "mlflow.db").exists()), None)
    if database is None:
        raise ValueError(
            f"{folder} has no mlflow.db beside it; give a results folder, or the server's own address to a browser"
        )
    os.environ.update(MLFLOW_ENVIRONMENT)
    print(f"MLflow at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    uri = f"sqlite:///{database}"
    command = ["mlflow", "server", "--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    ends = (signal.SIGTERM, signal.SIGINT)  # a shell may have started this with Ctrl-C ignored
    before = [signal.signal(number, signal.default_int_handler) for number in ends]
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in zip(ends, before, strict=True):
            signal.signal(number, handler)
        _end_group(server)


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process and those it has started: MLflow's server leaves its workers behind when it is ended alone."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
    try:
        leader.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(leader.pid, signal.SIGKILL)
