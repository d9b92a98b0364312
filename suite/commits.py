"""A commit: what a lane has to say since its last one, as one object that is there in whole or not at all.

It is a ZIP archive: meta.json, three Arrow tables, and the state of trials as states/<trial_id>/<name>.npy. Objects lie
at lanes/<epoch>/<lane>/<attempt>/<n>.zip and are never changed, so no two attempts can touch one another's.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from suite.storage import DamagedError, Storage
from suite.tables import OUTCOMES, PASSAGES, RECORDS

State = dict[str, np.ndarray]

_SIGNS_OF_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, KeyError, ValueError, TypeError),
    *(EOFError, RuntimeError, OverflowError, FileNotFoundError),
)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Which commit of which attempt at which lane."""

    epoch: int
    lane: str
    attempt: int
    number: int

    @property
    def name(self) -> str:
        """Its object's name; names sort in the order of writing within a lane."""
        return f"{attempt_folder(self.epoch, self.lane, self.attempt)}/{self.number:06d}.zip"

    @classmethod
    def parse(cls, name: str) -> Address:
        """The address of an object's name."""
        _, epoch, lane, attempt, file = name.split("/")
        return cls(epoch=int(epoch), lane=lane, attempt=int(attempt), number=int(file.partition(".")[0]))

    @property
    def order(self) -> tuple[int, int, str, int]:
        """Commits of one trial in the order in which they were written: a lane that is split comes back deeper."""
        return self.epoch, self.lane.count("."), self.lane, self.attempt * 10**9 + self.number


def attempt_folder(epoch: int, lane: str, attempt: int) -> str:
    """Where one attempt at a lane writes."""
    return f"lanes/{epoch:04d}/{lane}/{attempt:03d}"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Rows new since the attempt's last commit, and where its trials are.

    `running` maps the trial in each slot to (step, wall seconds); `accepted` names the objects of earlier attempts
    that this attempt builds on: others of theirs, written late by a node cut off, do not count.
    """

    records: pa.Table
    outcomes: pa.Table
    passages: pa.Table
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    predecessor: str | None = None
    """The folder of the attempt that this one follows."""
    states: frozenset[str] = frozenset()
    """Ids of the trials whose state lies in the object."""

    def seconds(self, trial_id: str) -> float:
        """Wall seconds that a trial had taken at its state; 0 if the commit does not say."""
        if trial_id in self.running:
            return self.running[trial_id][1]
        place = pc.index(self.outcomes["trial_id"], trial_id).as_py()
        return 0.0 if place < 0 else self.outcomes["wall_seconds"][place].as_py() or 0.0


def encode(commit: Commit, states: dict[str, State]) -> bytes:
    """The commit as one object."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        meta = {"running": commit.running, "accepted": commit.accepted, "predecessor": commit.predecessor}
        archive.writestr("meta.json", json.dumps(meta))
        for name in ("records", "outcomes", "passages"):
            archive.writestr(f"{name}.arrow", _encode_table(getattr(commit, name)))
        for trial_id, state in states.items():
            for name, value in state.items():
                archive.writestr(f"states/{trial_id}/{name}.npy", _encode_array(value))
    return buffer.getvalue()


def decode(storage: Storage, name: str) -> Commit:
    """Everything but the states, which are not read.

    Raises:
        DamagedError: it cannot be read.
    """
    with _opened(storage, name) as archive:
        meta = json.loads(archive.read("meta.json"))
        return Commit(
            records=_decode_table(archive.read("records.arrow"), RECORDS),
            outcomes=_decode_table(archive.read("outcomes.arrow"), OUTCOMES),
            passages=_decode_table(archive.read("passages.arrow"), PASSAGES),
            running={trial_id: (step, seconds) for trial_id, (step, seconds) in meta["running"].items()},
            accepted=meta["accepted"],
            predecessor=meta["predecessor"],
            states=frozenset(name.split("/")[1] for name in archive.namelist() if name.startswith("states/")),
        )


def decode_state(storage: Storage, name: str, trial_id: str) -> State:
    """One trial's state; every array's checksum is verified.

    Raises:
        DamagedError: the object does not hold this trial, or cannot be read.
    """
    prefix = f"states/{trial_id}/"
    with _opened(storage, name) as archive:
        members = [member for member in archive.namelist() if member.startswith(prefix)]
        if not members:
            raise KeyError(trial_id)
        return {m.removeprefix(prefix).removesuffix(".npy"): _decode_array(archive.read(m)) for m in members}


@contextmanager
def _opened(storage: Storage, name: str) -> Iterator[zipfile.ZipFile]:
    try:
        with storage.open(name) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except _SIGNS_OF_DAMAGE as error:
        raise DamagedError(f"{storage.where(name)} cannot be read ({type(error).__name__}: {error})") from None


def _encode_table(content: pa.Table) -> bytes:
    """Without the columns that hold nothing, of which there are many."""
    content = content.select([i for i, column in enumerate(content.columns) if column.null_count < len(content)])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, content.schema) as writer:
        writer.write_table(content)
    return sink.getvalue().to_pybytes()


def _decode_table(content: bytes, schema: pa.Schema) -> pa.Table:
    """The table with the columns of today's schema: one that an older writer did not know, or left out, is null."""
    read = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    there = dict(zip(read.column_names, read.columns, strict=True))
    columns = [there[f.name] if f.name in there else _nulls(read.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


@lru_cache(maxsize=64)
def _nulls(number: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(number, kind)


def _encode_array(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _decode_array(content: bytes) -> np.ndarray:
    """What `_encode_array` wrote, and nothing else that NumPy can load: no pickle, which would run code, no archive."""
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
