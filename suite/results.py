"""A results folder: what is known of every trial, from the merged tables and from the commits not merged yet.

Reading order on opening: trials.parquet, passages.parquet, records.parquet, then commits of later epochs. Writing
order in `merge`: rows first, trials.parquet last, and only then are superseded commits deleted; so a kill between
any two writes loses nothing, and reading again doubles nothing.
"""

from __future__ import annotations

import io
import json
import zipfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from suite.commits import Address, Commit, decode
from suite.measurement.certificate import STATIONARY, Levels, kind_of
from suite.redaction import redacted
from suite.storage import DamagedError, Storage
from suite.tables import FORMAT_VERSION, OUTCOMES, PASSAGES, RECORDS, Row
from suite.training.records import is_record_step, record_steps
from suite.trials import ENDED, Flattened, Trial, flat_settings

if TYPE_CHECKING:
    import pandas as pd

UNPLANNED = "unplanned/"
DESCENT_REGIME_SHARE = 0.01
"""A trial is in the descent regime if at most this share of its steps violates descent."""
_SAVED = -1
_PENDING: Row = {"status": "pending"}


class ResultsError(ValueError):
    """The folder cannot be read as results."""


@dataclass(frozen=True)
class Stored:
    """A table of rows in the folder, of which columns are read when they are needed."""

    folder: Storage
    name: str
    schema: pa.Schema

    def select(self, names: Sequence[str]) -> pa.Table:
        """These columns; null where the file is older than the column."""
        wanted = pa.schema([self.schema.field(name) for name in names])
        content = read_table(self.folder, self.name, columns=names)
        assert content is not None, f"{self.name} was removed meanwhile"
        return _with_schema(content, wanted)

    def read(self) -> pa.Table:
        """All columns."""
        return self.select(self.schema.names)

    @property
    def is_current(self) -> bool:
        """Whether the file has today's columns, in their order and kinds."""
        with _opened_table(self.folder, self.name) as file:
            return bool(file.schema_arrow.remove_metadata().equals(self.schema))


Part = tuple["int | None", "pa.Table | Stored"]
"""Rows and the turn in which they were taken in: later ones replace earlier ones. Gathered ones have it as a column."""
MOST_PARTS = 64
"""Tables of so many commits are made one: each of their columns takes about a kilobyte beside its values."""


