"""The 8x8 handwritten digits that scikit-learn carries: real data with no download."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from pydantic import Field

from suite.data.bundled import bundled
from suite.data.composition import Views
from suite.data.source import SOURCES, Pairs, Source
from suite.data.views import Halves

NUM_DIGITS = 1797


@SOURCES
class Digits(Source):
    """Random digits from the UCI set in scikit-learn, each seen through two views."""

    source: Literal["digits"] = "digits"
    views: Views = Halves()
    """`halves` shows the left half to one tower and the right half to the other; `gaussian-noise` the image and a
    noisy copy. A list applies its views in order; in a sweep, --set or a profile a list is an axis, so write two
    brackets: `[[halves, shift]]`."""
    center: bool = True
    """Subtract each view's mean image over the samples; without it no width becomes stationary in 3000 steps."""
    samples: int = Field(default=64, ge=2, le=NUM_DIGITS)
    """Number of digits, drawn without replacement from the 1797 there are."""

    @property
    def has_labels(self) -> bool:
        """Each digit's label is the number written."""
        return True

    def draw(self, rng: np.random.Generator) -> Pairs:
        """Views of `samples` images (n, 8, 8), and their labels."""
        images, labels = _digits()
        chosen = rng.permutation(len(images))[: self.samples]
        return Pairs(*self.views(images[chosen], images[chosen], rng), labels[chosen])


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The images (1797, 8, 8) and their labels (1797,)."""
    rows = np.loadtxt(bundled("data", "digits.csv.gz"), delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
