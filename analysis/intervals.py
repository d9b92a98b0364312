"""Intervals: what resampling the seeds, or the shape of the objective, says about an optimum.

Rows of one seed share their draw across widths and depths, so the seed is the cluster. Shapes: q parameters.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import optimize, special, stats

from analysis.laws import Array
from analysis.optimum import LEAST_DAMPING, NO_INFLUENCE, Objective, Optimum, minimise

CHUNK = 25
"""Tables of a bootstrap that a core is given at once."""
FEWEST_CLUSTERS = 3


@dataclass(frozen=True)
class Spread:
    """Covariance (q, q) of an estimate, its degrees of freedom, and where it comes from."""

    covariance: Array
    degrees_of_freedom: int
    source: str

    def of_first(self, count: int) -> Spread:
        """Of the first parameters: without those that a likelihood adds to the law's."""
        return replace(self, covariance=self.covariance[:count, :count])

    def quantile(self, confidence: float) -> float:
        """Of Student's t, two-sided."""
        return float(stats.t.ppf(0.5 + confidence / 2, self.degrees_of_freedom))


def independent_spread(objective: Objective, optimum: Optimum) -> Spread:
    """Asymptotic covariance for independent rows: dispersion times the inverse information."""
    covariance = objective.dispersion(optimum.theta) * _inverse(optimum.local.information)
    freedom = max(len(objective.observations) - len(optimum.theta), 1)
    return Spread(covariance, freedom, f"rows taken as independent, t with {freedom} degrees of freedom")


def jackknife_spread(objective: Objective, optimum: Optimum, *, refit: bool) -> Spread | None:
    """Delete-one-cluster jackknife (Efron & Tibshirani 1993, eq. 11.5), t with S - 1 degrees of freedom for S clusters.

    Each refit starts from the full optimum; without `refit` it is one Newton step. None where there are too few
    clusters, or where the rest of the rows do not determine the parameters.
    """
    clusters = objective.observations.num_clusters
    if clusters < FEWEST_CLUSTERS:
        return None
    replicates = _refits(objective, optimum) if refit else _one_step(objective, optimum)
    if replicates is None:
        return None
    spread = np.array(replicates) - np.mean(replicates, axis=0)
    covariance = (clusters - 1) / clusters * spread.T @ spread
    return Spread(covariance, clusters - 1, f"t with {clusters - 1} degrees of freedom over {clusters} clusters")


