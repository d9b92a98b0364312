"""The main job, top down: trials, what is missing of them, lanes, training, tables, MLflow, report."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from suite.buckets import BucketError
from suite.columns import axis_column
from suite.data.files import check_unchanged, contents
from suite.experiment import Experiment, TrialSettings
from suite.failures import StorageError, is_full
from suite.lanes import (
    LIMITS,
    Cost,
    Lane,
    Timings,
    choose_slots,
    groups,
    plan_lanes,
    read_costs,
    shape_key,
    shape_titles,
)
from suite.load import Loads
from suite.loading import load_experiment
from suite.progress import Observer, duration
from suite.redaction import redacted
from suite.storage import DamagedError, Lock, Storage, at_hand, locked, storage_at
from suite.timings import TimingCache
from suite.trials import ENDED, Expansion, Task, Trial, expand, is_trained, lacks_measurement, missing

if TYPE_CHECKING:
    from analysis.report import Report
    from suite.delivery import Delivery
    from suite.orders import Order, Progress
    from suite.ray_metrics import RayMetrics
    from suite.results import Results
    from suite.sweep_page import Sweep

UNTIMED_SECONDS = 1e-3
"""Taken for a step of a trial that could not be timed."""
Calibrate = Callable[[dict[str, dict[str, Any]]], dict[str, Timings]]
"""Measures shapes, by their keys; each with the arguments of `suite.calibration.measure`."""

MERGE_SECONDS = 600.0
"""Least time between two merges of commits into tables while training goes on."""

REPORTED = ("trials.parquet", "passages.parquet", "records.parquet", "fits.json", "pictures.json", "figures")
"""What a report is made from."""

CHECK_SECONDS = 1.0
"""Time given to drawing the data of further seeds before a run."""


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    folder: Path | str
    """Where the results are: a folder, or the address of a bucket."""
    report: Report | None
    """None if the run was interrupted, or none was asked for."""
    counts: dict[str, int]
    """Trials by status."""
    num_trained: int
    num_measured: int
    """Trials that had ended before, and were only measured anew."""
    interrupted: bool
    tracking_uri: str

    @property
    def complete(self) -> bool:
        """Every planned trial finished or diverged."""
        return set(self.counts) <= set(ENDED)


def run(
    experiment: Experiment | str | Path,
    *,
    results: str | Path = "results",
    address: str | None = None,
    tracking_uri: str | None = None,
    observer: Observer | None = None,
    command: str | None = None,
    report: bool = True,
    dashboard: bool = False,
) -> Summary:
    """Train what is missing of an experiment, then analyse and report; doing it again trains nothing twice.

    Without `report`, nothing is fitted and no report is written. With the tracking URI `none`, MLflow is left out.
    With `dashboard`, Ray on this machine has its dashboard too, and tells where.

    Raises:
        ExperimentError, ValueError: the experiment or its data is not usable; nothing was written.
        LockedError: another process is writing to the same results folder.
        ClusterError: Ray cannot be reached.
        UnfinishedError: the disk is full, or no node is left; what was committed is kept.
    """
    from suite.delivery import resolve_tracking_uri
    from suite.results import Results

    _hush_notebooks()
    observer = observer or Observer()
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment)
    folder = storage_at(results, experiment.name)
    resolve_tracking_uri(tracking_uri, folder)
    expansion = expand(experiment)
    if expansion.num_duplicates:
        observer.notice(f"{expansion.num_duplicates} cells of the sweep repeat another one and are left out.")
    check_data(expansion.trials)
    if address is not None:
        from suite import scheduling

        scheduling.check_address(address)
    if dashboard:
        from suite import ray_metrics

        ray_metrics.check_dashboard()
    if address is None and not folder.exists("sweep.json"):
        from suite import scheduling

        scheduling.check_home()
    with locked(folder) as lock, interruption() as stopped:
        saved = Results.open(folder)
        job = _Run(experiment, expansion, folder, saved, lock, observer)
        job.command = redacted(command) if command else f"stillpoint run {experiment.name}.yaml"
        job.report, job.dashboard = report, dashboard
        return job.complete(address, tracking_uri, stopped)


def _hush_notebooks() -> None:
    """Ray, imported in a notebook, asks for widgets that are of no use here."""
    warnings.filterwarnings("ignore", message="IProgress not found")
    logging.getLogger("ray.widgets.util").setLevel(logging.ERROR)


def check_data(trials: list[Trial]) -> None:
    """Draw the trials' data, so that bad data ends a run before anything is written or trained.

    Every kind of data is drawn with one seed, and then the other seeds for at most CHECK_SECONDS. Data that is bad for
    a seed not drawn here fails its own trials, by name.

    Raises:
        ValueError: a source cannot give its pairs, or the coupling cannot use them.
    """
    from suite.data.pairs import check_views, draw_pairs

    draws = dict.fromkeys((t.settings.data, t.settings.coupling, t.settings.seed) for t in trials)
    first = {(source, coupling): seed for source, coupling, seed in reversed(draws)}
    for (source, coupling), seed in first.items():
        check_views(draw_pairs(source, seed), coupling)
    until = time.monotonic() + CHECK_SECONDS
    for source, seed in {(source, seed): None for source, _, seed in draws}:
        if time.monotonic() > until:
            return
        try:
            draw_pairs(source, seed)
        except ValueError as error:
            raise ValueError(f"{error} (seed {seed})") from None


class _Run:
    """One run on a locked folder."""

    command = ""
    """What the user typed, for the report."""
    report = True
    """Whether laws are fitted and a report is written."""
    dashboard = False
    """Whether Ray's dashboard is wanted."""

    def __init__(
        self,
        experiment: Experiment,
        expansion: Expansion,
        folder: Storage,
        saved: Results,
        lock: Lock,
        observer: Observer,
    ) -> None:
        self.experiment, self.trials, self.folder, self.saved = experiment, expansion.trials, folder, saved
        self._lock, self.epoch, self.observer = lock, max(lock.epoch, saved.next_epoch), observer
        self.sweep = read_sweep(folder, experiment) | {"num_trials": len(self.trials)}
        files = contents(trial.settings.data for trial in self.trials)
        check_unchanged(files, self.sweep.get("files", {}), results=folder.root)
        self.sweep["files"] = self.sweep.get("files", {}) | files
        for path in saved.damaged:
            observer.notice(f"{path} is damaged and does not count; what it held is trained again.")
        if incomplete := saved.drop_incomplete(self.trials):
            few = ", ".join(incomplete[:3]) + (", …" if len(incomplete) > 3 else "")
            observer.notice(f"{len(incomplete)} trials lack records or passages and are trained again: {few}")
        self._forget_lost_checkpoints()
        self.tasks = missing(self.trials, saved.outcomes, experiment)
        self.remeasured = self._notice_late_measurements()
        if self.tasks:
            saved.load()

    def _forget_lost_checkpoints(self) -> None:
        """A trained trial that is only to be measured is not trained again where its checkpoint is gone or damaged."""
        for trial in self.trials:
            known = self.saved.outcome(trial.trial_id)
            only_lacks = is_trained(trial, known, self.experiment) and lacks_measurement(known, self.experiment)
            if only_lacks and known.get("checkpoint") and not self._holds(known["checkpoint"], trial.trial_id):
                known.pop("checkpoint")

    def _holds(self, commit: str, trial_id: str) -> bool:
        """Whether a trial's state is there, and as it was written."""
        from suite.commits import decode_state

        try:
            decode_state(self.folder, commit, trial_id)
        except DamagedError:
            return False
        return True

    def _notice_late_measurements(self) -> set[str]:
        """Ids of the trials that are only measured, at their end; says so, and of which trials that cannot be done."""
        planned = {task.trial_id for task in self.tasks}
        ended = [
            t
            for t in self.trials
            if is_trained(t, known := self.saved.outcome(t.trial_id), self.experiment)
            and lacks_measurement(known, self.experiment)
        ]
        late = {trial.trial_id for trial in ended if trial.trial_id in planned}
        if late:
            self.observer.notice(
                f"{len(late)} trials ended before some measurements were asked for: they are made at the last step, "
                "from checkpoints; those of earlier records stay empty."
            )
        if lost := len(ended) - len(late):
            self.observer.notice(
                f"{lost} trials ended before some measurements were asked for, and kept no checkpoint: "
                "theirs stay empty, as where it is damaged."
            )
        return late

    def complete(
        self,
        address: str | None,
        tracking_uri: str | None,
        stopped: Callable[[], bool],
    ) -> Summary:
        """Train, merge, deliver to MLflow, report."""
        from suite.delivery import Delivery, kept_uri

        self.sweep["tracking_uri"] = kept_uri(tracking_uri)
        sweep, delivered = described(self.experiment, self.sweep, self.trials), self.sweep["delivered"]
        delivery = Delivery(self.trials, self.saved, sweep, tracking_uri=tracking_uri, delivered=delivered)
        with ExitStack() as connections:  # Ray takes a second to end, so that comes last
            try:
                return self._complete(delivery, address, stopped, connections)
            except BaseException as error:
                delivery.abandon()
                if is_full(error) or isinstance(error, BucketError):
                    raise StorageError(f"{self.folder.root}: {error}") from None
                raise

    def _complete(
        self, delivery: Delivery, address: str | None, stopped: Callable[[], bool], connections: ExitStack
    ) -> Summary:
        self.saved.judge(self.experiment.levels)
        if self.tasks or self.saved.num_taken or not delivery.up_to_date:
            delivery.start()
            self.write_sweep()
        interrupted = bool(self.tasks) and not self._train(address, delivery, stopped, connections)
        self.merge(closing=True)
        report = self._report() if self.report and not interrupted else None
        with self.observer.stage("writing to MLflow"):
            delivery.finish(counts=self.counts(), interrupted=interrupted)
        self.write_sweep()
        if delivery.problem:
            self.observer.notice(delivery.problem)
        return Summary(
            folder=self.folder.root,
            report=report,
            counts=self.counts(),
            num_trained=self._num_ended(lambda trial_id: trial_id not in self.remeasured),
            num_measured=self._num_ended(lambda trial_id: trial_id in self.remeasured),
            interrupted=interrupted,
            tracking_uri=delivery.public_uri,
        )

    def _num_ended(self, chosen: Callable[[str], bool]) -> int:
        ids = (task.trial_id for task in self.tasks if chosen(task.trial_id))
        return sum(self.saved.outcome(trial_id)["status"] in ENDED for trial_id in ids)

    def counts(self) -> dict[str, int]:
        """Planned trials by status."""
        counts: dict[str, int] = {}
        for trial in self.trials:
            status = self.saved.outcome(trial.trial_id)["status"]
            counts[status] = counts.get(status, 0) + 1
        return counts

    def merge(self, *, closing: bool = False) -> None:
        """Put what is known into the tables."""
        self._lock.check()
        self.saved.judge(self.experiment.levels)
        self.folder.write("experiment.yaml", experiment_yaml(self.experiment).encode())
        metadata = {
            "axes": swept_paths(self.experiment),
            "experiment": {
                "name": self.experiment.name,
                "description": self.experiment.description,
                "sweep_id": self.sweep["sweep_id"],
                "stationary_below": self.experiment.stationary_below,
                "stationary_below_relative": self.experiment.stationary_below_relative,
                "budget": self.experiment.budget.model_dump(),
                "resources": self.experiment.resources.model_dump(),
                "laws": [law.model_dump() for law in self.experiment.laws],
                "predictions": self.experiment.predictions,
                "slots": self._slots(),
            },
        }
        self.saved.merge(self.trials, metadata=metadata, closing_epoch=self.epoch if closing else None)

    def _train(
        self, address: str | None, delivery: Delivery, stopped: Callable[[], bool], connections: ExitStack
    ) -> bool:
        """Train what is missing; False if interrupted. Ray is left to `connections` to end."""
        from suite import scheduling

        needed = self.experiment.resources
        with self.observer.stage("starting Ray"):
            page = connections.enter_context(scheduling.connected(address, dashboard=self.dashboard))
            num_workers = self._num_workers(address)
        if self.dashboard:
            words = f"is at http://{page}; it asks for what `ray get-auth-token` prints"
            self.observer.notice(f"Ray's dashboard {words if page else 'was not started with this cluster'}")
        board = scheduling.new_board()  # its process starts while the workers load their libraries
        if address is not None:
            with self.observer.stage("looking at the nodes"):
                self._check_nodes()
        with self.observer.stage("measuring how many trials to stack"):
            calibrate = partial(scheduling.calibrate, resources=needed, notice=self.observer.notice, stopped=stopped)
            try:
                costs = self.costs(calibrate, workers=num_workers)
            except scheduling.StoppedError:
                return False
        lanes = plan_lanes(self.tasks, costs, experiment=self.experiment, num_workers=num_workers)
        self._keep_slots(costs)
        watch = _Watch(self, lanes, costs, delivery, self._metrics(address))
        scheduler = scheduling.Scheduler(
            self.folder,
            watch,
            board,
            resources=needed,
            num_workers=num_workers,
            tick=lambda: watch.tick() and not stopped(),
        )
        orders = [self._order(lane, {"ray_version": scheduling.ray_version()}) for lane in lanes]
        try:
            return scheduler.run(orders)
        finally:
            watch.tell_metrics()
            self.observer.trained()
            delivery.trained(watch.standing())

    def _metrics(self, address: str | None) -> RayMetrics | None:
        """Where a dashboard may show them: on a cluster, or on this machine if asked for."""
        if address is None and not self.dashboard:
            return None
        from suite.ray_metrics import RayMetrics

        return RayMetrics(self.experiment.name)

    def _num_workers(self, address: str | None) -> int:
        """Lanes that will run side by side.

        Raises:
            ValueError: no lane has room on this machine, and there is no other.
        """
        from suite import scheduling

        needed = self.experiment.resources
        room = scheduling.num_lanes_at_once(needed)
        if not room:
            words = ", ".join(f"{name}: {value:g}" for name, value in scheduling.asked(needed).items())
            if address is None:
                raise ValueError(f"resources ask for {words} for each lane, and this machine has not that much")
            self.observer.notice(f"No node has room for a lane ({words}) yet; training begins when one joins that has.")
        return needed.workers or max(1, room)

    def _check_nodes(self) -> None:
        """See that every node runs the same versions and can write results.

        Raises:
            ClusterError: one does not.
        """
        from suite import scheduling
        from suite.nodes import clock_words, differences, versions

        reports, silent = scheduling.inspect_nodes(self.folder, self._lock.name)
        problems = [
            f"node {r.host}: {words}"
            for r in reports
            for words in [*differences(versions(), r.versions), *([r.storage] if r.storage else [])]
        ]
        if problems:
            raise scheduling.ClusterError("; ".join(problems) + ". `stillpoint doctor` shows all nodes")
        for address, words in silent.items():
            self.observer.notice(f"node {address} {words}")
        for report in reports:
            if late := clock_words(report):
                self.observer.notice(f"node {report.host}: {late}")

    def _order(self, lane: Lane, ray_version: dict[str, str]) -> Order:
        from suite.nodes import versions
        from suite.orders import Order

        experiment, needed = self.experiment, self.experiment.resources
        return Order(
            root=self.folder.root,
            epoch=self.epoch,
            lane=lane.name,
            attempt=1,
            tasks=lane.tasks,
            slots=lane.slots,
            threads=needed.cpus,
            device="cuda" if needed.gpus else "cpu",
            budget=experiment.budget,
            stop_below=experiment.stop_below,
            stop_share=experiment.stop_share,
            levels=experiment.levels,
            measure=experiment.measure,
            keep_states=experiment.checkpoints == "final",
            versions=ray_version | {"code_version": version("stillpoint")},
            expected=versions(),
            mark=self._lock.name,
        )

    def costs(self, calibrate: Calibrate, *, workers: int) -> dict[str, Cost]:
        """Cost by shape: as chosen earlier in this folder, or chosen now."""
        earlier = read_costs(self.sweep.get("slots"))
        return shape_costs(
            self.tasks, self.trials, self.experiment, earlier=earlier, calibrate=calibrate, workers=workers
        )

    def _keep_slots(self, costs: dict[str, Cost]) -> None:
        titles = shape_titles({key: members[0].settings for key, members in groups(self.tasks).items()})
        self.sweep["slots"] = self.sweep.get("slots", {}) | {key: asdict(cost) for key, cost in costs.items()}
        self.sweep["shapes"] = self.sweep.get("shapes", {}) | titles
        self.write_sweep()

    def _slots(self) -> list[dict[str, Any]]:
        """How many trials of each shape were stacked, and why, for the report."""
        shapes = self.sweep.get("shapes", {})
        known = read_costs(self.sweep.get("slots"))
        return [
            {"shape": shapes[key], **asdict(cost), "why": LIMITS[cost.limit]}
            for key, cost in known.items()
            if key in shapes
        ]

    def write_sweep(self) -> None:
        """Keep what the folder must remember beside its tables."""
        write_sweep(self.folder, self.sweep)

    def _report(self) -> Report:
        with self.observer.stage("fitting laws, drawing figures"):
            return write_report(self.folder, command=self.command)


