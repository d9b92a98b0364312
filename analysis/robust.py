"""Huber's robust regression of log y, for tables in which nothing is censored.

Shapes: n rows, q parameters. Source: Huber & Ronchetti 2009, chapters 4 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from analysis.laws import Array, Law
from analysis.observations import Observations
from analysis.optimum import Local, Optimum, best_of, minimise

EFFICIENT = 1.345
"""Tuning constant at which 95% of the efficiency of least squares is kept for normal residuals."""
SMALLEST_SCALE = 1e-7
"""Residual scale below which data count as exact."""


@dataclass(frozen=True)
class Huber:
    """Sum of Huber's rho of the log residuals over their scale; `tuning = inf` is least squares."""

    law: Law
    observations: Observations
    lower: Array
    upper: Array
    scale: float
    tuning: float = EFFICIENT

    def residuals(self, theta: Array) -> Array:
        """Log residuals over the scale: (n,)."""
        cells = self.observations.cells
        return (self.observations.log_y - self.law.log_median(theta, cells.log_x)[cells.index]) / self.scale

    def evaluate(self, theta: Array) -> Local:
        residuals = self.residuals(theta)
        cells = self.observations.cells
        slopes = self.law.jacobian(theta, cells.log_x)
        jacobian = slopes / self.scale
        psi = clipped(residuals, self.tuning)
        pull = cells.sums(psi)
        information = (jacobian * cells.sums(psi == residuals)[:, None]).T @ jacobian
        bend = self.law.bend(theta, cells.log_x, pull / self.scale, slopes)
        value = float(psi @ residuals - psi @ psi / 2)
        return Local(value, -jacobian.T @ pull, information - bend, information)

    def on(self, observations: Observations) -> Huber:
        return replace(self, observations=observations)

    def dispersion(self, theta: Array) -> float:
        """E psi^2 / E psi' (Huber & Ronchetti 2009, eq. 7.81), with n - q degrees of freedom."""
        residuals = self.residuals(theta)
        mean_slope = np.mean(np.abs(residuals) <= self.tuning)
        squares = np.square(clipped(residuals, self.tuning)).sum()
        return float(squares / max(len(residuals) - len(theta), 1) / max(mean_slope, 0.1))


def clipped(residuals: Array, tuning: float) -> Array:
    """Huber's psi."""
    return np.clip(residuals, -tuning, tuning)


def rho(residuals: Array, tuning: float) -> Array:
    """Huber's rho, whose derivative is psi."""
    psi = clipped(residuals, tuning)
    return psi * (residuals - psi / 2)


def fit_huber(objective: Huber, starts: Array) -> tuple[Huber, Optimum]:
    """The best optimum over the starts, with the scale of the residuals found along with it.

    The first scale is the median absolute residual of least squares, then Huber's proposal 2 is iterated.
    """
    first = best_of(replace(objective, tuning=np.inf), starts)
    residuals = objective.scale * objective.residuals(first.theta)
    scale = max(float(np.median(np.abs(residuals))) / special.ndtri(0.75), SMALLEST_SCALE)
    optimum = best_of(replace(objective, scale=scale), np.vstack([starts, first.theta]))
    for _ in range(50):
        objective = replace(objective, scale=scale)
        optimum = minimise(objective, optimum.theta)
        scale = proposal_two(scale * objective.residuals(optimum.theta), len(optimum.theta), objective.tuning, scale)
        if abs(scale / objective.scale - 1) < 1e-9:
            break
    return objective, optimum


def proposal_two(residuals: Array, num_parameters: int, tuning: float, start: float) -> float:
    """Scale at which the mean squared psi is what normal residuals give (Huber 1964, proposal 2)."""
    freedom = max(len(residuals) - num_parameters, 1)
    expected = _mean_squared_psi(tuning)
    scale = start
    for _ in range(100):
        psi = clipped(residuals / scale, tuning)
        new = max(scale * np.sqrt(np.square(psi).sum() / (freedom * expected)), SMALLEST_SCALE)
        if abs(new / scale - 1) < 1e-12:
            break
        scale = new
    return float(new)


def log_likelihood(residuals: Array, tuning: float) -> float:
    """Largest log-likelihood over the scale of log residuals under Huber's least favourable density.

    That density is normal in the middle with exponential tails (Huber 1964), so a single outlier cannot decide
    between two laws; `tuning = inf` is the normal density.
    """
    inside = special.erf(tuning / np.sqrt(2))
    bend = tuning / np.sqrt(inside)
    scale = max(float(np.sqrt(np.mean(np.square(residuals)))), SMALLEST_SCALE)
    for _ in range(200):
        ratio = residuals / scale
        new = max(scale * float(np.sqrt(np.mean(clipped(ratio, bend) * ratio))), SMALLEST_SCALE)
        done = abs(new / scale - 1) < 1e-12
        scale = new
        if done:
            break
    constant = np.sqrt(2 * np.pi) * special.erf(bend / np.sqrt(2))
    if np.isfinite(bend):
        constant += 2 * np.exp(-(bend**2) / 2) / bend
    return float(-len(residuals) * np.log(scale * constant) - rho(residuals / scale, bend).sum())


def _mean_squared_psi(tuning: float) -> float:
    """E psi(Z)^2 for a standard normal Z."""
    if np.isinf(tuning):
        return 1.0
    inside = special.erf(tuning / np.sqrt(2))
    density = np.exp(-(tuning**2) / 2) / np.sqrt(2 * np.pi)
    return float(inside - 2 * tuning * density + tuning**2 * (1 - inside))
