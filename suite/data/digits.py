"""The 8x8 handwritten digits that scikit-learn carries: real data with no download."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from suite.data.source import SOURCES, Source
from suite.data.views import VIEWS, Halves, View
from suite.registry import named

NUM_DIGITS = 1797


@SOURCES
class Digits(Source):
    """Random digits from the UCI set in scikit-learn, each seen through two views."""

    source: Literal["digits"] = "digits"
    views: Annotated[View, VIEWS, BeforeValidator(named)] = Halves()
    """`halves` shows the left half to one tower and the right half to the other; `gaussian-noise` the image and a
    noisy copy."""
    center: bool = True
    """Subtract each view's mean image over the samples; without it no width becomes stationary in 3000 steps."""
    samples: int = Field(default=64, ge=2, le=NUM_DIGITS)
    """Number of digits, drawn without replacement from the 1797 there are."""

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two views of `samples` digits: (n, p), (n, p)."""
        from sklearn.datasets import load_digits

        pixels = load_digits().data
        chosen = rng.permutation(len(pixels))[: self.samples]
        return self.views(pixels[chosen], (8, 8), rng)