@dataclass
class Results:
    """Everything saved about the trials of one experiment, planned now or earlier."""

    folder: Storage
    outcomes: dict[str, Row] = field(default_factory=dict)
    """What is known of each trial by id: the columns of OUTCOMES, those that are null left out."""
    settings: dict[str, Row] = field(default_factory=dict)
    """Name and flattened settings of trials read from the tables."""
    merged_epoch: int = 0
    """Commits of this epoch and earlier ones are all in the tables."""
    num_taken: int = 0
    """Commits taken in since the tables were read."""
    damaged: list[str] = field(default_factory=list)
    """Commits that cannot be read and do not count."""
    _merged: set[str] = field(default_factory=set)
    _closed: set[str] = field(default_factory=set)
    _earlier: dict[str, str] = field(default_factory=dict)
    """Of trials that have not ended, the checkpoint before the present one: kept in case that one is damaged."""
    _records: list[Part] = field(default_factory=list)
    _passages: list[Part] = field(default_factory=list)
    _saved_ids: list[str] | None = None
    """Trials in trials.parquet as long as nothing else is known of their records and passages than the tables say."""

    @classmethod
    def open(cls, folder: Storage) -> Results:
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
            stored = Stored(self.folder, f"{part}{name}.parquet", schema)
            if self.folder.exists(stored.name):
                read_table(self.folder, stored.name, columns=[])
                kept.append((_SAVED if not part else _SAVED - 1, stored))
            elif trials is not None and not part:
                kept += self._kept_in_commits(name)
        if not part and trials is not None and self._is_stored():
            self._saved_ids = trials["trial_id"].to_pylist()

    def _is_stored(self) -> bool:
        """Whether all records and passages are in one table each that needs no change."""
        parts = [*self._records, *self._passages]
        whole = [rows for turn, rows in parts if turn == _SAVED and isinstance(rows, Stored) and rows.is_current]
        return len(whole) == len(parts) == 2

    def load(self) -> None:
        """Read what is left of the tables, so that one that is damaged is told before anything is trained.

        Raises:
            ResultsError: it is.
        """
        for kept in (self._records, self._passages):
            kept[:] = [(turn, rows.read() if isinstance(rows, Stored) else rows) for turn, rows in kept]

    def _read_trials(self, trials: pa.Table, part: str) -> None:
        if not part:
            state = json.loads(trials.schema.metadata[b"state"])
            self.merged_epoch = state["merged_epoch"]
            self._merged, self._closed = set(state["merged"]), set(state["closed"])
            self._earlier = state.get("earlier", {})
        ids = trials["trial_id"].to_pylist()
        known = set(OUTCOMES.names) - {"trial_id"}
        settings: list[Row] = [{} for _ in ids]
        outcomes: list[Row] = [{} for _ in ids]
        for name in trials.column_names:
            values = trials[name].to_pylist()
            if name not in known:
                for row, value in zip(settings, values, strict=True):
                    row[name] = value
                continue
            for row, value in zip(outcomes, values, strict=True):
                if value is not None:
                    row[name] = value
        self.settings |= dict(zip(ids, settings, strict=True))
        self.outcomes |= dict(zip(ids, outcomes, strict=True))

    def _kept_in_commits(self, table_name: str) -> list[Part]:
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
            return decode(self.folder, name)
        except DamagedError:
            if (where := self.folder.where(name)) not in self.damaged:
                self.damaged.append(where)
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
        begun = [t for t in trials if self._has_ended(t.trial_id) or self.outcome(t.trial_id).get("checkpoint")]
        have = self._recorded_steps() if begun else {}
        passed = {i for _, rows in self._passages for i in rows.select(["trial_id"])["trial_id"].unique().to_pylist()}
        longest = max((self.outcome(trial.trial_id)["steps"] for trial in begun), default=0)
        densities = {trial.settings.records_per_decade for trial in begun}
        grids = {density: sorted(record_steps(longest, density, ended=False)) for density in densities}
        dropped = []
        for trial in begun:
            trial_id, ended = trial.trial_id, self._has_ended(trial.trial_id)
            steps, there = self.outcome(trial_id)["steps"], have.get(trial_id, set())
            grid = grids[trial.settings.records_per_decade]
            is_whole = there.issuperset(grid[: bisect_left(grid, steps)]) and (not ended or steps in there)
            if not is_whole or (ended and trial_id not in passed):
                self.outcomes[trial_id] = dict(_PENDING)
                dropped.append(trial_id)
        if dropped:
            self._saved_ids = None
        return dropped

    def _recorded_steps(self) -> dict[str, set[int]]:
        """Steps that each trial has in its records."""
        rows = _concatenated(self._records, RECORDS, ["trial_id", "step"])
        ids, codes, steps, _ = _newest_records(rows)
        order = np.argsort(codes, kind="stable")
        bounds = np.cumsum(np.bincount(codes, minlength=len(ids)))[:-1]
        parts = np.split(steps[order], bounds) if ids else []
        return {trial_id: set(part.tolist()) for trial_id, part in zip(ids, parts, strict=True)}

    def _has_ended(self, trial_id: str) -> bool:
        return self.outcome(trial_id)["status"] in ENDED

    def take(self, name: str) -> Commit:
        """Add what a commit says to what is known; one taken before changes nothing.

        Raises:
            DamagedError: it cannot be read.
        """
        commit = decode(self.folder, name)
        if name in self._merged:
            return commit
        self._merged.add(name)
        self._saved_ids = None
        self.num_taken += 1
        if commit.predecessor is not None:
            self._closed.add(commit.predecessor)
        self._records.append((self.num_taken, commit.records))
        self._passages.append((self.num_taken, commit.passages))
        if self.num_taken % MOST_PARTS == 0:
            self._records = _gathered(self._records, RECORDS)
            self._passages = _gathered(self._passages, PASSAGES)
        self._keep_earlier(name, commit)
        for trial_id, (step, seconds) in commit.running.items():
            self.outcomes[trial_id] = {**_PENDING, "checkpoint": name, "steps": step, "wall_seconds": seconds}
        for row in _without_empty(commit.outcomes).to_pylist():
            held = {key: value for key, value in row.items() if value is not None and key != "trial_id"}
            self.outcomes[row["trial_id"]] = held | ({"checkpoint": name} if row["trial_id"] in commit.states else {})
        return commit

    def _keep_earlier(self, name: str, commit: Commit) -> None:
        """Note which checkpoint this commit's states follow; a trial that ended needs none any more."""
        statuses = zip(commit.outcomes["trial_id"].to_pylist(), commit.outcomes["status"].to_pylist(), strict=True)
        ended = {trial_id for trial_id, status in statuses if status in ENDED}
        for trial_id in commit.states - ended:
            before = self.outcome(trial_id).get("checkpoint")
            if before is not None and before != name:
                self._earlier[trial_id] = before
        for trial_id in ended:
            self._earlier.pop(trial_id, None)

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
        self._saved_ids = None
        known = self.outcomes.get(trial_id, {})
        kept: Row = {key: known[key] for key in ("checkpoint", "steps", "wall_seconds") if key in known}
        self.outcomes[trial_id] = {**kept, "status": "failed", "error": redacted(error), "log_path": log_path}

    def outcome(self, trial_id: str) -> Row:
        """What is known of a trial."""
        return self.outcomes.get(trial_id, _PENDING)

    def records(self, columns: Sequence[str] = RECORDS.names) -> pd.DataFrame:
        """All records, each step of a trial once, without what a later start or extension replaced; all columns unless
        told."""
        needed = dict.fromkeys(["trial_id", "step", "final", *columns])
        return self._compact_records(self.outcomes, list(needed)).select(columns).to_pandas()

    def merge(self, trials: list[Trial], *, metadata: dict[str, Any], closing_epoch: int | None = None) -> None:
        """Write the tables for these trials; with `closing_epoch`, no later commit of that epoch counts.

        Trials known but not planned any more are kept under unplanned/. Records and passages that are in their tables
        as they should be are not written again.
        """
        if closing_epoch is not None:
            self.merged_epoch = closing_epoch
        known = Flattened()
        settings = {trial.trial_id: settings_row(trial, known) for trial in trials}
        if self._saved_ids == list(settings):
            self.settings |= settings
            self._write_trials("", list(settings), metadata)
            self._discard_superseded()
            return
        order = [*settings, *(trial_id for trial_id in self.outcomes if trial_id not in settings)]
        records, passages = self._compact_records(order), self._compact_passages(order)
        retired = [trial_id for trial_id in self.outcomes if trial_id not in settings and trial_id in self.settings]
        if retired:
            self._write_all(UNPLANNED, retired, records, passages, {})
        self.settings |= settings
        self._write_all("", list(settings), records, passages, metadata)
        self._discard_superseded()
        self._records, self._passages = [(_SAVED, records)], [(_SAVED, passages)]

    def _write_all(
        self, part: str, trial_ids: list[str], records: pa.Table, passages: pa.Table, metadata: dict[str, Any]
    ) -> None:
        ids = pa.array(trial_ids, pa.string())
        for name, content in (("records", records), ("passages", passages)):
            mine = pc.is_in(content["trial_id"], ids)
            is_all = pc.all(mine, min_count=0).as_py()
            write_table(self.folder, f"{part}{name}.parquet", content if is_all else content.filter(mine))
        self._write_trials(part, trial_ids, metadata)

    def _write_trials(self, part: str, trial_ids: list[str], metadata: dict[str, Any]) -> None:
        rows = [{**self.settings[trial_id], **self.outcome(trial_id)} for trial_id in trial_ids]
        open_epochs = [n for n in self._merged if Address.parse(n).epoch > self.merged_epoch]
        closed = [f for f in self._closed if int(f.split("/")[1]) > self.merged_epoch]
        state = {"merged_epoch": self.merged_epoch, "merged": sorted(open_epochs), "closed": sorted(closed)}
        state["earlier"] = self._earlier
        content = trials_table(rows)
        write_table(self.folder, f"{part}trials.parquet", content, {**metadata, "state": state})

    def _discard_superseded(self) -> None:
        """Delete commits that are in the tables and hold no state that a trial needs."""
        needed = {row["checkpoint"] for row in self.outcomes.values() if row.get("checkpoint")}
        needed |= set(self._earlier.values())
        names = [name for name in self.folder.names("lanes") if name not in needed]
        self.folder.delete([n for n in names if n in self._merged or int(n.split("/")[1]) <= self.merged_epoch])
        self._merged &= {*needed, *names} - {n for n in names if n in self._merged}

    def _compact_records(self, trial_ids: Iterable[str], names: Sequence[str] = RECORDS.names) -> pa.Table:
        """Each step once, in the order of these trials."""
        rows = _concatenated(self._records, RECORDS, names)
        if not rows.num_rows:
            return rows.drop_columns("turn")
        ids, codes, steps, index = _newest_records(rows)
        ends = np.array([self.outcome(i).get("steps", -1) if self._has_ended(i) else -1 for i in ids])
        final = steps == ends[codes]
        stale = rows["final"].to_numpy()[index].astype(bool) & ~final
        gone = [n for n in np.flatnonzero(stale) if not self._is_record_step(ids[codes[n]], int(steps[n]))]
        places = _places(ids, trial_ids)[codes]
        order = np.lexsort((steps, places))
        order = order[~np.isin(order, gone)]
        kept = _taken(rows, index[order]).drop_columns("turn")
        flags = pa.array(final[order])
        return kept.set_column(kept.schema.get_field_index("final"), "final", flags)

    def _is_record_step(self, trial_id: str, step: int) -> bool:
        return is_record_step(step, int(self.settings.get(trial_id, {}).get("records_per_decade", 16)))

    def _compact_passages(self, trial_ids: Iterable[str]) -> pa.Table:
        """Those of trials that have ended, in the order of these trials."""
        rows = _concatenated(self._passages, PASSAGES, PASSAGES.names)
        if not rows.num_rows:
            return PASSAGES.empty_table()
        ids, codes = _coded(rows["trial_id"])
        turns = rows["turn"].to_numpy()
        newest = np.full(len(ids), turns.min())
        np.maximum.at(newest, codes, turns)
        ended = np.array([self._has_ended(trial_id) for trial_id in ids])
        kept = np.flatnonzero((turns == newest[codes]) & ended[codes])
        order = np.argsort(_places(ids, trial_ids)[codes[kept]], kind="stable")
        return _taken(rows, kept[order]).drop_columns("turn")


