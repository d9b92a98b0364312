"""Scaling laws: each is one small class, registered by its name.

A law gives the logarithm of the median of y at x. Parameters are fitted in coordinates in which the law is smooth:
an amplitude as its logarithm, an offset and exponents as they are.

Shapes: n rows, k variables, q parameters.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

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
    is_exponent: bool = False
    """Whether it is what the law is fitted for."""
    of_y: bool = False
    """Whether it is in the units of y. If those that are say so, the fit does not depend on the units."""


class Law(ABC):
    """A functional form y = law(x), with y > 0 and x > 0."""

    name: ClassVar[str]
    log_linear: ClassVar[bool]
    """Whether log y is linear in the fitted coordinates: then the optimum is unique."""
    min_scales: ClassVar[int] = 2
    """How many distinct values of each variable the parameters need."""
    max_variables: ClassVar[int | None] = None
    formula: ClassVar[str]
    """For people."""

    @abstractmethod
    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        """The parameters for these variables, in the order of the vector that the other methods take."""

    @abstractmethod
    def log_median(self, theta: Array, log_x: Array) -> Array:
        """Logarithm of the median of y: (q,) x (n, k) -> (n,)."""

    @abstractmethod
    def jacobian(self, theta: Array, log_x: Array) -> Array:
        """Derivative of `log_median` by the parameters: (q,) x (n, k) -> (n, q)."""

    def bend(self, theta: Array, log_x: Array, weights: Array, jacobian: Array) -> Array:
        """Weighted sum over rows of the second derivatives of `log_median`: (q,) x (n, k) x (n,) x (n, q) -> (q, q);
        `jacobian` is that at theta."""
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
    formula = "A prod_i x_i^-a_i"

    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        exponents = (Parameter(name=name, is_exponent=True) for name in exponent_names(variables))
        return (Parameter(name="A", log=True, of_y=True), *exponents)

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
    formula = "A x^-a"


@register
class Additive(Law):
    """E + sum_i A_i x_i^-a_i with E >= 0: each variable removes its own part, and E is left.

    The vector is (E, log A_1, a_1, log A_2, a_2, ...).
    """

    name = "additive"
    log_linear = False
    min_scales = 3
    max_variables: ClassVar[int | None] = 4
    formula = "E + sum_i A_i x_i^-a_i"
    exponent_range: ClassVar[tuple[float, float]] = (0.01, 10.0)
    num_starts: ClassVar[int] = 12
    grid_sizes: ClassVar[tuple[int, ...]] = (41, 15, 9, 6)
    """Exponents tried of each variable, by the number of variables."""

    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        low, high = self.exponent_range
        parts = [
            (
                Parameter(name="A" + exponent[1:], log=True, of_y=True),
                Parameter(name=exponent, lower=low, upper=high, is_exponent=True),
            )
            for exponent in exponent_names(variables)
        ]
        return (Parameter(name="E", lower=0.0, of_y=True), *itertools.chain(*parts))

    def log_median(self, theta: Array, log_x: Array) -> Array:
        return np.asarray(np.logaddexp.reduce(self._terms(theta, log_x), axis=1))

    def _terms(self, theta: Array, log_x: Array) -> Array:
        """Logarithms of E and of every power: (n, 1 + k)."""
        terms = np.empty((len(log_x), 1 + log_x.shape[1]))
        terms[:, 0] = _log(theta[0])
        end = 1 + 2 * log_x.shape[1]  # a likelihood adds its own parameters after the law's
        terms[:, 1:] = theta[1:end:2] - theta[2:end:2] * log_x
        return terms

    def jacobian(self, theta: Array, log_x: Array) -> Array:
        terms = self._terms(theta, log_x)
        log_median = np.logaddexp.reduce(terms, axis=1)
        shares = np.exp(terms[:, 1:] - log_median[:, None])
        jacobian = np.empty((len(log_x), 1 + 2 * log_x.shape[1]))
        jacobian[:, 0] = np.exp(-log_median)
        jacobian[:, 1::2] = shares
        jacobian[:, 2::2] = -shares * log_x
        return jacobian

    def bend(self, theta: Array, log_x: Array, weights: Array, jacobian: Array) -> Array:
        bend = -jacobian.T @ (weights[:, None] * jacobian)
        for i, column in enumerate(log_x.T):
            slopes = np.column_stack([np.ones(len(log_x)), -column])
            own = slice(1 + 2 * i, 3 + 2 * i)
            bend[own, own] += slopes.T @ ((weights * jacobian[:, 1 + 2 * i])[:, None] * slopes)
        return bend

    def starts(self, log_x: Array, log_y: Array) -> Array:
        """Best local minima of a grid over exponents, where E and the amplitudes are solved for by non-negative least
        squares of relative errors (variable projection: Golub & Pereyra 1973)."""
        cells, means, counts = _cells(log_x, log_y)
        middle = np.average(cells, axis=0, weights=counts)
        size = self.grid_sizes[min(log_x.shape[1], len(self.grid_sizes)) - 1]
        axis = np.geomspace(0.05 if size < 15 else self.exponent_range[0], 5.0 if size < 15 else 10.0, size)
        powers = np.exp(-axis[:, None, None] * (cells - middle))  # (grid, c, k)
        loss = np.empty((size,) * log_x.shape[1])
        solved = {}
        for index in itertools.product(range(size), repeat=log_x.shape[1]):
            columns = [np.ones(len(cells)), *(powers[at, :, i] for i, at in enumerate(index))]
            design = np.column_stack(columns) * np.exp(-means)[:, None]
            weights = np.sqrt(counts)
            amplitudes, _ = optimize.nnls(design * weights[:, None], weights)
            fitted = np.maximum(design @ amplitudes, 1e-12)
            loss[index] = np.average(_log(fitted) ** 2, weights=counts)
            solved[index] = amplitudes
        best = _local_minima(loss)[: self.num_starts]
        return np.array([self._start(solved[index], axis[list(index)], middle) for index in best])

    @staticmethod
    def _start(amplitudes: Array, exponents: Array, middle: Array) -> Array:
        """A vector; an amplitude of 0 becomes a thousandth of the whole, from where it can grow."""
        powers = np.maximum(amplitudes[1:], 1e-3 * amplitudes.sum())
        theta = np.empty(1 + 2 * len(exponents))
        theta[0], theta[1::2], theta[2::2] = amplitudes[0], _log(powers) + exponents * middle, exponents
        return theta

    def degenerate(self, theta: Array, log_x: Array) -> str:
        shares = self.jacobian(theta, log_x)[:, 1::2].max(axis=0)
        if len(shares) == 1 and theta[0] == 0:
            return ""
        return "" if shares.min() > 1e-6 else self._nothing_words

    _nothing_words: ClassVar[str] = (
        "y does not fall with one of the variables, so its A is 0 within the data and its a can be anything"
    )


@register
class OffsetPower(Additive):
    """E + A x^-a with E >= 0: a power law that levels off at E."""

    name = "offset-power"
    max_variables = 1
    formula = "E + A x^-a"
    num_starts = 6
    _nothing_words = "y does not fall with x, so A is 0 within the data and a can be anything"

    def starts(self, log_x: Array, log_y: Array) -> Array:
        """Best local minima of a grid over (a, E/A at the middle of x), where the amplitude is solved for."""
        cells, means, counts = _cells(log_x, log_y)
        scales = cells[:, 0]
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


@register
class BrokenPower(Law):
    """A x^-a1 (1 + (x/x0)^s)^((a1-a2)/s): A x^-a1 up to about x0 and A x0^(a2-a1) x^-a2 beyond.

    The sharpness s is fixed: few data tell it, and half of the bend lies within a factor 3^(1/s) of x0.
    """

    name = "broken-power"
    log_linear = False
    min_scales = 4
    max_variables = 1
    formula = "A x^-a1 (1 + (x/x0)^4)^((a1-a2)/4)"
    sharpness: ClassVar[float] = 4.0

    def parameters(self, variables: Sequence[str]) -> tuple[Parameter, ...]:
        return (
            Parameter(name="A", log=True, of_y=True),
            Parameter(name="a1", is_exponent=True),
            Parameter(name="a2", is_exponent=True),
            Parameter(name="x0", log=True),
        )

    def log_median(self, theta: Array, log_x: Array) -> Array:
        bent, _ = self._bent(theta[3], log_x)
        return theta[0] - theta[1] * log_x[:, 0] - (theta[2] - theta[1]) * bent

    def _bent(self, log_break: float, log_x: Array) -> tuple[Array, Array]:
        """How far x is beyond the break, in logarithms and smoothly, and the derivative of that: (n,), (n,)."""
        along = self.sharpness * (log_x[:, 0] - log_break)
        return np.logaddexp(0, along) / self.sharpness, np.asarray(special.expit(along))

    def jacobian(self, theta: Array, log_x: Array) -> Array:
        bent, share = self._bent(theta[3], log_x)
        return np.column_stack([np.ones(len(log_x)), bent - log_x[:, 0], -bent, (theta[2] - theta[1]) * share])

    def bend(self, theta: Array, log_x: Array, weights: Array, jacobian: Array) -> Array:
        _, share = self._bent(theta[3], log_x)
        bend = np.zeros((4, 4))
        bend[1, 3] = bend[3, 1] = -weights @ share
        bend[2, 3] = bend[3, 2] = weights @ share
        bend[3, 3] = -(theta[2] - theta[1]) * self.sharpness * (weights @ (share * (1 - share)))
        return bend

    def starts(self, log_x: Array, log_y: Array) -> Array:
        """Best local minima over a grid of breaks, between which everything else is linear."""
        cells, means, counts = _cells(log_x, log_y)
        breaks = np.linspace(cells[:, 0].min(), cells[:, 0].max(), 43)[1:-1]
        root = np.sqrt(counts)
        solved, loss = [], []
        for log_break in breaks:
            bent, _ = self._bent(log_break, cells)
            design = np.column_stack([np.ones(len(cells)), bent - cells[:, 0], -bent])
            linear = np.linalg.lstsq(design * root[:, None], means * root, rcond=None)[0]
            solved.append([*linear, log_break])
            loss.append(np.average((means - design @ linear) ** 2, weights=counts))
        best = _local_minima(np.array(loss))[:6]
        return np.array([solved[i] for (i,) in best])

    def degenerate(self, theta: Array, log_x: Array) -> str:
        if log_x.min() < theta[3] < log_x.max():
            return ""
        return "the break lies outside the data: a plain power law fits as well"


def _log(value: Array) -> Array:
    """Logarithm with log 0 = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(value)


def _cells(log_x: Array, log_y: Array) -> tuple[Array, Array, Array]:
    """Distinct x (c, k) with the mean of log y and the number of rows at each."""
    cells, index, counts = np.unique(log_x, axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    return cells, np.bincount(index, weights=log_y) / counts, counts.astype(float)


def _local_minima(surface: Array) -> list[tuple[int, ...]]:
    """Cells of a grid no higher than all that touch them, lowest first."""
    padded = np.pad(surface, 1, constant_values=np.inf)
    shifts = itertools.product(range(3), repeat=surface.ndim)
    around = [padded[tuple(slice(i, i + n) for i, n in zip(shift, surface.shape, strict=True))] for shift in shifts]
    cells = np.argwhere(surface <= np.min(around, axis=0))
    order = np.argsort(surface[tuple(cells.T)], kind="stable")
    return [tuple(int(i) for i in cell) for cell in cells[order]]


def law_named(name: str) -> Law:
    """The law of this name; ValueError with the names there are if there is none."""
    if name not in LAWS:
        raise ValueError(f"there is no law {name!r}; there are {', '.join(LAWS)}")
    return LAWS[name]
