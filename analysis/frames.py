"""Tidy frames of a sweep, from a results folder or from MLflow; every later step of the analysis starts here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd
import pyarrow.parquet as pq

from analysis.observations import column_name

FORMAT_VERSION = 1
"""Newest version of the tables that this code reads."""
ENDED = ("finished", "diverged")
BUCKETS = ("s3", "gs", "abfs")
"""Kinds of addresses that are buckets of results; all others are MLflow's."""


@dataclass(frozen=True)
class Results:
    """One sweep: `trials` has a row per trial, `passages` per trial and threshold, `records` per measured step."""

    trials: pd.DataFrame
    passages: pd.DataFrame
    records: pd.DataFrame
    experiment: dict[str, Any]
    """Name, description, sweep id, stationary_below, budget and laws of the experiment."""
    axes: list[str]
    """Full paths of the swept settings."""
    folder: Path | None
    """None if read from a bucket or from MLflow."""

    def axis(self, name: str) -> str | None:
        """The swept path with this last component, such as `width`; None if it is not swept."""
        return next((axis for axis in self.axes if short(axis) == name and ".key." not in axis), None)


def short(path: str) -> str:
    """The last component of a setting's path; of a swept choice, such as `loss.choice`, its name."""
    return path.removesuffix(".choice").rpartition(".")[2]


def load_results(
    source: str | Path, *, experiment: str | None = None, record_columns: Sequence[str] | None = None
) -> Results:
    """Results of a sweep from a folder (RESULTS/<experiment>, or RESULTS with one experiment), from that of a bucket,
    or from an MLflow address.

    From MLflow come trials and thinned records; passages are empty there. Where the sweep holds linearized twins,
    records and trials have a column `twin_distance`; see analysis.twins. `record_columns` are those of the folder's
    records to read, all if left out: those of every layer take long to read where trials are many.

    Raises:
        ValueError: nothing of the kind is there, several are and `experiment` does not choose, or it is newer.
    """
    from analysis.twins import with_twin_distances

    scheme, found, _ = str(source).partition("://")
    if found and scheme not in BUCKETS:
        from analysis.mlflow_frames import load_from_mlflow

        return with_twin_distances(load_from_mlflow(str(source), experiment=experiment))
    folder = None if found else _folder(Path(source), experiment)
    place = folder or "/".join([str(source).rstrip("/"), *([experiment] if experiment else [])])
    trials, metadata = _read(f"{place}/trials.parquet")
    passages, _ = _read(f"{place}/passages.parquet")
    records, _ = _read(f"{place}/records.parquet", record_columns)
    results = Results(trials, passages, records, metadata["experiment"], metadata["axes"], folder)
    return with_twin_distances(results)


def read_records(folder: Path, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of a folder's records, those that are there."""
    return _read(f"{folder}/records.parquet", columns)[0]


def _folder(source: Path, experiment: str | None) -> Path:
    if experiment is None and (source / "trials.parquet").exists():
        return source
    found = {path.parent.name: path.parent for path in sorted(source.glob("*/trials.parquet"))}
    if experiment is not None and experiment in found:
        return found[experiment]
    if experiment is None and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ValueError(f"{source} holds no results (no trials.parquet); give a folder such as results/quickstart")
    wanted = "which one" if experiment is None else f"{experiment!r} is not among them"
    raise ValueError(f"{source} holds results of {', '.join(found)}: {wanted}? Pass experiment=NAME or its folder")


def _read(path: str, columns: Sequence[str] | None = None) -> tuple[pd.DataFrame, dict[str, Any]]:
    try:
        with _opened(path) as raw, pq.ParquetFile(raw) as file:
            table = file.read(columns, use_threads=False)
        metadata = {key.decode(): json.loads(text) for key, text in (table.schema.metadata or {}).items()}
        written_by = metadata["format_version"]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run the experiment again to complete its folder") from None
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a table of results: {error}") from None
    if written_by > FORMAT_VERSION:
        raise ValueError(
            f"{path} was written by a newer Stillpoint (format {written_by}); this one reads {FORMAT_VERSION}"
        )
    return table.replace_schema_metadata(None).to_pandas(), metadata


def _opened(path: str) -> IO[bytes]:
    """A file, or an object of a bucket, which another run may have replaced since it was last looked at."""
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    return cast(IO[bytes], fsspec.open(path, "rb", use_listings_cache=False).open())


def passage_frame(
    results: Results, *, epsilon: Sequence[float] | None = None, relative: bool = False, among: str = "descent"
) -> pd.DataFrame:
    """One row per trial and threshold with the trial's settings; a threshold not reached is `censored` at its end.

    Trials that start below a threshold, or end before their first step, are left out of it. `among` is `descent`
    (the descent regime) or `finished`.
    """
    trials = chosen_trials(results, among)
    passages = results.passages[results.passages.relative == relative]
    if epsilon is not None:
        near = [(passages.epsilon / wanted - 1).abs() < 1e-4 for wanted in epsilon]
        passages = passages[pd.concat(near, axis=1).any(axis=1)]
    rows = passages[~passages.at_init].merge(trials, on="trial_id", validate="many_to_one")
    censored = ~rows.reached.astype(bool)
    steps = rows.steps_to_stationarity.astype(float).where(~censored, rows.steps)
    time = rows.time_to_stationarity.where(~censored, rows.time)
    rows = rows.assign(censored=censored, steps_to_stationarity=steps, time_to_stationarity=time)
    return rows[steps > 0]


def chosen_trials(results: Results, among: str) -> pd.DataFrame:
    """Trials that finished; with `descent` only those in the descent regime."""
    trials = results.trials[results.trials.status == "finished"]
    return trials[trials.descent_regime.fillna(False).astype(bool)] if among == "descent" else trials


def law_frame(results: Results, spec: dict[str, Any]) -> pd.DataFrame:
    """The rows that a law of the experiment is fitted to; `censored` is there if its y can be.

    One of `twin_distance` is fitted to the trials that have a twin.
    """
    among = spec.get("among", "descent")
    if spec["y"] in results.passages.columns:
        thresholds = None if "epsilon" in spec["x"] else spec.get("epsilon")
        if spec.get("epsilon"):
            thresholds = spec["epsilon"]
        return passage_frame(results, epsilon=thresholds, relative=spec.get("relative", False), among=among)
    trials = chosen_trials(results, among)
    if spec["y"] in trials and len(trials) and trials[spec["y"]].isna().all():
        raise ValueError(f"{spec['y']} was not measured at the end of these trials: ask for it with `measure`")
    return trials[trials[spec["y"]].notna()] if spec["y"] == "twin_distance" and spec["y"] in trials else trials


def resolve_axis(results: Results, frame: pd.DataFrame, name: str) -> str:
    """The full column name: swept paths go before others with the same last component.

    Raises:
        ValueError: no such column, or several.
    """
    return results.axis(name) or column_name([c for c in frame.columns if not frame[c].isna().all()], name)
