"""Optimizers: how a gradient becomes an update."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from suite.registry import Registry, Settings
from suite.training.learning_rates import LEARNING_RATES, LearningRate, WidthRule

if TYPE_CHECKING:
    from torch import Tensor


class Optimizer(Settings):
    """An update rule with its learning-rate rule."""

    name: str
    learning_rate: Annotated[LearningRate, LEARNING_RATES] = Field(default=WidthRule())
    """The rule that sets eta: `{rule: width, c: 0.2}`, `{rule: constant, value: 0.01}` or
    `{rule: sharpness, fraction: 0.5}`."""

    @abstractmethod
    def update(self, weights: list[Tensor], gradients: list[Tensor], *, rates: Tensor, factors: list[float]) -> None:
        """Move every layer's stack (S, m, m) in place; rates (S,) are eta, 0 where a slot stays; factors are P."""


OPTIMIZERS: Registry[Optimizer] = Registry()


@OPTIMIZERS
class GradientDescent(Optimizer):
    """Full-batch gradient descent: w <- w - eta P grad."""

    name: Literal["gd"] = "gd"

    def update(self, weights: list[Tensor], gradients: list[Tensor], *, rates: Tensor, factors: list[float]) -> None:
        """w <- w - eta P grad, layer by layer."""
        rates = rates[:, None, None]
        for weight, gradient, factor in zip(weights, gradients, factors, strict=True):
            weight.addcmul_(gradient, rates, value=-factor)
