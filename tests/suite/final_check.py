"""The check that every failure ends with: nothing planned is missing, nothing is there twice, no number changed."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from suite import tracking_store
from suite.loading import load_experiment
from suite.trials import ENDED, expand

Tables = dict[str, pd.DataFrame]


class Terminal(Protocol):
    """Where commands run, with results in a folder of that name."""

    folder: Path


KEYS = {"trials": ["trial_id"], "records": ["trial_id", "step"], "passages": ["trial_id", "epsilon", "relative"]}
CLOCKS = ["timestamp_ms", "wall_seconds", "started_at", "ended_at"]
WHENCE = ["checkpoint", "epoch", "attempt", "lane", "host"]
STATES = {"finished": "FINISHED", "diverged": "FINISHED", "failed": "FAILED", "timeout": "KILLED"}
"""What MLflow calls a trial that ended so."""
FIRST_STEPS, ROUNDING = 10, 1e-4
"""Where another number of slots may change rounding, so much is allowed in so many steps."""


def tables(folder: Path) -> Tables:
    """The three tables, without clock times and without what says in which attempt a row was made."""
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in KEYS}
    return {
        name: frame.drop(columns=[*CLOCKS, *WHENCE], errors="ignore").sort_values(KEYS[name], ignore_index=True)
        for name, frame in frames.items()
    }


def assert_same(one: Tables, other: Tables) -> None:
    """Bit for bit."""
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True, obj=name)


def children(results: Path, *, tracking_uri: str | None = None) -> list[Any]:
    """All child runs of all experiments of a store, by default the one beside the results folders."""
    client = tracking_store.open_client(tracking_uri or tracking_store.default_tracking_uri(results))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found, page = [], None
    while True:
        runs = client.search_runs(experiments, max_results=1000, page_token=page)
        found += [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        page = runs.token
        if not page:
            return found


def check_complete(
    terminal: Terminal, name: str, calm: Tables, *, tracking_uri: str | None = None, failures: int = 0
) -> None:
    """Fail unless a sweep has all that was planned, once, as the tables `calm` of an undisturbed run have it.

    `failures` trials have to be named as such, with their reason.
    """
    folder = terminal.folder / "results" / name
    found = list(wrongs(folder, calm, tracking_uri=tracking_uri, failures=failures))
    assert not found, "\n".join(found)


def wrongs(folder: Path, calm: Tables, *, tracking_uri: str | None = None, failures: int = 0) -> Iterator[str]:
    """All that is not as it should be, in words."""
    planned = [trial.trial_id for trial in expand(load_experiment(folder / "experiment.yaml")).trials]
    raw = {name: pd.read_parquet(folder / f"{name}.parquet") for name in KEYS}
    yield from _not_once("trials.parquet", planned, raw["trials"].trial_id)
    yield from _unnamed(raw["trials"], failures)
    yield from _not_in_order(raw)
    yield from _not_in_mlflow(children(folder.parent, tracking_uri=tracking_uri), planned, raw["trials"])
    yield from _changed(tables(folder), calm)


def _not_once(where: str, planned: list[str], there: pd.Series) -> Iterator[str]:
    counts = Counter(there)
    for trial_id in planned:
        if counts[trial_id] != 1:
            yield f"{where} has {trial_id} {counts[trial_id]} times"
    for trial_id in counts.keys() - set(planned):
        yield f"{where} has {trial_id}, which was not planned"


def _unnamed(trials: pd.DataFrame, failures: int) -> Iterator[str]:
    """Trials that neither finished nor say why."""
    named = trials[trials.status.isin(["failed", "timeout"])]
    for row in trials[~trials.status.isin([*ENDED, "failed", "timeout"])].itertuples():
        yield f"{row.trial_id} is {row.status}"
    for row in named[named.error.isna() | (named.error == "")].itertuples():
        yield f"{row.trial_id} is {row.status}, for no reason"
    if len(named) != failures:
        yield f"{len(named)} trials failed, not {failures}: {dict(named.set_index('trial_id').error)}"


def _not_in_order(raw: Tables) -> Iterator[str]:
    """Records that do not strictly increase in step, and passages that are there twice."""
    for trial_id, steps in raw["records"].groupby("trial_id").step:
        if not (steps.diff().dropna() > 0).all():
            yield f"records of {trial_id} do not increase in step: {steps.tolist()}"
    if raw["passages"].duplicated(KEYS["passages"]).any():
        yield "passages.parquet has a row twice"


def _not_in_mlflow(runs: list[Any], planned: list[str], trials: pd.DataFrame) -> Iterator[str]:
    """One child run for each trial, in the state that its row has."""
    yield from _not_once("MLflow", planned, pd.Series([run.data.tags["trial_id"] for run in runs], dtype=str))
    states = {run.data.tags["trial_id"]: run.info.status for run in runs}
    for trial_id, status in zip(trials.trial_id, trials.status, strict=True):
        if states.get(trial_id) != STATES.get(status):
            yield f"{trial_id} is {status}, and {states.get(trial_id)} in MLflow"


def _changed(found: Tables, calm: Tables) -> Iterator[str]:
    """Survivors with other numbers than in the undisturbed run: any other bit where the slots are the same."""
    trials = found["trials"]
    alive = trials[trials.status.isin(ENDED)].set_index("trial_id").slots
    slots = calm["trials"].set_index("trial_id").slots
    failed = len(alive) < len(trials)
    same = {trial_id for trial_id in alive.index if slots.get(trial_id) == alive[trial_id]}
    for name in KEYS:
        mine, other = (_of(same, frames[name]) for frames in (found, calm))
        try:
            # a trial that failed lacks numbers, for which pandas makes whole ones real
            pd.testing.assert_frame_equal(mine, other, check_exact=True, check_dtype=not failed, obj=name)
        except AssertionError as error:
            yield f"other numbers than in an undisturbed run: {error}"
    yield from _far(set(alive.index) - same, found["records"], calm["records"])


def _far(ids: set[str], found: pd.DataFrame, calm: pd.DataFrame) -> Iterator[str]:
    """Trials of other slots of which the first steps differ by more than rounding."""
    mine, other = (_of(ids, rows).set_index(["trial_id", "step"]) for rows in (found, calm))
    if not mine.index.equals(other.index):
        yield "trials of other slots have records of other steps than in an undisturbed run"
        return
    first = mine.index.get_level_values("step") <= FIRST_STEPS
    for name in ("loss", "scaled_grad_norm_sq"):
        if not np.allclose(mine[name][first], other[name][first], rtol=ROUNDING, atol=0):
            yield f"{name} of trials of other slots differs by more than rounding"


def _of(ids: set[str], frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.trial_id.isin(ids)].reset_index(drop=True)
