"""Views: how one sample becomes the pair that the two towers see. Drawn once per trial, never per step."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import numpy as np
from pydantic import Field

from suite.registry import Registry, Settings


class View(Settings):
    """Changes a pair, which starts as two copies of the sample."""

    name: str

    @property
    def noise(self) -> float:
        """Norm of what is added to a sample, in units of its norm; infinite where a view does more than add noise."""
        return math.inf

    @abstractmethod
    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The changed pair; rows are images, (n, height, width), or plain, (n, p).

        Raises:
            ValueError: these samples cannot be seen so; says why.
        """


VIEWS: Registry[View] = Registry()


@VIEWS
class Identical(View):
    """Both towers see the sample itself: augmentation off."""

    name: Literal["identical"] = "identical"

    @property
    def noise(self) -> float:
        """None."""
        return 0.0

    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The pair as it is."""
        return query, key


@VIEWS
class Halves(View):
    """The left half of the query's image and the right half of the key's."""

    name: Literal["halves"] = "halves"

    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Left and right columns: (n, h, w) -> twice (n, h, w/2)."""
        for view in (query, key):
            if view.ndim != 3 or view.shape[2] % 2:
                raise ValueError(
                    f"views: halves needs images of even width; these samples have shape {view.shape[1:]}; "
                    "plain vectors take gaussian-noise, random-mask or identical"
                )
        return query[:, :, : query.shape[2] // 2], key[:, :, key.shape[2] // 2 :]


@VIEWS
class GaussianNoise(View):
    """Gaussian noise on the key, or on both."""

    name: Literal["gaussian-noise"] = "gaussian-noise"
    std: float = Field(default=0.1, ge=0)
    """Standard deviation of the whole noise vector's norm, in units of the sample's norm."""
    both: bool = False
    """Independent noise on the query as well; otherwise it stays as it is."""

    @property
    def noise(self) -> float:
        """The standard deviation."""
        return self.std

    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noisy copies of the same shapes."""
        key = self._noisy(key, rng)
        return (self._noisy(query, rng) if self.both else query), key

    def _noisy(self, view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows = view.reshape(len(view), -1)
        scale = self.std * np.linalg.norm(rows, axis=-1, keepdims=True) / rows.shape[-1] ** 0.5
        return (rows + scale * rng.standard_normal(rows.shape)).reshape(view.shape)


@VIEWS
class RandomMask(View):
    """Disjoint random coordinates for the two towers: 2Dx and 2(I-D)x of Wen & Li, arXiv 2105.15134."""

    name: Literal["random-mask"] = "random-mask"
    keep: float = Field(default=0.5, gt=0, lt=1)
    """Probability that a coordinate goes to the query; otherwise it goes to the key. Both keep their expectation:
    what is left is divided by its probability."""

    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """D x / keep and (I - D) x' / (1 - keep), with D drawn for each sample."""
        if query.shape != key.shape:
            raise ValueError(
                "views: random-mask shares coordinates out between views of one shape; "
                f"these have shapes {query.shape[1:]} and {key.shape[1:]}"
            )
        kept = rng.random(query.shape) < self.keep
        return np.where(kept, query, 0) / self.keep, np.where(kept, 0, key) / (1 - self.keep)


@VIEWS
class Shift(View):
    """The key's image, or both, moved by a few pixels; what comes in from outside is zero."""

    name: Literal["shift"] = "shift"
    pixels: int = Field(default=1, ge=1)
    """Largest shift; each sample's is uniform over [-pixels, pixels] down and across."""
    both: bool = False
    """Shift the query as well, independently; otherwise it stays as it is."""

    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Shifted images of the same shapes."""
        key = self._shifted(key, rng)
        return (self._shifted(query, rng) if self.both else query), key

    def _shifted(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shape, most = images.shape[1:], self.pixels
        if len(shape) != 2 or min(shape) <= most:
            raise ValueError(
                f"views: shift by up to {most} pixels needs images larger than that; these samples have shape {shape}; "
                "plain vectors take gaussian-noise, random-mask or identical"
            )
        offsets = rng.integers(-most, most, size=(len(images), 2), endpoint=True)
        padded = np.pad(images, ((0, 0), (most, most), (most, most)))
        rows, columns = (most + np.arange(size) - offsets[:, [axis]] for axis, size in enumerate(shape))
        return padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
