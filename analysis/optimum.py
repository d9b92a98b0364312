"""The optimum of a smooth objective within bounds, by damped Newton steps.

Every objective here is a sum over rows, in units in which a difference of 0.5 is one standard error: never a mean,
because stopping rules that compare with absolute tolerances then stop early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import numpy as np

from analysis.laws import Array
from analysis.observations import Observations

FIRST_DAMPING, LEAST_DAMPING = 1e-3, 1e-12
"""Far from an optimum, and close to one, where Newton's own steps are best."""
TOLERANCE = 1e-15
"""Of the Newton decrement, which is the squared distance to the optimum in standard errors."""

GOOD_ENOUGH = 1e-6
"""Decrement, a thousandth of a standard error, that will do where rounding allows no further progress."""

NO_INFLUENCE = 1e-250
"""Curvature at which a coordinate no longer changes the objective."""


class Local(NamedTuple):
    """An objective at a point."""

    value: float
    gradient: Array
    """(q,)."""
    curvature: Array
    """Second derivatives: (q, q)."""
    information: Array
    """The curvature without the bend of the law: (q, q). What one standard error is measured by."""


class Objective(Protocol):
    """What a fit minimises. Its vector starts with the law's parameters; a likelihood may add its own after them."""

    @property
    def observations(self) -> Observations:
        """The rows."""

    @property
    def lower(self) -> Array:
        """Lower bounds (q,)."""

    @property
    def upper(self) -> Array:
        """Upper bounds (q,)."""

    def evaluate(self, theta: Array) -> Local:
        """Value, gradient and curvature at a vector (q,)."""

    def on(self, observations: Observations) -> Self:
        """The same objective of other rows."""

    def dispersion(self, theta: Array) -> float:
        """Factor by which the inverse curvature becomes the covariance of the estimate, for independent rows."""


@dataclass(frozen=True)
class Optimum:
    """Where a search ended."""

    theta: Array
    local: Local
    converged: bool


def minimise(
    objective: Objective,
    start: Array,
    *,
    fixed: int | None = None,
    max_iterations: int = 200,
    damping: float = FIRST_DAMPING,
) -> Optimum:
    """Damped Newton steps, projected on the bounds; `fixed` holds one coordinate.

    Damping is relative to the diagonal of the curvature, so the path does not depend on units. Source: Marquardt 1963;
    projection as in Bertsekas 1982.
    """
    point = Optimum(np.clip(start, objective.lower, objective.upper), _NOWHERE, False)
    point = replace(point, local=_evaluate(objective, point.theta))
    if not np.isfinite(point.local.value):
        return point
    decrement = np.inf
    for _ in range(max_iterations):
        step, decrement = _newton_step(objective, point, fixed, damping)
        if decrement < TOLERANCE:
            break
        theta = np.clip(point.theta + step, objective.lower, objective.upper)
        local = _evaluate(objective, theta)
        if local.value <= point.local.value:
            point, damping = Optimum(theta, local, False), max(damping / 10, LEAST_DAMPING)
        elif damping > 1e6:
            break
        else:
            damping *= 10
    return replace(point, converged=decrement < GOOD_ENOUGH)


_NOWHERE = Local(np.inf, np.empty(0), np.empty((0, 0)), np.empty((0, 0)))


def _evaluate(objective: Objective, theta: Array) -> Local:
    """The objective, infinite where a long step left the range of floating point numbers."""
    with np.errstate(all="ignore"):
        local = objective.evaluate(theta)
    finite = np.isfinite(local.gradient).all() and np.isfinite(local.curvature).all() and np.isfinite(local.value)
    return local if finite else _NOWHERE


def _newton_step(objective: Objective, point: Optimum, fixed: int | None, damping: float) -> tuple[Array, float]:
    """Damped step of the coordinates that are neither held nor pressed against a bound, and the decrement left.

    Negative curvature is turned round, so that the step always descends (Gill, Murray & Wright 1981, section 4.4).
    """
    theta, gradient, curvature = point.theta, point.local.gradient, point.local.curvature
    pressed = ((theta <= objective.lower) & (gradient > 0)) | ((theta >= objective.upper) & (gradient < 0))
    free = ~pressed & (np.diag(curvature) > NO_INFLUENCE)
    if fixed is not None:
        free[fixed] = False
    step = np.zeros_like(theta)
    if not free.any():
        return step, 0.0
    block = curvature[np.ix_(free, free)]
    scale = np.sqrt(np.diag(block))
    values, vectors = np.linalg.eigh(block / np.outer(scale, scale))
    values = np.maximum(np.abs(values), 1e-10)
    slope = vectors.T @ (gradient[free] / scale)
    step[free] = -vectors @ (slope / (values + damping)) / scale
    return step, float(np.sum(slope**2 / values))


def best_of(objective: Objective, starts: Array, search: Callable[[Objective, Array], Optimum] = minimise) -> Optimum:
    """The lowest optimum over all starts: (any, q)."""
    return min((search(objective, start) for start in starts), key=lambda optimum: optimum.local.value)