Whole = npt.NDArray[np.int64]


def _coded(column: pa.ChunkedArray) -> tuple[list[str], Whole]:
    """The distinct texts of a column, and which of them each row holds."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _places(ids: list[str], order: Iterable[str]) -> Whole:
    """Where each id stands in an order; behind it, if it does not."""
    known = {trial_id: place for place, trial_id in enumerate(order)}
    return np.array([known.get(trial_id, len(known) + n) for n, trial_id in enumerate(ids)])


def _newest_records(rows: pa.Table) -> tuple[list[str], Whole, Whole, Whole]:
    """Rows that no later start of their trial replaced, each step once: ids; then of each row which id, its step, and
    its place in the table."""
    ids, codes = _coded(rows["trial_id"])
    steps, turns = rows["step"].to_numpy(), rows["turn"].to_numpy()
    starts = np.full(len(ids), np.iinfo(np.int64).min)
    np.maximum.at(starts, codes[steps == 0], turns[steps == 0])
    order = np.lexsort((steps, codes))  # stable: rows of one step stay in the order of writing
    order = order[turns[order] >= starts[codes[order]]]
    is_last = np.append(np.diff(codes[order]) != 0, True) | np.append(np.diff(steps[order]) != 0, True)
    index = np.sort(order[is_last[: len(order)]])
    return ids, codes[index], steps[index], index


def _taken(rows: pa.Table, index: Whole) -> pa.Table:
    """These rows; the table itself where that is all of them as they are."""
    is_all = len(index) == len(rows) and bool((index == np.arange(len(rows))).all())
    return rows if is_all else rows.take(pa.array(index))


def settings_row(trial: Trial, known: Flattened | None = None) -> Row:
    """The trial's part of its row that follows from the plan: id, name and every setting by its full path."""
    return {"trial_id": trial.trial_id, "name": trial.name, **flat_settings(trial, known)}


