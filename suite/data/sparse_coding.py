"""Sparse combinations of a few directions in noise: the model in which contrastive features are understood."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from suite.data.composition import Views
from suite.data.source import SOURCES, Pairs, Source
from suite.data.views import RandomMask
from suite.registry import located


@SOURCES
class SparseCoding(Source):
    """x = M z + xi with orthonormal columns in M and z in {-1, 0, 1}; Wen & Li, arXiv 2105.15134."""

    source: Literal["sparse_coding"] = "sparse_coding"
    input_dim: int = Field(default=64, ge=2)
    """Dimension p of the inputs."""
    dictionary: int = Field(default=32, ge=1)
    """Number D of directions, the columns of M; at most `input_dim`."""
    active: float = Field(default=0.1, gt=0, le=1)
    """Probability that a direction takes part in a sample; a sample that would have none gets one."""
    noise: float = Field(default=0.1, ge=0)
    """Size of xi: each of its coordinates has standard deviation noise / sqrt(p)."""
    views: Views = RandomMask()
    """The default shows one tower a random half of the coordinates and the other tower the rest."""

    @model_validator(mode="after")
    def _orthonormal(self) -> SparseCoding:
        if self.dictionary > self.input_dim:
            raise located(
                ("data", "dictionary"),
                f"{self.dictionary} directions cannot be orthonormal in input_dim {self.input_dim}; "
                f"write at most {self.input_dim}",
            )
        return self

    def draw(self, rng: np.random.Generator) -> Pairs:
        """Views of `samples` points (n, p). M comes first, so that more samples share the M of fewer."""
        directions = draw_directions(self.input_dim, self.dictionary, rng)
        for_codes, for_noise = rng.spawn(2)
        codes = draw_codes(self.samples, self.dictionary, self.active, for_codes)
        noise = for_noise.standard_normal((self.samples, self.input_dim)) * self.noise / self.input_dim**0.5
        points = codes @ directions.T + noise
        return Pairs(*self.views(points, points, rng))


def draw_directions(input_dim: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """M (p, D) with orthonormal columns, uniform among such: QR of a Gaussian matrix, R with a positive diagonal."""
    orthonormal, triangular = np.linalg.qr(rng.standard_normal((input_dim, number)))
    return orthonormal * np.sign(np.diag(triangular))


def draw_codes(samples: int, number: int, active: float, rng: np.random.Generator) -> np.ndarray:
    """z (n, D) in {-1, 0, 1}: each entry is nonzero with probability `active`, with either sign; no row is all zero."""
    uniform = rng.random((samples, number + 1))
    codes = np.where(uniform[:, 1:] < active, np.where(uniform[:, 1:] < active / 2, -1.0, 1.0), 0.0)
    signed = np.floor(2 * number * uniform[:, 0]).astype(int)
    empty = np.flatnonzero(~codes.any(axis=1))
    codes[empty, signed[empty] // 2] = 1.0 - 2.0 * (signed[empty] % 2)
    return codes
