"""The 8x8 handwritten digits that scikit-learn carries: real data with no download."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
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
        pixels = _pixels()
        chosen = rng.permutation(len(pixels))[: self.samples]
        return self.views(pixels[chosen], (8, 8), rng)


@cache
def _pixels() -> np.ndarray:
    """The images (1797, 64), read from scikit-learn's file: importing the library would cost each worker seconds."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    return np.loadtxt(path, delimiter=",")[:, :-1]
