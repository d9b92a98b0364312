"""From committed rows to MLflow: what a run knows of its trials, as the tracker wants it."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from suite.commits import Commit
from suite.data.pairs import draw_pairs
from suite.data.source import Source
from suite.redaction import HIDDEN, redacted
from suite.results import Results
from suite.storage import Storage, at_hand
from suite.sweep_page import CURVES, DataSet, Sweep, note
from suite.tables import Row
from suite.tracking import PATIENCE_SECONDS, Snapshot, Tracker, TrialUpdate, is_due
from suite.tracking_store import default_tracking_uri, sqlite_file
from suite.trials import ENDED, Trial, flat_settings

SUMMARY = (
    "scaled_grad_norm_sq",
    "loss",
    "stationary",
    "unstable",
    "scaled_grad_norm_sq_float64",
    "lambda_max",
    "lambda_min",
    "descent_regime",
    "violating_share",
    "steps",
    "time",
    "learning_rate",
    "displacement",
    "relative_displacement",
    "slack",
    "num_parameters",
    "wall_seconds",
)
TAGS = {
    "end_point": "kind",  # "kind" tells sweeps and trials apart
    **{
        name: name
        for name in (
            "ended_by",
            "code_version",
            "torch_version",
            "python_version",
            "ray_version",
            "hardware",
            "host",
            "slots",
            "lane",
        )
    },
}
"""Tags of a trial's run, and the columns they hold."""
SHOWN = ["trial_id", "step", "timestamp_ms", "final", *CURVES]
"""The columns of records that the tracker looks at."""
MOST_DATA_SETS = 20
STATUSES = ("pending", "running", "finished", "diverged", "timeout", "failed")
NOWHERE = "none"
"""The tracking URI that leaves MLflow out."""
ARTIFACTS = ("trials.parquet", "passages.parquet", "records.parquet", "fits.json", "report.html", "figures")


class Delivery:
    """Feeds one tracker from the results of one run. Opens MLflow only if something is not there yet."""

    def __init__(
        self, trials: list[Trial], saved: Results, sweep: Sweep, *, tracking_uri: str | None, delivered: list[str]
    ) -> None:
        self._uri = resolve_tracking_uri(tracking_uri, saved.folder)
        self._trials = {trial.trial_id: trial for trial in trials}
        self._saved, self._sweep = saved, sweep
        self._delivered = delivered
        self._tracker: Tracker | None = None
        self._last_shown: int | None = None
        self._standing: Mapping[str, float] = {}

    @property
    def public_uri(self) -> str:
        """Where the runs are, without passwords."""
        return redacted(self._uri)

    @property
    def _mark(self) -> str:
        return hashlib.sha256(self.public_uri.encode()).hexdigest()[:12]

    @property
    def up_to_date(self) -> bool:
        """Whether MLflow has all of these results from earlier."""
        if self._uri == NOWHERE:
            return True
        database = sqlite_file(self._uri)
        return self._mark in self._delivered and (database is None or database.exists())

    def start(self) -> None:
        """Open MLflow in the background and deliver what is known from earlier runs, if it is not there."""
        known = [] if self.up_to_date else [i for i in self._trials if i in self._saved.outcomes]
        self._delivered.clear()
        if self._uri == NOWHERE:
            return
        root = self._saved.folder.root
        database = sqlite_file(self._uri)
        beside = root if isinstance(root, Path) else database  # with neither, the server says where files go
        self._tracker = Tracker(self._uri, self._sweep, None if beside is None else beside.parent / "mlartifacts")
        if known:
            records = self._saved.records(SHOWN).groupby("trial_id", sort=False)
            self._tracker.deliver(
                self._update(i, records.get_group(i).to_dict("records") if i in records.groups else []) for i in known
            )

    def commit(self, commit: Commit) -> None:
        """Deliver what a commit says."""
        if self._tracker is None:
            return
        rows: dict[str, list[Row]] = {trial_id: [] for trial_id in commit.running}
        rows |= {trial_id: [] for trial_id in commit.outcomes["trial_id"].to_pylist()}
        for row in commit.records.select(SHOWN).to_pylist():
            rows.setdefault(row["trial_id"], []).append(row)
        self._tracker.deliver(self._update(i, part, commit.running) for i, part in rows.items() if i in self._trials)

    def failed(self, trial_id: str) -> None:
        """Deliver that a trial cannot be trained."""
        if self._tracker is not None:
            self._tracker.deliver([self._update(trial_id, [])])

    @property
    def wants_progress(self) -> bool:
        """Whether it is time to show how the sweep stands."""
        return self._tracker is not None and is_due(self._seconds(), self._last_shown)

    def progress(self, counts: Mapping[str, int], others: Mapping[str, float]) -> None:
        """Show how the sweep stands: trials by status, and further numbers."""
        if self._tracker is not None:
            self._last_shown = self._seconds()
            values = {**trial_metrics(counts), **others}
            values["trials_pending"] -= values["trials_running"]
            self._tracker.progress(Snapshot(self._last_shown, round(time.time() * 1000), values))

    def trained(self, standing: Mapping[str, float]) -> None:
        """Keep how training ended, for the end of the sweep."""
        self._standing = standing

    def _seconds(self) -> int:
        """Since the sweep was begun."""
        return max(0, round(time.time() - self._sweep.created_ms / 1000))

    def finish(self, *, counts: Mapping[str, int], interrupted: bool) -> None:
        """Deliver the end of the sweep with its files, and wait until all is there or cannot be."""
        if self._tracker is None:
            return
        pending = [
            i for i in self._trials if self._saved.outcome(i)["status"] == "pending" and i in self._saved.outcomes
        ]
        self._tracker.deliver(self._update(trial_id, []) for trial_id in pending)
        status = "interrupted" if interrupted else "failed" if set(counts) - set(ENDED) else "finished"
        patience = 0.0 if interrupted else PATIENCE_SECONDS
        with at_hand(self._saved.folder, ARTIFACTS) as here:
            files = [here / name for name in ARTIFACTS if (here / name).exists()]
            text = note(self._sweep, counts, _answers(here))
            self._tracker.finish(files, status, {**self._standing, **trial_metrics(counts)}, text, step=self._seconds())
            self._tracker.close(timeout=60 + patience + 0.2 * self._tracker.pending(), patience=patience)
        if self._tracker.problem is None:
            self._delivered.append(self._mark)

    def abandon(self) -> None:
        """End the tracker after an error."""
        if self._tracker is not None:
            self._tracker.close(timeout=5.0)

    @property
    def problem(self) -> str | None:
        """What is not in MLflow, and what to do."""
        if self._tracker is None or self._tracker.problem is None:
            return None
        command = f"stillpoint sync {shlex.quote(str(self._saved.folder.root))}"
        if HIDDEN in self.public_uri:
            command += " --tracking-uri URI"
        return f"{self._tracker.problem} The results folder has it all; `{command}` delivers what is missing."

    def _update(self, trial_id: str, records: Sequence[Mapping[Any, Any]], running: Container[str] = ()) -> TrialUpdate:
        trial, known = self._trials[trial_id], self._saved.outcome(trial_id)
        ended = known["status"] in ENDED
        ended_ms = milliseconds(known.get("ended_at"))
        return TrialUpdate(
            trial_id=trial_id,
            name=trial.name,
            params=flat_settings(trial),
            status="running" if trial_id in running else known["status"],
            error=known.get("error"),
            records=records,
            summary={f"final_{name}": known.get(name) for name in SUMMARY} if ended else {},
            summary_step=int(known.get("steps") or 0),
            summary_timestamp_ms=ended_ms or 0,
            tags={name: str(known[column]) for name, column in TAGS.items() if column in known},
            started_ms=milliseconds(known.get("started_at")),
            ended_ms=ended_ms,
        )


