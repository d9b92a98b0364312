"""Scaling laws: each is one small class, registered by its name.

A law gives the logarithm of the median of y at x. Parameters are fitted in coordinates in which the law is smooth:
an amplitude as its logarithm, an offset and exponents as they are.

Shapes: n rows, k variables, q parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a law, in the coordinate in which it is fitted."""

    name: str
    log: bool = False
    """Fitted as its logarithm, so positive."""
    lower: float = -np.inf
    upper: float = np.inf
    """Bounds in the fitted coordinate. A bound of 0 belongs to the law; any other only limits the search."""


class Law(ABC):
    """A functional form y = law(x), with y > 0 and x > 0."""

    name: ClassVar[str]
    log_linear: ClassVar[bool]
    """Whether log y is linear in the fitted coordinates: then the optimum is unique."""
    min_scales: ClassVar[int] = 2
    """How many distinct values of each variable the parameters need."""
    max_variables: ClassVar[int | None] = None

    @abstractmethod
    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        """The parameters for these variables, in the order of the vector that the other methods take."""

    @abstractmethod
    def log_median(self, theta: Array, log_x: Array) -> Array:
        """Logarithm of the median of y: (q,) x (n, k) -> (n,)."""

    @abstractmethod
    def jacobian(self, theta: Array, log_x: Array) -> Array:
        """Derivative of `log_median` by the parameters: (q,) x (n, k) -> (n, q)."""

    def bend(self, theta: Array, log_x: Array, weights: Array) -> Array:
        """Weighted sum over rows of the second derivatives of `log_median`: (q,) x (n, k) x (n,) -> (q, q)."""
        return np.zeros((len(theta), len(theta)))

    @abstractmethod
    def starts(self, log_x: Array, log_y: Array) -> Array:
        """Points to start the search from, best first: (n, k) x (n,) -> (any, q)."""

    def degenerate(self, theta: Array, log_x: Array) -> str:
        """Why a fitted vector does not determine the parameters, in words; empty if it does."""
        return ""


LAWS: dict[str, Law] = {}

L = TypeVar("L", bound=type[Law])


def register(law: L) -> L:
    """Make a law available by its name."""
    if law.name in LAWS:
        raise ValueError(f"{law.name!r} is registered twice")
    LAWS[law.name] = law()
    return law


def exponent_names(variables: Sequence[str]) -> list[str]:
    """`a` for one variable, else `a_<last component>`, or the full path where two variables share that component."""
    if len(variables) == 1:
        return ["a"]
    last = [name.rsplit(".", 1)[-1] for name in variables]
    return [f"a_{short if last.count(short) == 1 else name}" for name, short in zip(variables, last, strict=True)]


@register
class Multiplicative(Law):
    """A prod_i x_i^-a_i."""

    name = "multiplicative"
    log_linear = True

    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        return (Parameter(name="A", log=True), *(Parameter(name=name) for name in exponent_names(variables)))

    def log_median(self, theta: Array, log_x: Array) -> Array:
        return theta[0] - log_x @ theta[1:]

    def jacobian(self, theta: Array, log_x: Array) -> Array:
        return np.column_stack([np.ones(len(log_x)), -log_x])

    def starts(self, log_x: Array, log_y: Array) -> Array:
        design = self.jacobian(np.empty(0), log_x)
        return np.asarray(np.linalg.lstsq(design, log_y, rcond=None)[0])[None]


@register
class Power(Multiplicative):
    """A x^-a."""

    name = "power"
    max_variables = 1


@register
class OffsetPower(Law):
    """E + A x^-a with E >= 0: a power law that levels off at E."""

    name = "offset-power"
    log_linear = False
    min_scales = 3
    max_variables = 1
    exponent_range: ClassVar[tuple[float, float]] = (0.01, 10.0)
    num_starts: ClassVar[int] = 6

    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        low, high = self.exponent_range
        return (
            Parameter(name="E", lower=0.0),
            Parameter(name="A", log=True),
            Parameter(name="a", lower=low, upper=high),
        )

    def log_median(self, theta: Array, log_x: Array) -> Array:
        return np.logaddexp(_log(theta[0]), theta[1] - theta[2] * log_x[:, 0])

    def jacobian(self, theta: Array, log_x: Array) -> Array:
        log_median = self.log_median(theta, log_x)
        share = np.exp(theta[1] - theta[2] * log_x[:, 0] - log_median)
        return np.column_stack([np.exp(-log_median), share, -share * log_x[:, 0]])

    def bend(self, theta: Array, log_x: Array, weights: Array) -> Array:
        jacobian = self.jacobian(theta, log_x)
        slopes = np.column_stack([np.zeros(len(log_x)), np.ones(len(log_x)), -log_x[:, 0]])
        share = weights * jacobian[:, 1]
        return slopes.T @ (share[:, None] * slopes) - jacobian.T @ (weights[:, None] * jacobian)

    def starts(self, log_x: Array, log_y: Array) -> Array:
        """Best local minima of a grid over (a, E/A at the middle of x), where the amplitude is solved for (variable
        projection: Golub & Pereyra 1973)."""
        scales, means, counts = _cells(log_x[:, 0], log_y)
        middle = float(np.average(scales, weights=counts))
        exponents = np.geomspace(*self.exponent_range, 41)[:, None]
        ratios = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 37)])[None, :]
        shape = np.logaddexp(_log(ratios)[..., None], -exponents[..., None] * (scales - middle))
        log_amplitude = np.average(means - shape, axis=-1, weights=counts)
        loss = np.average((means - shape - log_amplitude[..., None]) ** 2, axis=-1, weights=counts)
        best = _local_minima(loss)[: self.num_starts]
        return np.array(
            [
                [
                    np.exp(log_amplitude[i, j]) * ratios[0, j],
                    log_amplitude[i, j] + exponents[i, 0] * middle,
                    exponents[i, 0],
                ]
                for i, j in best
            ]
        )

    def degenerate(self, theta: Array, log_x: Array) -> str:
        share = self.jacobian(theta, log_x)[:, 1]
        return (
            ""
            if share.max() > 1e-6 or theta[0] == 0
            else "y does not change with x, so A is 0 within the data and a can be anything"
        )


def _log(value: Array) -> Array:
    """Logarithm with log 0 = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(value)


def _cells(log_x: Array, log_y: Array) -> tuple[Array, Array, Array]:
    """Distinct x with the mean of log y and the number of rows at each."""
    scales, index, counts = np.unique(log_x, return_inverse=True, return_counts=True)
    return scales, np.bincount(index, weights=log_y) / counts, counts.astype(float)


def _local_minima(surface: Array) -> list[tuple[int, int]]:
    """Cells of a grid no higher than their eight neighbours, lowest first."""
    padded = np.pad(surface, 1, constant_values=np.inf)
    rows, columns = surface.shape
    shifts = [(i, j) for i in range(3) for j in range(3)]
    lowest = np.min([padded[i : i + rows, j : j + columns] for i, j in shifts], axis=0)
    cells = np.argwhere(surface <= lowest)
    order = np.argsort(surface[cells[:, 0], cells[:, 1]], kind="stable")
    return [(int(i), int(j)) for i, j in cells[order]]
