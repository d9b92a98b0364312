"""Where results lie, as a store of whole objects: every write is atomic and durable, and one writer holds the lock."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from suite.buckets import SCHEMES, Bucket, scheme_of

HEARTBEAT_SECONDS = 10.0
HEARTBEAT_LOST_SECONDS = 60.0


class LockedError(RuntimeError):
    """Another process is writing to this results folder."""


class DamagedError(ValueError):
    """An object that is absent or cannot be read as it was written."""


class Storage(Protocol):
    """Objects named by relative paths with forward slashes, in a folder or a bucket.

    Raises:
        OSError: by every method, where what holds them fails.
    """

    @property
    def root(self) -> Path | str:
        """The folder, or the address of the bucket."""

    def where(self, name: str) -> str:
        """Where the object lies, for people."""

    def exists(self, name: str) -> bool:
        """Whether the object is there."""

    def open(self, name: str) -> BinaryIO:
        """The object to read from, at any place of it."""

    def read(self, name: str) -> bytes:
        """The whole object."""

    def write(self, name: str, content: bytes) -> None:
        """Create or replace the object at once: a reader sees the old one or the new one, whatever is killed."""

    def create(self, name: str, content: bytes) -> bool:
        """Create the object if there is none; False if another process was first."""

    def names(self, under: str) -> list[str]:
        """Names of all objects under a folder, sorted; unfinished writes and hidden ones are not among them."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects."""


def storage_at(place: Path | str, *parts: str) -> Storage:
    """The storage at a folder or at the address of a bucket, or below it.

    Raises:
        ValueError: it is an address of another kind.
    """
    scheme = scheme_of(str(place))
    if scheme is None:
        return Folder(Path(place, *parts).absolute())
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            f"results cannot lie at {scheme}://: give a folder, on a cluster one that all nodes share, such as NFS, "
            f"or a bucket ({known})"
        )
    if isinstance(place, Path):
        raise ValueError(f"{place} went through pathlib, which spoils addresses: give it as text")
    bucket = place.partition("://")[2].strip("/")
    if not bucket or "://" not in place:
        raise ValueError(f"{place} names no bucket; write {scheme}://BUCKET/FOLDER")
    if set(bucket) & set("*?[]"):
        raise ValueError(f"{place} has one of * ? [ ], which stand for many names; choose a folder without")
    return Bucket("/".join([f"{scheme}://{bucket}", *parts]))


@contextmanager
def at_hand(storage: Storage, names: Iterable[str]) -> Iterator[Path]:
    """A folder of this machine that has these objects, as far as they are there: the storage itself if it is one.

    `names` are objects, or folders of them. What is new or changed there when the block ends goes into the storage.
    """
    if isinstance(storage, Folder):
        yield storage.root
        return
    with tempfile.TemporaryDirectory(prefix="stillpoint-") as made:
        here, known = Folder(Path(made)), dict[str, bytes]()
        for name in names:
            for found in storage.names(name):  # of a bucket, where an object's name stands for itself too
                here.write(found, content := storage.read(found))
                known[found] = hashlib.sha256(content).digest()
        yield here.root
        for name in here.names("."):
            content = here.read(name)
            if known.get(name := name.removeprefix("./")) != hashlib.sha256(content).digest():
                storage.write(name, content)


