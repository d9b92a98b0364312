"""Why an attempt at a lane ended before its trials did, and whose fault that is."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

Kind = Literal["stopped", "node", "memory", "storage", "unfit", "crash"]
"""Told to stop; its node went away; memory ran out; results could not be written; its node cannot train; anything else,
which one of its trials may have caused."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class Failure:
    """What ended an attempt; `node` is that of an unfit one."""

    kind: Kind
    words: str
    node: str = ""


class UnfinishedError(RuntimeError):
    """A run that cannot go on; what was committed is kept, and the same command goes on from there."""


class StorageError(UnfinishedError):
    """Results cannot be written any more."""


class LostClusterError(UnfinishedError):
    """Ray went away while trials were training."""


class UnfitNodeError(UnfinishedError):
    """A node that would train other numbers, or write where the driver does not look."""

    def __init__(self, words: str, node: str = "") -> None:
        super().__init__(words, node)
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether main memory or a GPU's did not suffice."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def is_full(error: BaseException | None) -> bool:
    """Whether a write failed for want of space."""
    return isinstance(error, OSError) and error.errno in _FULL


def failure_of(error: Exception) -> Failure:
    """What an exception of `ray.get` says of the task."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return Failure("stopped", "the task was cancelled")
    if isinstance(error, exceptions.OutOfMemoryError):
        return Failure("memory", "out of memory: Ray ended the worker because its node had almost none left")
    if isinstance(error, exceptions.NodeDiedError | exceptions.LocalRayletDiedError):
        return Failure("node", "its node went away")
    if isinstance(error, exceptions.RayTaskError):
        return _of_cause(error)
    return Failure("crash", f"the worker died ({type(error).__name__}): {next(iter(str(error).splitlines()), '')}")


def _of_cause(error: Exception) -> Failure:
    """Of an exception that the task itself raised."""
    cause = getattr(error, "cause", None)
    if cause is None:
        return Failure("crash", str(error).splitlines()[-1])
    words = f"{type(cause).__name__}: {cause}"
    if isinstance(cause, UnfitNodeError):
        return Failure("unfit", str(cause), cause.node)
    if is_out_of_memory(cause):
        return Failure("memory", next(iter(words.splitlines())))
    if isinstance(cause, StorageError):
        return Failure("storage", str(cause))
    return Failure("crash", words)