def write_report(folder: Storage, *, command: str | None = None) -> Report:
    """The report of these results, beside them.

    Raises:
        ValueError: there are none.
    """
    from analysis import report

    with at_hand(folder, REPORTED) as here:
        made = report.write_report(here, command=command, home=folder.root)
    return made if isinstance(folder.root, Path) else replace(made, path=folder.where("report.html"))


class _Watch:
    """Hears from lanes: keeps what is known up to date, feeds MLflow, shows progress, merges now and then."""

    def __init__(
        self,
        job: _Run,
        lanes: list[Lane],
        costs: dict[str, Cost],
        delivery: Delivery,
        metrics: RayMetrics | None,
    ) -> None:
        self._job, self._delivery, self._metrics = job, delivery, metrics
        self._lane = {task.trial_id: lane.name for lane in lanes for task in lane.tasks}
        self._left_in_lane = Counter(self._lane.values())
        self._key = {task.trial_id: lane.shape for lane in lanes for task in lane.tasks}
        self._loads = Loads()
        steps = job.experiment.budget.steps
        self._price = {i: costs[key].seconds_per_step for i, key in self._key.items()}
        self._target = {task.trial_id: max(1, steps - task.step) for task in job.tasks}
        self._begun = {task.trial_id: task.step for task in job.tasks}
        self._total = sum(self._price[i] * n for i, n in self._target.items())
        self._ended: set[str] = set()
        self._work_of_ended = 0.0
        self._at: dict[str, int] = {}
        self._unreadable: set[str] = set()
        self._steps: dict[tuple[str, int], int] = {}
        self._speed: deque[tuple[float, int]] = deque(maxlen=20)
        self._failed = 0
        self._next_merge = time.monotonic() + MERGE_SECONDS

    def committed(self, name: str) -> None:
        """Take in a commit and hand it to MLflow."""
        try:
            commit = self._job.saved.take(name)
        except DamagedError as error:
            self._job.observer.notice(f"{error}; the next run of this command trains again what it held.")
            return
        ended = commit.outcomes["trial_id"].to_pylist()
        self._job.saved.judge(self._job.experiment.levels, trial_ids=ended)
        self._end(ended)
        self._failed += sum(status not in ENDED for status in commit.outcomes["status"].to_pylist())
        self._delivery.commit(commit)
        if self._metrics is not None:
            trial_ids, values = (commit.records[name].to_pylist() for name in ("trial_id", "scaled_grad_norm_sq"))
            self._metrics.recorded(dict(zip(trial_ids, values, strict=True)))

    def _end(self, trial_ids: Iterable[str]) -> None:
        """These trials move no more, and a look at the progress need not visit them."""
        for trial_id in set(trial_ids) - self._ended:
            self._ended.add(trial_id)
            self._left_in_lane[self._lane[trial_id]] -= 1
            self._at.pop(trial_id, None)
            self._work_of_ended += self._price[trial_id] * self._target[trial_id]

    def progressed(self, progress: Progress) -> None:
        """Note how far a lane is."""
        self._at |= {i: step for i, step in progress.running.items() if i not in self._ended}
        for name in set(progress.unreadable) - self._unreadable:
            self._job.observer.notice(
                f"{self._job.folder.where(name)} is damaged: trials that were to go on from it "
                "take an earlier checkpoint, or begin anew."
            )
        self._unreadable |= set(progress.unreadable)
        self._steps[progress.lane, progress.attempt] = progress.steps_done
        self._loads.note(progress.host, progress.load)

    def remaining(self, task: Task) -> Task | None:
        """The task as it has to go on; None if the trial has ended."""
        known = self._job.saved.outcome(task.trial_id)
        if task.trial_id in self._ended:
            return None
        if known.get("checkpoint") is None or known["status"] == "failed":
            return task
        return replace(task, checkpoint=known["checkpoint"], step=known["steps"], seconds=known["wall_seconds"])

    def failed(self, trial_id: str, error: str, log_path: str | None) -> None:
        """Mark a trial that kills its worker."""
        self._job.saved.fail(trial_id, error, log_path)
        self._end([trial_id])
        self._failed += 1
        self._delivery.failed(trial_id)

    def given_up(self, attempt_folder: str) -> None:
        """Close an attempt."""
        self._job.saved.close_attempt(attempt_folder)

    def retried(self, words: str) -> None:
        """Tell the user."""
        self._job.observer.notice(words)

    def standing(self) -> dict[str, float]:
        """How far training is, beside its trials by status."""
        return {"lanes_done": self._lanes_done, "share_done": self._share()}

    @property
    def _lanes_done(self) -> int:
        return sum(left == 0 for left in self._left_in_lane.values())

    def _share(self) -> float:
        """Of all work."""
        work = self._work_of_ended + sum(self._price[i] * max(0, n - self._begun[i]) for i, n in self._at.items())
        return min(1.0, work / self._total)

    def tick(self) -> bool:
        """Show progress and merge if it is time; True to go on."""
        now = time.monotonic()
        self._speed.append((now, sum(self._steps.values())))
        self._job.observer.training(
            done=len(self._ended),
            total=len(self._target),
            failed=self._failed,
            share=self._share(),
            steps_per_second=self._steps_per_second,
        )
        self.tell_metrics()
        if self._delivery.wants_progress:
            running = {"trials_running": len(self._at)}
            self._delivery.progress(self._job.counts(), {**running, **self.standing(), **self._loads.metrics()})
        if now >= self._next_merge:
            self._job.merge()
            self._next_merge = time.monotonic() + max(MERGE_SECONDS, 20 * (time.monotonic() - now))
        return True

    @property
    def _steps_per_second(self) -> float:
        """Of late."""
        if not self._speed:
            return 0.0
        (t0, s0), (t1, s1) = self._speed[0], self._speed[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    def tell_metrics(self) -> None:
        """Say to Ray's metrics how it stands."""
        if self._metrics is not None:
            self._metrics.progressed(
                steps=sum(self._steps.values()),
                lanes_done=self._lanes_done,
                trials_done=len(self._ended),
                steps_per_second=self._steps_per_second,
            )


def shape_costs(
    tasks: list[Task],
    trials: list[Trial],
    experiment: Experiment,
    *,
    earlier: dict[str, Cost],
    calibrate: Calibrate,
    workers: int,
) -> dict[str, Cost]:
    """Cost by shape of these tasks, of the planned `trials`.

    Slots chosen once stay chosen, because bits depend on them, unless the experiment says another, or more trials are
    planned than there were and none that has begun is to go on.
    """
    prescribed = experiment.resources.slots
    shapes = groups(tasks)
    planned = Counter(shape_key(trial.settings) for trial in trials) if tasks else Counter()
    known = {}
    for key, members in shapes.items():
        goes_on = prescribed is None and any(task.checkpoint for task in members)
        if key in earlier and (goes_on or earlier[key].serves(planned[key], prescribed=prescribed)):
            known[key] = earlier[key]
    new = {key: members[0].settings for key, members in shapes.items() if key not in known}
    timings = _timings(new, planned, experiment, calibrate)
    return known | choose_slots(timings, planned, steps=experiment.budget.steps, workers=workers)


def _timings(
    shapes: dict[str, TrialSettings], planned: Mapping[str, int], experiment: Experiment, calibrate: Calibrate
) -> dict[str, Timings]:
    """As measured earlier on this machine, if enough was tried for so many trials, or measured now."""
    needed = experiment.resources
    device = "cuda" if needed.gpus else "cpu"
    try:
        cache = TimingCache(device=device, threads=needed.cpus, memory=needed.memory, slots=needed.slots)
    except ValueError:
        cache = None  # it is other nodes that have GPUs
    kept = cache.read() if cache is not None and shapes else {}
    known = {key: kept[key] for key in shapes if key in kept and kept[key].serve(planned[key])}
    fixed = {"threads": needed.cpus, "gpus": needed.gpus, "memory": needed.memory, "slots": needed.slots}
    unknown = {
        key: {"settings": settings, "num_trials": planned[key], **fixed}
        for key, settings in shapes.items()
        if key not in known
    }
    if unknown:
        measured = calibrate(unknown)
        if cache is not None:
            cache.add(measured)
        guess = Timings({needed.slots or 1: UNTIMED_SECONDS}, "untimed")
        known |= {key: measured.get(key, guess) for key in unknown}
    return known


def saved_slots(folder: Storage, experiment: Experiment) -> dict[str, Cost]:
    """Slots chosen earlier in this folder, by shape; none if there is no such folder.

    Raises:
        ResultsError: the file that has them is damaged.
    """
    return read_costs(read_sweep(folder, experiment).get("slots")) if folder.exists("sweep.json") else {}


def read_sweep(folder: Storage, experiment: Experiment) -> dict[str, Any]:
    """What the folder remembers beside its tables; begun where there is nothing.

    Raises:
        ResultsError: the file that has it is damaged.
    """
    from suite.results import ResultsError

    if folder.exists("sweep.json"):
        try:
            return dict(json.loads(folder.read("sweep.json")))
        except ValueError as error:
            raise ResultsError(
                f"{folder.where('sweep.json')} is damaged ({error}); "
                "restore it, or remove it and begin a new sweep in MLflow"
            ) from None
    created = datetime.now(UTC).isoformat(timespec="seconds")
    sweep = {"sweep_id": uuid.uuid4().hex, "name": experiment.name, "created": created, "slots": {}, "delivered": []}
    write_sweep(folder, sweep)
    return sweep


def write_sweep(folder: Storage, sweep: Mapping[str, Any]) -> None:
    """Keep what the folder must remember beside its tables."""
    folder.write("sweep.json", json.dumps(sweep, indent=1).encode())


def described(experiment: Experiment, sweep: Mapping[str, Any], trials: list[Trial]) -> Sweep:
    """The sweep as MLflow shows it; `sweep` is what its folder remembers."""
    from suite.delivery import data_sets, grid, milliseconds
    from suite.sweep_page import Sweep

    axes = tuple(swept_paths(experiment))
    return Sweep(
        sweep["sweep_id"],
        experiment.name,
        experiment.description,
        axes,
        experiment_yaml(experiment),
        grid=grid(axes, trials),
        num_trials=len(trials),
        data_sets=data_sets(trials, sweep.get("files", {})),
        created_ms=milliseconds(sweep["created"]) or 0,
    )


def swept_paths(experiment: Experiment) -> list[str]:
    """Full paths of all swept settings, in order, as trials.parquet has them."""
    return [axis_column(path) for key, axis in experiment.sweep.items() for path in _paths_of(key, axis)]


def _paths_of(key: str, axis: Any) -> list[str]:
    return [path for group in axis for path in group] if key == "zip" else [key]


def experiment_yaml(experiment: Experiment) -> str:
    """The experiment as YAML that gives the same trials again."""
    content = experiment.model_dump(mode="json", exclude={"profiles"})
    first = {key: content.pop(key) for key in ("name", "description")}
    return yaml.safe_dump(first | content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into an answer to `stopped()`; a second one ends the process as usual."""
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        told.append(number)
        for known in before:
            signal.signal(known, before[known])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(summary: Summary, seconds: float) -> str:
    """One line on how a run went."""
    out_of_time = summary.counts.get("timeout", 0)
    complete = "nothing left to train" if summary.complete else "no trial ended"
    if out_of_time and set(summary.counts) <= {*ENDED, "timeout"}:
        complete = f"nothing left to train: {out_of_time} trials have used up budget.minutes"
    parts = [
        f"{n} trials {word}" for n, word in ((summary.num_trained, "trained"), (summary.num_measured, "measured")) if n
    ]
    return f"{', '.join(parts) or complete}, {duration(seconds)}"
