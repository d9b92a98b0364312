"""A results folder: what is known of every trial, from the merged tables and from the commits not merged yet.

Reading order on opening: trials.parquet, passages.parquet, records.parquet, then commits of later epochs. Writing
order in `merge`: rows first, trials.parquet last, and only then are superseded commits deleted; so a kill between
any two writes loses nothing, and reading again doubles nothing.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from suite.commits import Address, Commit, decode
from suite.measurement.certificate import STATIONARY, Levels, kind_of
from suite.storage import DamagedError, Folder
from suite.tables import FORMAT_VERSION, OUTCOMES, PASSAGES, RECORDS, Row, table
from suite.training.records import is_record_step, record_steps
from suite.trials import ENDED, Trial, flat_settings

UNPLANNED = "unplanned/"
DESCENT_REGIME_SHARE = 0.01
"""A trial is in the descent regime if at most this share of its steps violates descent."""
_SAVED = -1
_PENDING: Row = {"status": "pending"}


class ResultsError(ValueError):
    """The folder cannot be read as results."""


@dataclass
class Results:
    """Everything saved about the trials of one experiment, planned now or earlier."""

    folder: Folder
    outcomes: dict[str, Row] = field(default_factory=dict)
    """What is known of each trial by id: the columns of OUTCOMES, those that are null left out."""
    settings: dict[str, Row] = field(default_factory=dict)
    """Name and flattened settings of trials read from the tables."""
    merged_epoch: int = 0
    """Commits of this epoch and earlier ones are all in the tables."""
    num_taken: int = 0
    """Commits taken in since the tables were read."""
    damaged: list[Path] = field(default_factory=list)
    """Commits that cannot be read and do not count."""
    _merged: set[str] = field(default_factory=set)
    _closed: set[str] = field(default_factory=set)
    _records: list[tuple[int, pa.Table]] = field(default_factory=list)
    _passages: list[tuple[int, pa.Table]] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Folder) -> Results:
        """Read the tables and the commits that are not in them; an absent folder holds nothing.

        A commit that cannot be read is noted in `damaged`, and the rows of an absent table are sought in commits.

        Raises:
            ResultsError: a table is damaged or written by a newer version.
        """
        results = cls(folder)
        for part in (UNPLANNED, ""):
            results._read(part)
        for name in results._leftovers():
            results.take(name)
        return results

    def _read(self, part: str) -> None:
        trials = read_table(self.folder, f"{part}trials.parquet")
        if trials is not None:
            self._read_trials(trials, part)
        for name, schema, kept in (("records", RECORDS, self._records), ("passages", PASSAGES, self._passages)):
            rows = read_table(self.folder, f"{part}{name}.parquet")
            if rows is not None:
                kept.append((_SAVED if not part else _SAVED - 1, _with_schema(rows, schema)))
            elif trials is not None and not part:
                kept += self._kept_in_commits(name)

    def _read_trials(self, trials: pa.Table, part: str) -> None:
        if not part:
            state = json.loads(trials.schema.metadata[b"state"])
            self.merged_epoch = state["merged_epoch"]
            self._merged, self._closed = set(state["merged"]), set(state["closed"])
        known = set(OUTCOMES.names) - {"trial_id"}
        for row in trials.to_pylist():
            trial_id = row["trial_id"]
            self.settings[trial_id] = {key: value for key, value in row.items() if key not in known}
            self.outcomes[trial_id] = {k: v for k, v in row.items() if k in known and v is not None}

    def _kept_in_commits(self, table_name: str) -> list[tuple[int, pa.Table]]:
        """Rows of a table that is gone, as far as merged commits are still there for the states in them."""
        found = [(n, c) for n in self._commits() if self._is_merged(n) and (c := self._readable(n)) is not None]
        return [(index - len(found), getattr(commit, table_name)) for index, (_, commit) in enumerate(found)]

    def _commits(self) -> list[str]:
        """Names of all commits, in the order of writing."""
        found = {name: Address.parse(name) for name in self.folder.names("lanes") if name.endswith(".zip")}
        return sorted(found, key=lambda name: found[name].order)

    def _is_merged(self, name: str) -> bool:
        return Address.parse(name).epoch <= self.merged_epoch or name in self._merged

    def _readable(self, name: str) -> Commit | None:
        """The commit, unless it is damaged, which is noted."""
        try:
            return decode(self.folder.path(name))
        except DamagedError:
            if self.folder.path(name) not in self.damaged:
                self.damaged.append(self.folder.path(name))
            return None

    def _leftovers(self) -> list[str]:
        """Commits of a run that did not come to its end, in the order of writing, without those that do not count."""
        late = {
            name: commit for name in self._commits() if not self._is_merged(name) and (commit := self._readable(name))
        }
        accepted: dict[str, set[str]] = {folder: set() for folder in self._closed}
        for commit in late.values():
            if commit.predecessor is not None:
                accepted.setdefault(commit.predecessor, set()).update(commit.accepted)
        return [n for n in late if n in accepted.get(n.rpartition("/")[0], {n})]

    @property
    def next_epoch(self) -> int:
        """The least epoch in which nothing was ever committed."""
        return 1 + max([self.merged_epoch, *(Address.parse(name).epoch for name in self._commits())])

    def drop_incomplete(self, trials: list[Trial]) -> list[str]:
        """Forget how far those trials are whose records or passages are not all there; gives their ids."""
        have: dict[str, set[int]] = {}
        if self._records:
            frame = self._newest_records(_concatenated(self._records, RECORDS))
            have = {str(trial_id): set(steps) for trial_id, steps in frame.groupby("trial_id").step}
        passed = {trial_id for _, rows in self._passages for trial_id in rows["trial_id"].unique().to_pylist()}
        dropped = []
        for trial in trials:
            trial_id, known = trial.trial_id, self.outcome(trial.trial_id)
            ended = known["status"] in ENDED
            if not ended and known.get("checkpoint") is None:
                continue
            needed = record_steps(known["steps"], trial.settings.records_per_decade, ended=ended)
            if not needed <= have.get(trial_id, set()) or (ended and trial_id not in passed):
                self.outcomes[trial_id] = dict(_PENDING)
                dropped.append(trial_id)
        return dropped

    def take(self, name: str) -> Commit:
        """Add what a commit says to what is known; one taken before changes nothing.

        Raises:
            DamagedError: it cannot be read.
        """
        commit = decode(self.folder.path(name))
        if name in self._merged:
            return commit
        self._merged.add(name)
        self.num_taken += 1
        if commit.predecessor is not None:
            self._closed.add(commit.predecessor)
        turn = len(self._records)
        self._records.append((turn, commit.records))
        self._passages.append((turn, commit.passages))
        for trial_id, (step, seconds) in commit.running.items():
            self.outcomes[trial_id] = {**_PENDING, "checkpoint": name, "steps": step, "wall_seconds": seconds}
        for row in commit.outcomes.to_pylist():
            held = {key: value for key, value in row.items() if value is not None and key != "trial_id"}
            self.outcomes[row["trial_id"]] = held | ({"checkpoint": name} if row["trial_id"] in commit.states else {})
        return commit

    def judge(self, levels: Levels, *, trial_ids: Iterable[str] | None = None) -> None:
        """Say of trials, all unless told, what kind of point each ended at, and whether it is in the descent regime."""
        for trial_id in self.outcomes if trial_ids is None else trial_ids:
            row = self.outcomes[trial_id]
            if row["status"] in ENDED:
                kind = kind_of(row, levels)
                if kind is not None:
                    row["kind"] = kind
                    row["stationary"] = kind in STATIONARY
                row["descent_regime"] = row["status"] == "finished" and row["violating_share"] <= DESCENT_REGIME_SHARE

    def close_attempt(self, folder: str) -> None:
        """Ignore, from now on, what an attempt that was given up may still write."""
        self._closed.add(folder)

    def fail(self, trial_id: str, error: str, log_path: str | None = None) -> None:
        """Mark a trial that could not be trained; it is tried again by the next run, from its checkpoint if any."""
        known = self.outcomes.get(trial_id, {})
        kept: Row = {key: known[key] for key in ("checkpoint", "steps", "wall_seconds") if key in known}
        self.outcomes[trial_id] = {**kept, "status": "failed", "error": error, "log_path": log_path}

    def outcome(self, trial_id: str) -> Row:
        """What is known of a trial."""
        return self.outcomes.get(trial_id, _PENDING)

    def records(self) -> pd.DataFrame:
        """All records, each step of a trial once, without what a later start or extension replaced."""
        return self._compact_records(self.outcomes).to_pandas()

    def merge(self, trials: list[Trial], *, metadata: dict[str, Any], closing_epoch: int | None = None) -> None:
        """Write the tables for these trials; with `closing_epoch`, no later commit of that epoch counts.

        Trials known but not planned any more are kept under unplanned/.
        """
        if closing_epoch is not None:
            self.merged_epoch = closing_epoch
        planned = {trial.trial_id: None for trial in trials}
        order = [*planned, *(trial_id for trial_id in self.outcomes if trial_id not in planned)]
        records, passages = self._compact_records(order), self._compact_passages(order)
        retired = [trial_id for trial_id in self.outcomes if trial_id not in planned and trial_id in self.settings]
        if retired:
            rows = [{**self.settings[i], **self._null_outcome(i)} for i in retired]
            self._write_all(UNPLANNED, rows, records, passages, {})
        self.settings |= {trial.trial_id: settings_row(trial) for trial in trials}
        rows = [{**self.settings[t.trial_id], **self._null_outcome(t.trial_id)} for t in trials]
        self._write_all("", rows, records, passages, metadata)
        self._discard_superseded()
        self._records, self._passages = [(_SAVED, records)], [(_SAVED, passages)]

    def _null_outcome(self, trial_id: str) -> Row:
        known = self.outcome(trial_id)
        return {name: known.get(name) for name in OUTCOMES.names if name != "trial_id"}

    def _write_all(
        self, part: str, rows: list[Row], records: pa.Table, passages: pa.Table, metadata: dict[str, Any]
    ) -> None:
        ids = pa.array([row["trial_id"] for row in rows], pa.string())
        for name, content in (("records", records), ("passages", passages)):
            mine = content.filter(pa.compute.is_in(content["trial_id"], ids))
            write_table(self.folder, f"{part}{name}.parquet", mine)
        open_epochs = [n for n in self._merged if Address.parse(n).epoch > self.merged_epoch]
        closed = [f for f in self._closed if int(f.split("/")[1]) > self.merged_epoch]
        state = {"merged_epoch": self.merged_epoch, "merged": sorted(open_epochs), "closed": sorted(closed)}
        content = trials_table(rows)
        write_table(self.folder, f"{part}trials.parquet", content, {**metadata, "state": state})

    def _discard_superseded(self) -> None:
        """Delete commits that are in the tables and hold no state that a trial needs."""
        needed = {row["checkpoint"] for row in self.outcomes.values() if row.get("checkpoint")}
        names = [name for name in self.folder.names("lanes") if name not in needed]
        self.folder.delete([n for n in names if n in self._merged or int(n.split("/")[1]) <= self.merged_epoch])
        self._merged &= {*needed, *names} - {n for n in names if n in self._merged}

    def _compact_records(self, trial_ids: Iterable[str]) -> pa.Table:
        """Each step once, in the order of these trials."""
        rows = _concatenated(self._records, RECORDS)
        if not rows.num_rows:
            return RECORDS.empty_table()
        frame = self._newest_records(rows)
        final = pd.Series([self._is_final(i, s) for i, s in zip(frame.trial_id, frame.step, strict=True)], frame.index)
        stale = frame.final & ~final.astype(bool)
        dropped = [
            index
            for index in frame.index[stale]
            if not is_record_step(int(frame.step[index]), self._per_decade(frame.trial_id[index]))
        ]
        frame, final = frame.drop(index=dropped), final.drop(index=dropped)
        placed = frame.assign(position=frame.trial_id.map({i: n for n, i in enumerate(trial_ids)}))
        order = placed.sort_values(["position", "step"]).index
        kept = rows.take(pa.array(order.to_numpy())).drop_columns("turn")
        flags = pa.array(final[order].to_numpy(dtype=bool))
        return kept.set_column(kept.schema.get_field_index("final"), "final", flags).cast(RECORDS)

    def _newest_records(self, rows: pa.Table) -> pd.DataFrame:
        """Trial, step, final flag and turn of each row that no later start of its trial replaced; each step once."""
        frame = rows.select(["trial_id", "step", "final", "turn"]).to_pandas()
        started = frame.turn.where(frame.step == 0).groupby(frame.trial_id).transform("max")
        keep = (frame.turn >= started) | started.isna()
        return frame[keep].drop_duplicates(["trial_id", "step"], keep="last")

    def _is_final(self, trial_id: str, step: int) -> bool:
        outcome = self.outcome(trial_id)
        return outcome["status"] in ENDED and outcome.get("steps") == step

    def _per_decade(self, trial_id: str) -> int:
        return int(self.settings.get(trial_id, {}).get("records_per_decade", 16))

    def _compact_passages(self, trial_ids: Iterable[str]) -> pa.Table:
        """Those of trials that have ended, in the order of these trials."""
        rows = _concatenated(self._passages, PASSAGES)
        if not rows.num_rows:
            return PASSAGES.empty_table()
        frame = rows.select(["trial_id", "turn"]).to_pandas()
        newest = frame.groupby("trial_id").turn.transform("max") == frame.turn
        ended = frame.trial_id.map(lambda trial_id: self.outcome(trial_id)["status"] in ENDED).astype(bool)
        position = frame.trial_id.map({i: n for n, i in enumerate(trial_ids)})
        order = position[newest & ended].sort_values(kind="stable").index
        return rows.take(pa.array(order.to_numpy())).drop_columns("turn")


def settings_row(trial: Trial) -> Row:
    """The trial's part of its row that follows from the plan: id, name and every setting by its full path."""
    return {"trial_id": trial.trial_id, "name": trial.name, **flat_settings(trial)}


