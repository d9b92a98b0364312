"""Batches of a trial: which samples a step sees, from (seed, step) alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_STREAM = 4


def batch_rows(seed: int, *, samples: int, batch: int, steps: range) -> np.ndarray:
    """Sample indices of each step's batch, ascending: (steps, batch).

    Every epoch of samples // batch steps takes a new random order and cuts it into batches; the rest of it is unused.
    """
    per_epoch = samples // batch
    return np.stack([_epoch(seed, samples, batch, step // per_epoch)[step % per_epoch] for step in steps])


@lru_cache(maxsize=512)
def _epoch(seed: int, samples: int, batch: int, number: int) -> np.ndarray:
    stream = np.random.SeedSequence([seed, _STREAM, number])
    order = np.random.Generator(np.random.PCG64(stream)).permutation(samples)
    used = samples // batch * batch
    return np.sort(order[:used].reshape(-1, batch), axis=1)
