"""Learning-rate rules: what sets eta, where layer l moves at the rate eta * P_l and P is the parametrization's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from suite.registry import Registry, Settings


class LearningRate(Settings):
    """A rule for the scalar eta of one trial."""

    rule: str

    @abstractmethod
    def eta(self, *, factor: float, sharpness: Callable[[], float]) -> float:
        """The trial's eta, from the query tower's P and, if asked for, lambda_max(P^1/2 H P^1/2) at the start."""


LEARNING_RATES: Registry[LearningRate] = Registry(tag="rule")


@LEARNING_RATES
class WidthRule(LearningRate):
    """eta = c at every width, so that weights move at c * P: the theorem's rate, which shrinks like 1/width for
    `allen-zhu`. A width that does not become stationary then shows an effect, not a mistuned rate."""

    rule: Literal["width"] = "width"
    c: float = Field(default=0.2, gt=0)
    """The rate in units of the parametrization's factor P."""

    def eta(self, *, factor: float, sharpness: Callable[[], float]) -> float:
        """c itself: layers multiply it by P."""
        return self.c


@LEARNING_RATES
class ConstantRule(LearningRate):
    """The same raw rate on the query tower's weights at every width: eta = value / P."""

    rule: Literal["constant"] = "constant"
    value: float = Field(gt=0)
    """Rate applied to the query tower's weights themselves; the key tower's follows the ratio of their factors P."""

    def eta(self, *, factor: float, sharpness: Callable[[], float]) -> float:
        """value / P, so that the query tower's weights move at `value`."""
        return self.value / factor


@LEARNING_RATES
class SharpnessRule(LearningRate):
    """eta = fraction * 2 / lambda_max(P^1/2 H P^1/2) at the initial point, for edge-of-stability studies.

    It confounds width: sharpness at the start depends on width and then grows.
    """

    rule: Literal["sharpness"] = "sharpness"
    fraction: float = Field(default=0.5, gt=0)
    """Share of the largest stable rate at the initial point."""

    def eta(self, *, factor: float, sharpness: Callable[[], float]) -> float:
        """fraction * 2 / sharpness.

        Raises:
            ValueError: the loss has no positive curvature at the start, so it gives no rate.
        """
        largest = sharpness()
        if not largest > 0:
            raise ValueError(f"the sharpness at the start is {largest:.3g}: no stable rate follows from it")
        return self.fraction * 2 / largest
