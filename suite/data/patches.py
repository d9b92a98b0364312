"""Neighbouring patches of the two photographs that scikit-learn carries: natural images with no download."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, model_validator

from suite.data.bundled import bundled
from suite.data.composition import Views
from suite.data.source import SOURCES, Pairs, Source
from suite.data.views import Identical
from suite.registry import located

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
HEIGHT, WIDTH = 427, 640


@SOURCES
class Patches(Source):
    """Square grey patches of scikit-learn's photographs; the key is the query's neighbour on the right."""

    source: Literal["patches"] = "patches"
    size: int = Field(default=8, ge=1, le=WIDTH // 2)
    """Height and width of a patch in pixels."""
    gap: int = Field(default=0, ge=0)
    """Pixels left out between the two patches of a pair."""
    views: Views = Identical()
    """Applied on top of the pair of patches."""
    center: bool = True
    """Subtract each view's mean patch over the samples; all-positive inputs have tiny angles between them."""

    @model_validator(mode="after")
    def _fits(self) -> Patches:
        if 2 * self.size + self.gap > WIDTH:
            raise located(
                ("data", "gap"),
                f"two patches of size {self.size} and a gap of {self.gap} are wider than the photographs, "
                f"{HEIGHT} x {WIDTH} pixels; write at most {WIDTH - 2 * self.size}",
            )
        if self.samples > self.num_positions:
            raise located(
                ("data", "samples"),
                f"the photographs have {self.num_positions} positions for such pairs, and none is used twice; "
                f"got {self.samples} samples",
            )
        return self

    @property
    def num_positions(self) -> int:
        """Places, over both photographs, where a pair fits."""
        return len(PHOTOGRAPHS) * (HEIGHT - self.size + 1) * (WIDTH - 2 * self.size - self.gap + 1)

    def draw(self, rng: np.random.Generator) -> Pairs:
        """Views of `samples` pairs of patches (n, size, size), their positions drawn without replacement."""
        strips = sliding_window_view(_photographs(), (self.size, 2 * self.size + self.gap), axis=(1, 2))
        chosen = rng.permutation(self.num_positions)[: self.samples]
        pairs = strips[np.unravel_index(chosen, strips.shape[:3])]
        return Pairs(*self.views(pairs[:, :, : self.size], pairs[:, :, self.size + self.gap :], rng))


@cache
def _photographs() -> np.ndarray:
    """Both photographs in grey, the mean of their channels: (2, 427, 640)."""
    from PIL import Image

    grey = []
    for name in PHOTOGRAPHS:
        with Image.open(bundled("images", name)) as image:
            grey.append(np.asarray(image, dtype=np.float64).mean(axis=2))
    return np.stack(grey)
