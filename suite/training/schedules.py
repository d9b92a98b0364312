"""Learning-rate schedules: the factor by which eta is multiplied at each step."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from pydantic import Field

from suite.registry import Registry, Settings

if TYPE_CHECKING:
    from torch import Tensor

Steps = TypeVar("Steps", np.ndarray, "Tensor")


class Schedule(Settings):
    """How eta changes over the steps of a trial."""

    name: str
    warm_up: int = Field(default=0, ge=0)
    """Steps over which the rate first rises linearly to that of the schedule."""

    @abstractmethod
    def decay(self, step: Steps) -> Steps:
        """The factor without warm-up, for steps 0, 1, ... as floats."""

    def factor(self, step: Steps) -> Steps:
        """What eta is multiplied with for the step that leaves `step`."""
        decay = self.decay(step)
        return decay * ((step + 1) / self.warm_up).clip(max=1) if self.warm_up else decay

    @property
    def is_constant(self) -> bool:
        """Whether every factor is 1."""
        return False

    def elapsed(self, steps: int) -> float:
        """Sum of the factors of the first `steps` steps: eta times this is the time of gradient flow."""
        return float(steps) if self.is_constant else float(_sums(self, _rounded_up(steps))[steps])

    def last_step(self, duration: float, *, most: int) -> int:
        """The first step, from 1 on, at which `elapsed` comes to the duration; at most `most`."""
        if self.is_constant:
            return max(1, min(most, math.ceil(duration - 1e-9)))
        sums = _sums(self, _rounded_up(most))[: most + 1]
        return max(1, min(most, int(np.searchsorted(sums, duration - 1e-9))))


@lru_cache(maxsize=256)
def _sums(schedule: Schedule, steps: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(schedule.factor(np.arange(steps, dtype=np.float64)))])


def _rounded_up(steps: int) -> int:
    """The next power of two, so that few sums are kept."""
    return 1 << max(steps, 1023).bit_length()


SCHEDULES: Registry[Schedule] = Registry()


@SCHEDULES
class Constant(Schedule):
    """The same rate at every step, after the warm-up."""

    name: Literal["constant"] = "constant"

    @property
    def is_constant(self) -> bool:
        """Whether every factor is 1: no warm-up."""
        return self.warm_up == 0

    def decay(self, step: Steps) -> Steps:
        """1."""
        return 0 * step + 1


@SCHEDULES
class InverseSqrt(Schedule):
    """Falls like 1 / sqrt(t): the factor is 1 / sqrt(1 + t / steps)."""

    name: Literal["inverse-sqrt"] = "inverse-sqrt"
    steps: int = Field(default=1, ge=1)
    """Steps after which the rate has fallen to 1 / sqrt(2)."""

    def decay(self, step: Steps) -> Steps:
        """1 / sqrt(1 + t / steps)."""
        return (1 + step / self.steps) ** -0.5


@SCHEDULES
class Cosine(Schedule):
    """Half a cosine from 1 to `final` over `steps` steps, then `final` (Loshchilov & Hutter 2017, eq. 5)."""

    name: Literal["cosine"] = "cosine"
    steps: int = Field(ge=1)
    """Steps until the rate is at its final value; not the budget, so that a larger budget changes no number."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Final share of eta."""

    def decay(self, step: Steps) -> Steps:
        """final + (1 - final) (1 + cos(pi t / steps)) / 2."""
        angle = math.pi * (step / self.steps).clip(max=1)
        cosine = np.cos(angle) if isinstance(angle, np.ndarray) else angle.cos()
        return self.final + (1 - self.final) * (1 + cosine) / 2
