"""Results in a bucket, such as s3://mine/results: the same whole objects as in a folder, through fsspec.

An upload is there in whole or not at all, and is seen by all as soon as it has ended: what stores like S3 promise.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
"""Kinds of buckets, and the package that fsspec needs for each."""
BLOCK_BYTES = 4 * 2**20
"""Read at once: nearly all commits are smaller, and of a larger one only the parts that are needed are read."""


class BucketError(OSError):
    """A bucket that does not answer as it should, for a reason of the network or of credentials."""


def scheme_of(address: str) -> str | None:
    """The part of an address before ://, if it has one; pathlib may have left a single slash."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", address)
    return found[1].lower() if found else None


@dataclass(frozen=True)
class Bucket:
    """Objects under an address, named by relative paths with forward slashes."""

    root: str

    def where(self, name: str) -> str:
        """The object's address, for people."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        with _told(self.root):
            return bool(self._system.exists(self._key(name)))

    def open(self, name: str) -> BinaryIO:
        """The object to read from, at any place of it."""
        with _told(self.root):
            size = int(self._system.size(self._key(name)))
        return io.BytesIO(self.read(name)) if size <= BLOCK_BYTES else _Parts(self, name, size).buffered()

    def read(self, name: str) -> bytes:
        """The whole object."""
        with _told(self.root):
            return bytes(self._system.cat_file(self._key(name)))

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Bytes of the object from `start` up to `end`, which is left out."""
        with _told(self.root):
            return bytes(self._system.cat_file(self._key(name), start=start, end=end))

    def write(self, name: str, content: bytes) -> None:
        """Create or replace the object at once: a reader sees the old one or the new one, whatever is killed."""
        with _told(self.root):
            self._system.pipe_file(self._key(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Create the object if there is none; False if another process was first."""
        try:
            with _told(self.root):
                self._system.pipe_file(self._key(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def names(self, under: str) -> list[str]:
        """Names of all objects under a folder, sorted; hidden ones are not among them."""
        base = self._key("")
        with _told(self.root):
            found = [str(key).removeprefix(base) for key in self._system.find(self._key(under))]
        return sorted(name for name in found if not name.rpartition("/")[2].startswith("."))

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects."""
        keys = [self._key(name) for name in names]
        with _told(self.root):
            if keys:
                self._system.rm(keys)

    @cached_property
    def _system(self) -> Any:
        from fsspec import filesystem

        scheme = scheme_of(self.root) or ""
        try:
            return filesystem(scheme, use_listings_cache=False)
        except ImportError:
            raise ValueError(
                f"results in {self.root} need the package {SCHEMES[scheme]}: pip install {SCHEMES[scheme]}"
            ) from None

    def _key(self, name: str) -> str:
        return f"{self.root.partition('://')[2]}/{name}"


class _Parts(io.RawIOBase):
    """A large object as a file, of which those parts are fetched that are read."""

    def __init__(self, bucket: Bucket, name: str, size: int) -> None:
        self._bucket, self._name, self._size, self._place = bucket, name, size, 0

    def buffered(self) -> BinaryIO:
        """The same, fetching a block at a time."""
        return io.BufferedReader(self, BLOCK_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        content = self._bucket.read_part(self._name, self._place, end) if end > self._place else b""
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


@contextmanager
def _told(root: str) -> Iterator[None]:
    """Every kind of failure that libraries of buckets raise as an OSError, as that of a file system is."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise BucketError(f"{root}: {_words(error)}") from None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
