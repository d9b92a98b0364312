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
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from suite.one_transaction import one_transaction
from suite.redaction import redacted
from suite.sweep_page import CURVES, Sweep, links, note, view_tags
from suite.tracking_store import is_refusal, open_client, reason_of, relocate, set_environment, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
Rows = dict[int, Mapping[str, Any]]
TrialStatus = Literal["running", "finished", "diverged", "timeout", "failed", "pending"]

MAX_POINTS = 100
"""Metric points of one child run, over its whole life; whole curves are in records.parquet."""
POINTS_PER_DECADE = 3
LEAST_SECONDS = 5
"""Between two points of a sweep's progress."""
PROGRESS = "trials_done"
"""The metric that every snapshot of a sweep has."""

MLFLOW_STATUS: Mapping[str, str] = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "timeout": "KILLED",
    "pending": "KILLED",
    "interrupted": "KILLED",
}

NOTE = "mlflow.note.content"
"""The tag that the UI shows as a run's description."""
MAX_METRICS_PER_BATCH, MAX_PARAMS_PER_BATCH = 1000, 100
MAX_VALUE_LENGTH = 5000
RUNS_PER_PAGE = 1000
GATHER_SECONDS = 0.5
MOST_TOGETHER = 10
"""Trials written in one transaction: more of them would keep other writers of the same database waiting."""
ATTEMPTS_WHEN_CLOSING, RETRY_SECONDS_WHEN_CLOSING = 3, 5.0
PATIENCE_SECONDS = 60.0
"""How long the end of a sweep waits for a server that was there before: it may be on its way back from a restart."""


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


@dataclass(frozen=True)
class Snapshot:
    """How the whole sweep stands at one moment."""

    seconds: int
    """Since the sweep was begun; the step of its points."""
    timestamp_ms: int
    values: Mapping[str, float]


def is_due(seconds: int, last: int | None) -> bool:
    """Whether a snapshot is to be written: about 100 of them in a month, the first ones closer together."""
    return last is None or seconds >= last + max(LEAST_SECONDS, last / 8)


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
        set_environment()  # not in the thread: others may be copying os.environ
        importlib.import_module("concurrent.futures.thread")  # nor this: it locks around forks, and Ray may be at one
        self._uri, self._sweep, self._artifact_root = tracking_uri, sweep, artifact_root
        self._retry_seconds, self._retry_seconds_max = retry_seconds, retry_seconds_max
        self._changed = threading.Condition()
        self._backlog: dict[str, TrialUpdate] = {}
        self._ending: _Ending | None = None
        self._snapshot: Snapshot | None = None
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

    def progress(self, snapshot: Snapshot) -> None:
        """Have the parent run show how the sweep stands; only the last of those that wait is written, or none."""
        with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()

    def finish(
        self,
        artifacts: Iterable[Path],
        sweep_status: str,
        sweep_metrics: Mapping[str, float | None],
        description: str | None = None,
        *,
        step: int = 0,
    ) -> None:
        """Queue the end of the sweep, after all updates: files and folders onto the parent run, then its status."""
        with self._changed:
            self._ending = _Ending(tuple(artifacts), sweep_status, dict(sweep_metrics), description, step)
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
            while not (self._backlog or self._ending or self._closing or self._snapshot):
                self._trouble = None
                self._changed.wait()
                self._changed.wait_for(lambda: self._closing or self._ending, GATHER_SECONDS)
            waiting: list[Job] = list(itertools.islice(self._backlog.values(), most))
            if self._snapshot and most > 1 and not self._closing:  # a hint, which goes before it is written
                waiting.append(self._snapshot)
            self._snapshot = None
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
            job = jobs[0] if len(jobs) == 1 else None
            if job and failures > 1 and is_refusal(error) and not isinstance(job, Snapshot):
                what = job.trial_id if isinstance(job, TrialUpdate) else "the sweep itself"
                self._refused[what] = reason_of(error, self._uri)
                self._done(jobs)
                return False
            self._trouble = f"cannot be written ({reason_of(error, self._uri)})"
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
    step: int


