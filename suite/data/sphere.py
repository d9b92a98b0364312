"""Random points on the unit sphere: the theory's own inputs."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from suite.data.source import SOURCES, Source
from suite.data.views import VIEWS, GaussianNoise, View
from suite.registry import named


@SOURCES
class Sphere(Source):
    """Independent uniform points on the unit sphere, each seen through two views."""

    source: Literal["sphere"] = "sphere"
    input_dim: int = Field(default=32, ge=2)
    """Dimension p of the inputs."""
    views: Annotated[View, VIEWS, BeforeValidator(named)] = GaussianNoise()
    """The default shows one tower the point and the other a noisy copy."""

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two views of `samples` points: (n, p), (n, p)."""
        points = rng.standard_normal((self.samples, self.input_dim))
        points /= np.linalg.norm(points, axis=-1, keepdims=True)
        return self.views(points, (self.input_dim,), rng)