@dataclass(frozen=True)
class Folder:
    """A folder of objects named by relative paths with forward slashes."""

    root: Path

    def path(self, name: str) -> Path:
        """Where the object lies."""
        return self.root / name

    def where(self, name: str) -> str:
        """Where the object lies, for people."""
        return str(self.path(name))

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        return self.path(name).exists()

    def open(self, name: str) -> BinaryIO:
        """The object to read from."""
        return self.path(name).open("rb")

    def read(self, name: str) -> bytes:
        """The whole object."""
        return self.path(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Create or replace the object at once: a reader sees the old one or the new one, whatever is killed."""
        temporary = self._temporary(name, content)
        os.replace(temporary, self.path(name))
        _sync_folder(self.path(name).parent)

    def create(self, name: str, content: bytes) -> bool:
        """Create the object if there is none; False if another process was first."""
        temporary = self._temporary(name, content)
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_folder(self.path(name).parent)
        return True

    def names(self, under: str) -> list[str]:
        """Names of all objects under a folder, sorted; unfinished writes are not among them."""
        found = []
        for parent, _, files in os.walk(self.path(under)):
            base = Path(parent).relative_to(self.root).as_posix()
            found += [f"{base}/{file}" for file in files if not file.startswith(".")]
        return sorted(found)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, and the folders they leave empty."""
        paths = [self.path(name) for name in names]
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in paths}, reverse=True):
            with suppress(OSError):
                while folder != self.root:
                    folder.rmdir()
                    folder = folder.parent

    def _temporary(self, name: str, content: bytes) -> Path:
        """The content in a hidden file beside its destination, on disk."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{os.getpid()}.{threading.get_ident()}"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)  # what is half written would fill a full disk for good
            raise
        return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: written into it, and renewed while the owner lives."""

    epoch: int
    pid: int
    host: str
    heartbeat: float
    released: bool = False

    @property
    def alive(self) -> bool:
        """Whether the folder must be taken as in use: not released, its process living, its heartbeat recent."""
        if self.released or time.time() - self.heartbeat > HEARTBEAT_LOST_SECONDS:
            return False
        return self.host != socket.gethostname() or process_lives(self.pid)


def process_lives(pid: int) -> bool:
    """Whether a process of this host has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def owner(folder: Storage) -> Owner | None:
    """The holder of the highest lock, living or not; None for a folder never written to."""
    while epochs := sorted(int(name.rpartition("/")[2]) for name in folder.names("lock")):
        with suppress(FileNotFoundError):  # another process has just taken over, under a higher epoch
            return Owner(**json.loads(folder.read(f"lock/{epochs[-1]}")))
    return None


class Lock:
    """This process's hold on a results folder: its epoch, kept alive by a thread."""

    def __init__(self, folder: Storage, epoch: int) -> None:
        self._folder, self.epoch = folder, epoch
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="stillpoint-heartbeat")
        self._thread.start()

    @property
    def name(self) -> str:
        """Of its object in the folder."""
        return f"lock/{self.epoch}"

    def check(self) -> None:
        """Raise LockedError if another process has taken the folder over, as happens after a long suspension."""
        present = owner(self._folder)
        if present is None or present.epoch != self.epoch:
            raise LockedError(f"{self._folder.root} was taken over by another run while this one did not answer")

    def release(self) -> None:
        """Give the folder back; the epoch stays used."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError, LockedError):
            self.check()
            self._folder.write(self.name, _content(self.epoch, released=True))

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError, LockedError):
                self.check()
                self._folder.write(self.name, _content(self.epoch))


def _content(epoch: int, *, released: bool = False) -> bytes:
    fields: dict[str, Any] = {
        "epoch": epoch,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "heartbeat": time.time(),
        "released": released,
    }
    return json.dumps(fields).encode()


@contextmanager
def locked(folder: Storage, *, at_least: int = 1) -> Iterator[Lock]:
    """Hold the folder as its one writer, under a new epoch of `at_least` or more.

    Raises:
        LockedError: a living process holds it.
    """
    previous = owner(folder)
    if previous is not None and previous.alive:
        raise LockedError(
            f"{folder.root} is in use by process {previous.pid} on {previous.host}; "
            "wait for it, stop it, or choose another folder with --results"
        )
    epoch = max(at_least, 1 if previous is None else previous.epoch + 1)
    if not folder.create(f"lock/{epoch}", _content(epoch)):
        raise LockedError(f"{folder.root} was taken by another run at this moment; try again")
    if previous is not None:
        folder.delete([name for name in folder.names("lock") if int(name.rpartition("/")[2]) < epoch])
    lock = Lock(folder, epoch)
    try:
        yield lock
    finally:
        lock.release()