def trials_table(rows: list[Row]) -> pa.Table:
    """Rows of settings and outcomes as one table; a setting of mixed kinds over the trials becomes text."""
    names = [name for name in {key: None for row in rows for key in row} if name not in OUTCOMES.names]
    columns = {"trial_id": pa.array([row["trial_id"] for row in rows], pa.string())}
    columns |= {name: _column([row.get(name) for row in rows]) for name in names}
    outcomes = [field for field in OUTCOMES if field.name != "trial_id"]
    columns |= {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in outcomes}
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


def _concatenated(parts: Iterable[Part], schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Rows of all parts with their turn."""
    tables = [_with_turn(rows, turn, names) for turn, rows in parts]
    return pa.concat_tables([*tables, _with_turn(schema.empty_table(), 0, names)], promote_options="default")


def _with_turn(rows: pa.Table | Stored, turn: int | None, names: Sequence[str]) -> pa.Table:
    if turn is None:
        return rows.select([*names, "turn"])
    chosen = rows.select(names)
    return chosen.append_column("turn", pa.array(np.full(len(chosen), turn, dtype=np.int64)))


def _without_empty(rows: pa.Table) -> pa.Table:
    """The columns that hold something."""
    return rows.select([i for i, column in enumerate(rows.columns) if column.null_count < len(rows)])


def _gathered(parts: list[Part], schema: pa.Schema) -> list[Part]:
    """The same rows, those of single commits in one table, in which a column without any value takes no memory."""
    single = [_with_turn(rows, turn, schema.names) for turn, rows in parts if turn is not None and turn > 0]
    rows = pa.concat_tables(single).combine_chunks()
    columns = {
        name: pa.nulls(len(rows)) if rows[name].null_count == len(rows) else rows[name] for name in rows.column_names
    }
    return [*((turn, rows) for turn, rows in parts if turn is None or turn <= 0), (None, pa.table(columns))]


def read_table(folder: Storage, name: str, *, columns: Sequence[str] | None = None) -> pa.Table | None:
    """A Parquet file of the folder, None if absent; with `columns`, those of them that it has.

    Raises:
        ResultsError: it is damaged, or written by a newer version.
    """
    if not folder.exists(name):
        return None
    with _opened_table(folder, name) as file:
        version = int((file.schema_arrow.metadata or {})[b"format_version"])
        there = None if columns is None else [column for column in columns if column in file.schema_arrow.names]
        content = None if version > FORMAT_VERSION else file.read(there, use_threads=False)  # arrow#34314: at exit
    if content is None:
        raise ResultsError(
            f"{folder.where(name)} has format version {version}, and this Stillpoint reads up to {FORMAT_VERSION}; "
            "upgrade it, or choose another folder with --results"
        )
    return content


@contextmanager
def _opened_table(folder: Storage, name: str) -> Iterator[pq.ParquetFile]:
    try:
        with folder.open(name) as raw, pq.ParquetFile(raw) as file:
            yield file
    except (pa.ArrowInvalid, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ResultsError(
            f"{folder.where(name)} is not a table of results: {str(error).rstrip('.')}; "
            "restore it from a copy, or move the folder away and train again"
        ) from None


def write_table(folder: Storage, name: str, content: pa.Table, metadata: dict[str, Any] | None = None) -> None:
    """A Parquet file in one atomic write; metadata values are kept as JSON."""
    described = {"format_version": FORMAT_VERSION, **(metadata or {})}
    encoded = {key: json.dumps(value) for key, value in described.items()}
    buffer = io.BytesIO()
    pq.write_table(content.replace_schema_metadata(encoded), buffer)
    folder.write(name, buffer.getvalue())