def trials_table(rows: list[Row]) -> pa.Table:
    """Rows of settings and outcomes as one table; a setting of mixed kinds over the trials becomes text."""
    names = [name for name in {key: None for row in rows for key in row} if name not in OUTCOMES.names]
    columns = {"trial_id": pa.array([row["trial_id"] for row in rows], pa.string())}
    columns |= {name: _column([row.get(name) for row in rows]) for name in names}
    outcomes = table(({key: row.get(key) for key in OUTCOMES.names} for row in rows), OUTCOMES)
    columns |= {name: outcomes[name] for name in OUTCOMES.names if name != "trial_id"}
    return pa.table(columns)


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array([None if v is None else float(v) for v in values])
    if len(kinds) > 1:
        return pa.array([None if v is None else str(v) for v in values])
    return pa.array(values) if kinds else pa.array(values, pa.string())


def _with_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = pa.nulls(rows.num_rows)
    return pa.table(
        [rows[f.name].cast(f.type) if f.name in rows.column_names else missing.cast(f.type) for f in schema],
        schema=schema,
    )


def _concatenated(parts: Iterable[tuple[int, pa.Table]], schema: pa.Schema) -> pa.Table:
    tables = [part.append_column("turn", pa.array([turn] * part.num_rows, pa.int64())) for turn, part in parts]
    return pa.concat_tables([*tables, schema.append(pa.field("turn", pa.int64())).empty_table()])