def trial_metrics(counts: Mapping[str, int]) -> dict[str, float]:
    """Trials by status as metrics of the sweep; those of every status, so that one that is over falls to 0."""
    known = {f"trials_{status}": float(counts.get(status, 0)) for status in STATUSES}
    return known | {"trials_done": float(sum(counts.values()) - counts.get("pending", 0) - counts.get("running", 0))}


def _answers(folder: Path) -> list[str]:
    """The sentences of the last report."""
    try:
        return [str(words) for words in json.loads((folder / "fits.json").read_text(encoding="utf-8"))["answers"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def resolve_tracking_uri(given: str | None, folder: Storage) -> str:
    """Where runs go: as given, or the database beside the results.

    Raises:
        ValueError: results in a bucket have no database beside them, and nothing is given.
    """
    if given:
        return given
    if not isinstance(folder.root, Path):
        raise ValueError(
            f"{folder.root} has no room for MLflow's database: give an MLflow server with --tracking-uri, "
            f"or --tracking-uri {NOWHERE}"
        )
    return default_tracking_uri(folder.root.parent)


def kept_uri(given: str | None) -> str | None:
    """What a results folder remembers of a tracking URI: nothing secret, and a database by its absolute path."""
    database = None if given is None else sqlite_file(given)
    if database is not None and not database.is_absolute():
        return f"sqlite:///{database.absolute()}"
    return None if given is None else redacted(given)


def grid(axes: Sequence[str], trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """Values of every axis, in the order of the trials."""
    settings = [flat_settings(trial) for trial in trials]
    return {axis: list(dict.fromkeys(str(flat[axis]) for flat in settings if axis in flat)) for axis in axes}


def data_sets(trials: Sequence[Trial], files: Mapping[str, str]) -> tuple[DataSet, ...]:
    """The data sets that the trials draw from, with the digests of the files they read; the first few."""
    seeds = {trial.settings.data: trial.settings.seed for trial in reversed(trials)}
    return tuple(_data_set(source, seed, files) for source, seed in list(seeds.items())[: -MOST_DATA_SETS - 1 : -1])


def _data_set(source: Source, seed: int, files: Mapping[str, str]) -> DataSet:
    settings = source.model_dump(mode="json", exclude_none=True)
    read = {path: files[path] for path in source.files if path in files}
    digest = hashlib.sha256(json.dumps([settings, read], sort_keys=True).encode()).hexdigest()[:16]
    profile = {"num_rows": source.samples, "has_labels": source.has_labels}
    with suppress(ValueError, OSError):  # files of the user's that are gone since
        pairs = draw_pairs(source, seed)
        profile |= {"query_dim": pairs.query.shape[1], "key_dim": pairs.key.shape[1]}
    return DataSet(source.source, digest, settings | ({"files": read} if read else {}), profile)


def milliseconds(moment: str | None) -> int | None:
    """Since the epoch."""
    return None if moment is None else round(datetime.fromisoformat(moment).timestamp() * 1000)