Job = TrialUpdate | Snapshot | _Ending


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
        self._shown: int | None = None

    @classmethod
    def opened(cls, uri: str, sweep: Sweep, artifact_root: Path | None) -> _Mirror:
        """Connect, make what is missing, and look all runs of the sweep up once."""
        client = open_client(uri)
        relocate(sqlite_file(uri), artifact_root)
        experiment_id = _experiment_id(client, sweep.name, None if uri.startswith("http") else artifact_root)
        runs = list(_runs(client, experiment_id, sweep.sweep_id))
        found = next((run for run in runs if run.data.tags.get("kind") == "sweep"), None)
        parent = found or _create_parent(client, experiment_id, sweep)
        with suppress(Exception):  # nobody's results, and made good the next time
            _set_view(client, experiment_id, sweep)
            _log_data_sets(client, parent, sweep)
        mirror = cls(client, sweep, experiment_id, parent)
        mirror._children = {t: _Child.of(run) for run in runs if (t := run.data.tags.get("trial_id"))}
        return mirror

    def write(self, jobs: Sequence[Job]) -> None:
        """Bring trials, or the sweep, up to date; several trials together, or none of them."""
        with self._together() if len(jobs) > 1 else nullcontext():
            for job in jobs:
                if isinstance(job, _Ending):
                    self._end(job)
                elif isinstance(job, Snapshot):
                    self._show(job)
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

    def _show(self, snapshot: Snapshot) -> None:
        """Points of the sweep as a whole, unless the last ones are recent."""
        from mlflow.entities import Metric

        if not is_due(snapshot.seconds, self._last_shown()):
            return
        metrics = [
            Metric(key, value, snapshot.timestamp_ms, snapshot.seconds) for key, value in snapshot.values.items()
        ]
        for chunk in _chunks(metrics, MAX_METRICS_PER_BATCH):
            self._client.log_batch(self._parent.run_id, chunk)
        self._parent.latest |= snapshot.values
        self._shown = snapshot.seconds

    def _last_shown(self) -> int | None:
        """Step of the last snapshot, of earlier runs too."""
        if self._shown is None and PROGRESS in self._parent.latest:
            self._shown = max(m.step for m in self._client.get_metric_history(self._parent.run_id, PROGRESS))
        return self._shown

    def _end(self, ending: _Ending) -> None:
        run_id, client = self._parent.run_id, self._client
        client.log_text(run_id, self._sweep.experiment_yaml, "experiment.yaml")
        for path in ending.artifacts:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():
                client.log_artifact(run_id, str(path), "tables" if path.suffix == ".parquet" else None)
        step = max(ending.step, self._last_shown() or 0)  # of a clock that is behind, the last word would not count
        for key, value in ending.metrics.items():
            if value is not None and math.isfinite(value) and self._parent.latest.get(key) != float(value):
                client.log_metric(run_id, key, float(value), step=step)
                self._parent.latest[key] = float(value)
        if ending.description is not None:
            self._set_note(ending.description, [path.name for path in ending.artifacts])
        status = MLFLOW_STATUS[ending.status]
        if self._parent.status != status:
            client.set_terminated(run_id, status)
            self._parent.status = status

    def _set_note(self, text: str, artifacts: list[str]) -> None:
        names = {"tables" if name.endswith(".parquet") else name for name in artifacts} | {"experiment.yaml"}
        text = f"{text}\n\n{links(self._experiment_id, self._parent.run_id, names)}"
        for key, value in _shortened({"question": self._sweep.description, NOTE: text}).items():
            if self._parent.tags.get(key) != value:
                self._client.set_tag(self._parent.run_id, key, value)
                self._parent.tags[key] = value


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
    tags |= {"question": sweep.description, NOTE: note(sweep)}
    parent = client.create_run(experiment_id, tags=_shortened(tags), run_name=sweep.name)
    with suppress(Exception):  # the end of the sweep writes it again, and tells
        client.log_text(parent.info.run_id, sweep.experiment_yaml, "experiment.yaml")
    return parent


def _set_view(client: MlflowClient, experiment_id: str, sweep: Sweep) -> None:
    """Have the experiment's page open on the sweep."""
    known = client.get_experiment(experiment_id).tags
    for key, value in view_tags(sweep).items():
        if known.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def _log_data_sets(client: MlflowClient, parent: Run, sweep: Sweep) -> None:
    """The data sets, onto the parent alone; those that are there stay."""
    from mlflow.entities import Dataset, DatasetInput

    known = {
        (each.dataset.name, each.dataset.digest) for each in (parent.inputs.dataset_inputs if parent.inputs else ())
    }
    new = [
        DatasetInput(Dataset(d.name, d.digest, "code", json.dumps(d.source), profile=json.dumps(d.profile)), tags=[])
        for d in sweep.data_sets
        if (d.name, d.digest) not in known
    ]
    if new:
        client.log_inputs(parent.info.run_id, datasets=new)


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
