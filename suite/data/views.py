"""Views: how one sample becomes the pair that the two towers see. Drawn once per trial, never per step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
from pydantic import Field

from suite.registry import Registry, Settings


class View(Settings):
    """Turns samples into two views."""

    name: str

    @abstractmethod
    def __call__(
        self, samples: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Views (n, p_query), (n, p_key) of samples (n, p), whose rows have `shape` (height, width) or (p,)."""


VIEWS: Registry[View] = Registry()


@VIEWS
class Halves(View):
    """The left and the right half of each image."""

    name: Literal["halves"] = "halves"

    def __call__(
        self, samples: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Left and right columns of each image, flattened: (n, h*w) -> twice (n, h*w/2)."""
        if len(shape) != 2 or shape[1] % 2:
            raise ValueError(f"views: halves needs images of even width; these samples have shape {shape}")
        images = samples.reshape(len(samples), *shape)
        middle = shape[1] // 2
        left, right = images[:, :, :middle], images[:, :, middle:]
        return left.reshape(len(samples), -1), right.reshape(len(samples), -1)


@VIEWS
class GaussianNoise(View):
    """The sample itself, and the sample plus Gaussian noise."""

    name: Literal["gaussian-noise"] = "gaussian-noise"
    std: float = Field(default=0.1, ge=0)
    """Standard deviation of the whole noise vector's norm, in units of the sample's norm."""

    def __call__(
        self, samples: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clean and noisy copies: (n, p) -> twice (n, p)."""
        scale = self.std * np.linalg.norm(samples, axis=-1, keepdims=True) / samples.shape[-1] ** 0.5
        return samples, samples + scale * rng.standard_normal(samples.shape)