def bootstrap_draws(objective: Objective, optimum: Optimum, times: int, *, seed: int = 0) -> Array:
    """Optima of tables in which whole clusters, or rows where there are none, were drawn anew: (up to `times`, q).

    Searches that do not end are left out. All cores share the work; a terminal shows how far it is.
    """
    draws = np.random.default_rng(seed)
    units = objective.observations.num_clusters or len(objective.observations)
    tables = [draws.integers(units, size=units) for _ in range(times)]
    terminal = Console(stderr=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        optima = pool.map(partial(_optimum_of, objective, optimum.theta), tables, chunksize=CHUNK)
        shown = track(optima, "bootstrap", times, console=terminal, transient=True, disable=not terminal.is_terminal)
        found = [theta for theta in shown if theta is not None]
    return np.array(found).reshape(-1, len(optimum.theta))


def _optimum_of(objective: Objective, start: Array, units: NDArray[np.intp]) -> Array | None:
    """Of the table of these clusters or rows; None if the search does not end."""
    best = minimise(objective.on(objective.observations.drawn(units)), start, damping=LEAST_DAMPING)
    return best.theta if best.converged else None


def _inverse(information: Array) -> Array:
    """Positive semi-definite pseudo-inverse that does not depend on the units of the parameters."""
    scale = np.sqrt(np.maximum(np.diag(information), NO_INFLUENCE))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    inverse = np.where(values > 1e-12, 1 / np.maximum(values, 1e-12), 0.0)
    return (vectors * inverse) @ vectors.T / np.outer(scale, scale)


def _refits(objective: Objective, optimum: Optimum) -> list[Array] | None:
    replicates = []
    for _, rest in objective.observations.by_cluster():
        again = minimise(objective.on(rest), optimum.theta, damping=LEAST_DAMPING)
        if not again.converged or not well_conditioned(again.local.information):
            return None
        replicates.append(again.theta)
    return replicates


def _one_step(objective: Objective, optimum: Optimum) -> list[Array] | None:
    """Newton steps on the rest, from an optimum that may be on a bound: the gradient of the rest is then the negative
    of the cluster's, up to a shift common to all clusters."""
    replicates = []
    for cluster, _ in objective.observations.by_cluster():
        local = objective.on(cluster).evaluate(optimum.theta)
        rest = optimum.local.information - local.information
        if not well_conditioned(rest):
            return None
        replicates.append(optimum.theta + np.linalg.solve(rest, local.gradient))
    return replicates


def well_conditioned(information: Array) -> bool:
    """Whether an information matrix determines all parameters, whatever their units."""
    diagonal = np.diag(information)
    if not np.isfinite(information).all() or (diagonal <= NO_INFLUENCE).any():
        return False
    scale = np.sqrt(diagonal)
    return bool(np.linalg.eigvalsh(information / np.outer(scale, scale))[0] > 1e-12)


@dataclass(frozen=True)
class ProfileLimits:
    """Where a profile crosses its cutoff; infinite on a side where it does not."""

    low: float
    high: float


def profile_limits(
    objective: Objective, optimum: Optimum, index: int, spread: Spread, confidence: float
) -> ProfileLimits:
    """Profile likelihood interval of one coordinate.

    The cutoff of the deviance is dispersion * F(1, degrees of freedom) (Bates & Watts 1988, section 6.1), inflated by
    the ratio of the coordinate's cluster variance to its variance for independent rows.
    """
    independent = independent_spread(objective, optimum).covariance[index, index]
    ratio = spread.covariance[index, index] / independent if independent > 0 else 1.0
    rise = 0.5 * spread.quantile(confidence) ** 2 * objective.dispersion(optimum.theta) * ratio
    reach = spread.quantile(confidence) * np.sqrt(spread.covariance[index, index])
    profile = _Profile(objective, optimum, index, max(rise, 1e-12), max(reach, 1e-12))
    return ProfileLimits(profile.crossing(-1), profile.crossing(1))


@dataclass(frozen=True)
class _Profile:
    """The lowest objective with one coordinate held, against that coordinate."""

    objective: Objective
    optimum: Optimum
    index: int
    rise: float
    reach: float

    def crossing(self, side: int) -> float:
        """Where the profile has risen by `rise`, below (-1) or above (1) the optimum."""
        centre = float(self.optimum.theta[self.index])
        bound = float((self.objective.lower if side < 0 else self.objective.upper)[self.index])
        inside, step, nearby = centre, self.reach, self.optimum
        for _ in range(40):
            at = side * min(side * (centre + side * step), side * bound)
            outside = self._at(at, nearby)
            if self._excess(outside) > 0:
                outside = self._at(at, outside)  # a second search may go lower
            if self._excess(outside) > 0:
                return self._between(inside, at, nearby, outside, side)
            if at == bound:
                return bound if bound == 0 else side * np.inf
            inside, step, nearby = at, 2 * step, outside
        return side * np.inf

    def _between(self, inside: float, outside: float, nearby: Optimum, beyond: Optimum, side: int) -> float:
        """The crossing between two values; infinite where the search, not the data, makes it or does not find it."""
        ends = {inside: nearby, outside: beyond}
        at = self._root(ends, self._from)
        if at is not None and self._excess(self._at(at, nearby)) < -0.05 * self.rise:
            at = self._root(ends, lambda point, value: self._at(value, point))  # nearby searches ended too high
        if at is None:
            return side * np.inf
        theta = self._at(at, nearby).theta
        limits = (self.objective.lower, self.objective.upper)
        limited = any(((theta == limit) & (limit != 0)).any() for limit in limits)
        return side * np.inf if limited else at

    def _root(self, ends: dict[float, Optimum], search: Callable[[Optimum, float], Optimum]) -> float | None:
        """Where the excess is 0 between two values with their optima; None if that is not found."""
        known, (inside, outside) = dict(ends), ends

        def excess(at: float) -> float:
            if at not in known:
                known[at] = search(ends[inside if abs(at - inside) < abs(at - outside) else outside], at)
            return self._excess(known[at])

        if not excess(inside) < 0 < excess(outside):
            return None
        tolerances: dict[str, Any] = {"xtol": 1e-4 * abs(outside - inside), "rtol": 1e-12}
        at, found = optimize.brentq(excess, inside, outside, **tolerances, full_output=True, disp=False)
        return float(at) if found.converged else None

    def _at(self, value: float, nearby: Optimum) -> Optimum:
        """The lowest objective at a value: from a nearby point of the profile and, where that ends high, from the
        optimum too, since an amplitude that has shrunk to nothing does not come back."""
        found = self._from(nearby, value)
        if self._excess(found) <= 0:
            return found
        again = self._from(self.optimum, value)
        return min(found, again, key=lambda optimum: optimum.local.value)

    def _from(self, point: Optimum, value: float) -> Optimum:
        """Start along the profile's tangent at a point, so that correlated coordinates move with the one held.

        A point outside the range of floating point numbers has no tangent; the optimum's serves.
        """
        point = point if np.isfinite(point.local.value) else self.optimum
        others = (np.arange(len(point.theta)) != self.index) & (
            (point.theta > self.objective.lower) & (point.theta < self.objective.upper)
        )
        start, move = point.theta.copy(), value - point.theta[self.index]
        inverse = _inverse(point.local.information[np.ix_(others, others)])
        start[others] -= inverse @ point.local.information[others, self.index] * move
        start[self.index] = value
        return minimise(self.objective, start, fixed=self.index, max_iterations=50)

    def _excess(self, optimum: Optimum) -> float:
        """How far the profile is above its cutoff; where it leaves the range of floating point numbers, by `rise`."""
        value = optimum.local.value - self.optimum.local.value - self.rise
        return value if np.isfinite(value) else self.rise


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927, eq. 2); (0, 1) when there are no trials.

    Raises ValueError unless 0 <= successes <= trials and 0 < confidence < 1.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: need 0 <= successes <= trials")
    check_confidence(confidence)
    if trials == 0:
        return 0.0, 1.0
    z = float(special.ndtri(0.5 + confidence / 2))
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    return low, 1.0 if successes == trials else min(centre + half, 1.0)


def check_confidence(confidence: float) -> None:
    """Raises ValueError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
