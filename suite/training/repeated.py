"""Repeated: work on tensors at fixed places, done again and again; on a GPU captured once as a graph and replayed.

At small widths a GPU waits for the host to launch kernels that each take microseconds. A CUDA graph launches all of a
step's kernels at once. It reads and writes the places of memory it was captured with, so whatever is written into
them, such as the next trial of a slot, takes part without another capture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

import torch

Owner = TypeVar("Owner")

WARM_UP = 3
"""Runs before the capture, in which libraries choose their kernels and set up their workspaces."""


class Repeated(Generic[Owner]):
    """A call does the work once. It must not read a value on the host, nor leave a tensor in a new place.

    What owns the tensors, always the same, is given with each call: kept here it would refer to itself, and the memory
    of a GPU would stay taken until Python next looks for such circles.
    """

    def __init__(self, work: Callable[[Owner], None], *, device: torch.device) -> None:
        self._work = work
        self._left_before_capture = WARM_UP if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, owner: Owner) -> None:
        """Do the work, or have it done after all that was asked for before."""
        if self._graph is not None:
            self._graph.replay()
        elif self._left_before_capture is None:
            self._work(owner)
        elif self._left_before_capture > 0:
            self._left_before_capture -= 1
            self._on_a_side_stream(owner)
        else:
            self._capture(owner)

    def _on_a_side_stream(self, owner: Owner) -> None:
        """Work before a capture must not run on the default stream, which cannot be captured."""
        side, present = _side_stream(), torch.cuda.current_stream()
        side.wait_stream(present)
        with torch.cuda.stream(side):
            self._work(owner)
        present.wait_stream(side)

    def _capture(self, owner: Owner) -> None:
        """Capture, which does nothing, and replay; where that is refused, go on without."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads of the process are Ray's
                self._work(owner)
        except RuntimeError as error:
            logging.getLogger(__name__).warning("steps are not captured as a CUDA graph: %s", error)
            self._left_before_capture = None
            self._work(owner)
            return
        self._graph = graph
        graph.replay()


@lru_cache
def _side_stream() -> torch.cuda.Stream:
    """One for all work before captures: for each that it sees, cuBLAS takes 32 MiB and keeps them."""
    return torch.cuda.Stream()
