"""The positive pairs of one trial: drawn from its seed, centred, and scaled to unit norm."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

from suite.data.source import Pairs, Source
from suite.training.couplings import Coupling

_SHUFFLE = 1
"""Marks the stream that shuffles positives, so that shuffling leaves the data's own stream as it is."""


@lru_cache(maxsize=64)
def draw_pairs(source: Source, seed: int) -> Pairs:
    """The trial's data: unit rows (n, p_query) and (n, p_key), float64; the same wherever and whenever drawn.

    The stream depends on the seed and the kind of source alone, so that a larger sample contains the smaller one.

    Raises:
        ValueError: the source cannot give such pairs, or a row vanishes and has no direction.
    """
    raw = source.draw(_stream(source, seed))
    assert len(raw.query) == len(raw.key) == source.samples
    query, key = _unit_rows(raw.query, source, "query"), _unit_rows(raw.key, source, "key")
    if source.shuffled_positives:
        key = key[_stream(source, seed, _SHUFFLE).permutation(len(key))]
    return Pairs(query=query, key=key, labels=raw.labels)


def _stream(source: Source, seed: int, *purpose: int) -> np.random.Generator:
    entropy = np.random.SeedSequence([seed, 0, zlib.crc32(source.source.encode()), *purpose])
    return np.random.Generator(np.random.PCG64(entropy))


def check_views(pairs: Pairs, coupling: Coupling) -> None:
    """See that a coupling which shows both views to one network gets views of one size.

    Raises:
        ValueError: it does not.
    """
    query, key = pairs.query.shape[1], pairs.key.shape[1]
    if coupling.one_draw and query != key:
        raise ValueError(
            f"coupling {coupling.name} shows both views to one network, but they have {query} and {key} features; "
            "choose views of equal size, or coupling joint, alternating or frozen"
        )


def _unit_rows(view: np.ndarray, source: Source, tower: str) -> np.ndarray:
    view = view.reshape(len(view), -1)
    if source.center:
        view = view - view.mean(axis=0)
    if source.whiten:
        view = _whitened(view)
    norms = np.linalg.norm(view, axis=1, keepdims=True)
    vanishing = norms[:, 0] <= 1e-12 * max(norms.max(), 1.0)
    if vanishing.any():
        raise ValueError(
            f"data: {vanishing.sum()} of {len(view)} rows of the {tower} view are zero"
            f"{' after centring' if source.center else ''}, and inputs need unit norm; "
            "remove these rows or choose other views" + (" or center: false" if source.center else "")
        )
    return view / norms


def _whitened(view: np.ndarray) -> np.ndarray:
    """Rows (n, p) turned so that their second moments are those of a projection: directions without any stay 0."""
    left, sizes, right = np.linalg.svd(view, full_matrices=False)
    kept = sizes > 1e-10 * sizes.max(initial=0)
    return len(view) ** 0.5 * left[:, kept] @ right[kept]
