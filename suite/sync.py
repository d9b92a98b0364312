"""Deliver to MLflow what a results folder has: after a tracking server was away for good, or to another one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from suite.delivery import NOWHERE, Delivery
from suite.loading import load_experiment
from suite.progress import Observer
from suite.redaction import HIDDEN
from suite.results import Results, ResultsError
from suite.run import described, read_sweep, write_sweep
from suite.storage import at_hand, locked, storage_at
from suite.trials import expand


@dataclass(frozen=True)
class Synced:
    """What a delivery came to."""

    folder: Path | str
    counts: dict[str, int]
    """Trials of the folder by status."""
    tracking_uri: str
    """Without passwords."""
    problem: str | None
    """What could not be delivered, and what to do."""

    @property
    def words(self) -> str:
        """For the terminal."""
        trials = ", ".join(f"{number} {status}" for status, number in sorted(self.counts.items()))
        return self.problem or f"MLflow at {self.tracking_uri} has all of {self.folder}: {trials}."


def sync(root: Path | str, *, tracking_uri: str | None = None, observer: Observer | None = None) -> Synced:
    """Bring MLflow up to date with a results folder; what is there already stays as it is, and nothing comes twice.

    Without a tracking URI, it goes to where the last run was told to write.

    Raises:
        ResultsError: the folder holds no results, or they are damaged.
        ValueError: the last run's tracking URI had a password, which is not kept, and no other is given.
        LockedError: a run is at work in the folder.
    """
    folder, observer = storage_at(root), observer or Observer()
    if not folder.exists("sweep.json"):
        raise ResultsError(f"{root} holds no results; give a folder such as results/quickstart")
    if not folder.exists("experiment.yaml"):
        raise ResultsError(f"{root} has no tables yet; the command that began it, run again, goes on and delivers")
    with at_hand(folder, ["experiment.yaml"]) as here:
        experiment = load_experiment(here / "experiment.yaml")
    trials = expand(experiment).trials
    with locked(folder) as lock:
        sweep, saved = read_sweep(folder, experiment), Results.open(folder)
        saved.drop_incomplete(trials)
        saved.judge(experiment.levels)
        counts = dict(Counter(saved.outcome(trial.trial_id)["status"] for trial in trials))
        delivered: list[str] = []  # whatever was delivered before is looked at again
        delivery = Delivery(
            trials,
            saved,
            described(experiment, sweep, trials),
            tracking_uri=_where(tracking_uri, sweep.get("tracking_uri")),
            delivered=delivered,
        )
        with observer.stage(f"writing to MLflow at {delivery.public_uri}"):
            delivery.start()
            delivery.finish(counts=counts, interrupted="pending" in counts)
        is_whole = not delivery.problem and not saved.num_taken  # commits may tell of trials that the tables do not
        lock.check()
        write_sweep(folder, sweep | {"delivered": sorted({*sweep["delivered"], *delivered}) if is_whole else []})
    return Synced(root, counts, delivery.public_uri, delivery.problem)


def _where(given: str | None, kept: str | None) -> str | None:
    """The tracking URI to deliver to; None for the folder's own database."""
    if given == NOWHERE:
        raise ValueError(f"--tracking-uri {NOWHERE} is nowhere to deliver to; give a server or a database")
    if given is None and kept is not None and HIDDEN in kept:
        raise ValueError(
            f"the last run wrote to {kept}, of which the password is not kept; give it whole with --tracking-uri"
        )
    return given or (None if kept == NOWHERE else kept)
