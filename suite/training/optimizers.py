"""Optimizers: how gradients become the directions along which weights move."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from suite.registry import Registry, Settings, named
from suite.training.learning_rates import LEARNING_RATES, LearningRate, WidthRule
from suite.training.schedules import SCHEDULES, Constant, Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Optimizer(Settings):
    """An update rule with its learning rate: w <- w - eta P direction, for every trained weight w."""

    name: str
    learning_rate: Annotated[LearningRate, LEARNING_RATES] = Field(default=WidthRule())
    """The rule that sets eta: `{rule: width, c: 0.2}`, `{rule: constant, value: 0.01}` or
    `{rule: sharpness, fraction: 0.5}`."""
    schedule: Annotated[Schedule, SCHEDULES, BeforeValidator(named)] = Constant()
    """How eta changes over the steps."""

    @property
    def batch(self) -> int | None:
        """Samples per step; None for all of them."""
        return None

    @property
    def num_buffers(self) -> int:
        """Tensors kept per weight between steps."""
        return 0

    @property
    def is_plain(self) -> bool:
        """Each step is along the full batch's gradient itself."""
        return False

    @property
    def is_linear(self) -> bool:
        """Directions scale with gradients, so that parametrizations of one system stay one system."""
        return True

    @abstractmethod
    def direction(self, gradient: Tensor, buffers: list[Tensor], *, moving: Tensor, step: Tensor) -> Tensor:
        """Where a stack of weights (S, ...) moves; buffers (S, ...) are renewed in place where `moving` (S, 1, ...).

        `step` (S, 1, ...) counts the steps taken before this one.
        """


OPTIMIZERS: Registry[Optimizer] = Registry()


def heavy_ball(gradient: Tensor, buffers: list[Tensor], momentum: float, moving: Tensor) -> Tensor:
    """v <- momentum v + gradient, and v is the direction; without a buffer, the gradient itself (Polyak 1964)."""
    if not buffers:
        return gradient
    (velocity,) = buffers
    velocity.copy_((momentum * velocity + gradient).where(moving, velocity))
    return velocity


@OPTIMIZERS
class GradientDescent(Optimizer):
    """Full-batch gradient descent: w <- w - eta P grad."""

    name: Literal["gd"] = "gd"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Heavy-ball momentum: the direction is v <- momentum v + grad."""

    @property
    def is_plain(self) -> bool:
        """Without momentum."""
        return not self.momentum

    @property
    def num_buffers(self) -> int:
        """The velocity, with momentum."""
        return 1 if self.momentum else 0

    def direction(self, gradient: Tensor, buffers: list[Tensor], *, moving: Tensor, step: Tensor) -> Tensor:
        """The gradient, or its velocity."""
        return heavy_ball(gradient, buffers, self.momentum, moving)


@OPTIMIZERS
class StochasticGradientDescent(Optimizer):
    """Gradient descent on batches, drawn without replacement within an epoch; negatives come from the batch.

    What is measured at every step is still the gradient of the full batch.
    """

    name: Literal["sgd"] = "sgd"
    batch_size: int = Field(ge=2)
    """Samples per step, at most data.samples; what is left over at the end of an epoch is not used in it."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Heavy-ball momentum: the direction is v <- momentum v + grad."""

    @property
    def batch(self) -> int | None:
        """Samples per step."""
        return self.batch_size

    @property
    def num_buffers(self) -> int:
        """The velocity, with momentum."""
        return 1 if self.momentum else 0

    def direction(self, gradient: Tensor, buffers: list[Tensor], *, moving: Tensor, step: Tensor) -> Tensor:
        """The batch's gradient, or its velocity."""
        return heavy_ball(gradient, buffers, self.momentum, moving)


@OPTIMIZERS
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), full batch unless told otherwise; P multiplies its step as any other's.

    Its steps do not shrink with the gradient, so only a schedule that falls lets it settle.
    """

    name: Literal["adam"] = "adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the mean square."""
    batch_size: int | None = Field(default=None, ge=2)
    """Samples per step; left out, all."""

    @property
    def batch(self) -> int | None:
        """Samples per step."""
        return self.batch_size

    @property
    def num_buffers(self) -> int:
        """Mean and mean square."""
        return 2

    @property
    def is_linear(self) -> bool:
        """No: a step's size does not depend on the gradient's."""
        return False

    def direction(self, gradient: Tensor, buffers: list[Tensor], *, moving: Tensor, step: Tensor) -> Tensor:
        """Bias-corrected mean over the root of the bias-corrected mean square."""
        mean, square = buffers
        mean.copy_(mean.lerp(gradient, 1 - self.beta1).where(moving, mean))
        square.copy_((self.beta2 * square + (1 - self.beta2) * gradient * gradient).where(moving, square))
        count = (step + 1).double()
        mean_size = (1 - self.beta1**count).to(mean.dtype)
        square_size = (1 - self.beta2**count).to(mean.dtype)
        return (mean / mean_size) / ((square / square_size).sqrt() + self.epsilon)
