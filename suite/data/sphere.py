"""Random points on the unit sphere: the theory's own inputs."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from suite.data.composition import Composition, Views
from suite.data.source import SOURCES, Pairs, Source
from suite.data.views import GaussianNoise, View
from suite.registry import located

_ROWS_AT_A_TIME = 1024


@SOURCES
class Sphere(Source):
    """Independent uniform points on the unit sphere, each seen through two views."""

    source: Literal["sphere"] = "sphere"
    input_dim: int = Field(default=32, ge=2)
    """Dimension p of the inputs."""
    views: Views = GaussianNoise()
    """The default shows one tower the point and the other a noisy copy."""
    separation: float | None = Field(default=None, gt=0, le=2**0.5)
    """Smallest distance between two samples: every second point is planted at this chord distance from the one
    before it. `samples` must be even, and noise of the views below a quarter of it."""

    @model_validator(mode="after")
    def _keeps_its_separation(self) -> Sphere:
        if self.separation is None:
            return self
        if self.samples % 2:
            raise located(
                ("data", "samples"), f"separation plants pairs of points, so samples must be even; got {self.samples}"
            )
        for name in ("center", "whiten"):
            if getattr(self, name):
                words = f"{name} would change the distances that separation sets; leave it out"
                raise located(("data", name), words)
        if self.views.noise >= self.separation / 4:
            field, view = _noisiest(self.views)
            given = f"has {self.views.noise:g}" if np.isfinite(view.noise) else "does more than add noise"
            raise located(
                ("data", *field),
                f"separation {self.separation:g} is that of what the towers see only if the views add noise of a norm "
                f"below a quarter of it, {self.separation / 4:g}; {self.views.name} {given}",
            )
        return self

    def draw(self, rng: np.random.Generator) -> Pairs:
        """Views of `samples` points (n, p).

        Raises:
            ValueError: two points that were not planted as a pair are closer than `separation`.
        """
        points = rng.standard_normal((self.samples, self.input_dim))
        points /= np.linalg.norm(points, axis=-1, keepdims=True)
        if self.separation is not None:
            points = _planted(points, self.separation)
            self._check_others(points, self.separation)
        return Pairs(*self.views(points, points, rng))

    def _check_others(self, points: np.ndarray, separation: float) -> None:
        smallest = _smallest_distance_between_pairs(points)
        if smallest < separation:
            raise ValueError(
                f"data: two points of different planted pairs are only {smallest:.4g} apart, less than data.separation "
                f"{separation:g}; use a larger input_dim than {self.input_dim}, fewer samples than {self.samples} "
                "or a smaller separation"
            )


def _noisiest(views: View) -> tuple[tuple[str | int, ...], View]:
    """Where the view that adds the most noise stands in the YAML, and that view."""
    if not isinstance(views, Composition):
        return ("views", "std") if isinstance(views, GaussianNoise) else ("views",), views
    index = max(range(len(views.views)), key=lambda index: views.views[index].noise)
    (_, *field), view = _noisiest(views.views[index])
    return ("views", index, *field), view


def _planted(points: np.ndarray, separation: float) -> np.ndarray:
    """Unit points (n, p) with each second one moved, in its own direction, to this chord from the one before it.

    On a great circle, a chord of length delta spans the angle 2 arcsin(delta / 2).
    """
    anchors, directions = points[::2], points[1::2]
    tangents = directions - (directions * anchors).sum(axis=1, keepdims=True) * anchors
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    angle = 2 * np.arcsin(separation / 2)
    planted = points.copy()
    planted[1::2] = np.cos(angle) * anchors + np.sin(angle) * tangents
    return planted


def _smallest_distance_between_pairs(points: np.ndarray) -> float:
    """Least distance of two points (n, p) that are not rows 2k and 2k+1; infinite if there are none."""
    smallest = np.inf
    for start in range(0, len(points), _ROWS_AT_A_TIME):
        rows = np.arange(start, min(start + _ROWS_AT_A_TIME, len(points)))
        cosines = points[rows] @ points.T
        cosines[rows - start, rows] = cosines[rows - start, rows ^ 1] = -np.inf
        nearest = cosines.argmax(axis=1)
        if len(points) > 2:
            smallest = min(smallest, np.linalg.norm(points[rows] - points[nearest], axis=1).min())
    return float(smallest)