def read_table(folder: Folder, name: str) -> pa.Table | None:
    """A Parquet file of the folder, None if absent.

    Raises:
        ResultsError: it is damaged, or written by a newer version.
    """
    if not folder.exists(name):
        return None
    try:
        source = pa.BufferReader(folder.read(name))
        content = pq.ParquetFile(source).read(use_threads=False)  # read_table's threads may abort the exit: arrow#34314
        version = int((content.schema.metadata or {})[b"format_version"])
    except (pa.ArrowInvalid, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ResultsError(
            f"{folder.path(name)} is not a table of results: {str(error).rstrip('.')}; "
            "restore it from a copy, or move the folder away and train again"
        ) from None
    if version > FORMAT_VERSION:
        raise ResultsError(
            f"{folder.path(name)} has format version {version}, and this Stillpoint reads up to {FORMAT_VERSION}; "
            "upgrade it, or choose another folder with --results"
        )
    return content


def write_table(folder: Folder, name: str, content: pa.Table, metadata: dict[str, Any] | None = None) -> None:
    """A Parquet file in one atomic write; metadata values are kept as JSON."""
    described = {"format_version": FORMAT_VERSION, **(metadata or {})}
    encoded = {key: json.dumps(value) for key, value in described.items()}
    buffer = io.BytesIO()
    pq.write_table(content.replace_schema_metadata(encoded), buffer)
    folder.write(name, buffer.getvalue())
