"""Work at the same time in one process of one thread per core, as lanes are trained."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Meet = Callable[[], Any]
PATIENCE = 600.0
"""Seconds after which a process no longer waits for one that does not come."""


def at_once(function: Callable[..., T], parts: Sequence[Any]) -> list[T]:
    """`function(part, meet)` for every part, each in a process of its own; `meet()` waits until all are there."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(parts), timeout=PATIENCE)
    ends, processes = [], []
    for part in parts:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(function, part, barrier, theirs), daemon=True)
        process.start()
        theirs.close()
        ends.append(mine)
        processes.append(process)
    results = [end.recv() for end in ends]
    for process in processes:
        process.join()
    return results


def _work(function: Callable[..., T], part: Any, barrier: Any, end: Connection) -> None:
    torch.set_num_threads(1)
    try:
        barrier.wait()
        end.send(function(part, barrier.wait))
    except BaseException:
        barrier.abort()  # the others need not wait for this one
        raise


def shares(items: Sequence[T], number: int) -> list[list[T]]:
    """The items dealt out to so many hands."""
    return [list(items[first::number]) for first in range(number)]
