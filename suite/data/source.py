"""What every data source has in common: samples, then views, then centring and unit norm."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from suite.registry import Registry, Settings


@dataclass(frozen=True)
class Pairs:
    """The two views of each sample, float64, and the samples' classes where the source knows them.

    `draw_pairs` gives unit rows, query (n, p_query) and key (n, p_key); a source gives them raw, and rows may be
    images. labels (n,) int64.
    """

    query: np.ndarray
    key: np.ndarray
    labels: np.ndarray | None = None


class Source(Settings):
    """A source of positive pairs."""

    source: str
    samples: int = Field(default=64, ge=2)
    """Number of pairs n; the batch is all of them."""
    center: bool = False
    """Subtract each view's mean over the samples before scaling rows to norm 1. All-positive inputs have tiny
    angles between them, and then no width becomes stationary in reasonable time."""
    whiten: bool = False
    """Give every principal direction of each view's samples the same variance, after centring if any."""
    shuffled_positives: bool = False
    """Pair the views at random: the control in which positives mean nothing. The views and labels stay the same."""

    @property
    def has_labels(self) -> bool:
        """Whether the pairs come with the classes of their samples."""
        return False

    @property
    def files(self) -> tuple[str, ...]:
        """The user's files that it reads."""
        return ()

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Pairs:
        """Raw pairs, rows (p,) or images (height, width), before centring and scaling.

        Raises:
            ValueError: the settings or the user's file cannot give such pairs; says what to do.
        """


SOURCES: Registry[Source] = Registry(tag="source")
