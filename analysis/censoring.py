"""Accelerated failure times: y is log-normal or Weibull around the law, and censored rows say only "at least this".

Shapes: n rows, q parameters of the law. The vector of the likelihood is (law's parameters, log sigma), sigma the
standard deviation of log y for log-normal times and the inverse shape for Weibull's. The law is the median of both.
Source: Tobin 1958 in log space; Kalbfleisch & Prentice 2002, sections 2.2 and 3.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.laws import Array, Law
from analysis.observations import Observations
from analysis.optimum import Local, Optimum, best_of

HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)
LOG_LOG_TWO = np.log(np.log(2.0))
"""Median of the least extreme value distribution, that of the logarithm of a Weibull time of scale 1."""
Times = Literal["log-normal", "weibull"]


@dataclass(frozen=True)
class FailureTime:
    """Minus the log-likelihood of log y, right-censored rows included."""

    law: Law
    observations: Observations
    lower: Array
    upper: Array
    times: Times = "log-normal"

    def evaluate(self, theta: Array) -> Local:
        data, cells, sigma = self.observations, self.observations.cells, np.exp(theta[-1])
        z = (data.log_y - self.law.log_median(theta[:-1], cells.log_x)[cells.index]) / sigma
        value, slope, bend = DENSITIES[self.times](z, data.censored)
        seen = (~data.censored).sum()
        slopes = self.law.jacobian(theta[:-1], cells.log_x)
        jacobian = slopes / sigma
        pull = cells.sums(slope)
        mixed = np.append(jacobian.T @ pull, slope @ z)
        gradient = -mixed
        gradient[-1] += seen
        cross = np.append(jacobian.T @ cells.sums(bend * z), bend @ z**2)
        information = np.empty((len(theta), len(theta)))
        information[:-1, :-1] = jacobian.T @ (cells.sums(bend)[:, None] * jacobian)
        information[-1, :] = information[:, -1] = cross + mixed
        curvature = information.copy()
        curvature[:-1, :-1] -= self.law.bend(theta[:-1], cells.log_x, pull / sigma, slopes)
        return Local(float(value.sum() + seen * theta[-1]), gradient, curvature, information)

    def on(self, observations: Observations) -> FailureTime:
        return replace(self, observations=observations)

    def dispersion(self, theta: Array) -> float:
        """Small-sample factor n / (n - q) of the variance."""
        n = len(self.observations)
        return n / max(n - len(theta) + 1, 1)


def minus_log_density(z: Array, censored: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Of standardised residuals (n,): minus log density, or log survival where censored, and two derivatives by z."""
    log_survival = special.log_ndtr(-z)
    hazard = np.exp(-(z**2) / 2 - HALF_LOG_TWO_PI - log_survival)
    value = np.where(censored, -log_survival, z**2 / 2 + HALF_LOG_TWO_PI)
    slope = np.where(censored, hazard, z)
    bend = np.where(censored, np.clip(hazard * (hazard - z), 0.0, 1.0), 1.0)
    return value, slope, bend


def weibull_minus_log_density(z: Array, censored: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """The same for residuals from the median of log times that are Weibull's."""
    with np.errstate(over="ignore"):
        hazard = np.exp(z + LOG_LOG_TWO)
    value = np.where(censored, hazard, hazard - z - LOG_LOG_TWO)
    return value, np.where(censored, hazard, hazard - 1), hazard


DENSITIES = {"log-normal": minus_log_density, "weibull": weibull_minus_log_density}


def fit_failure_time(objective: FailureTime, starts: Array) -> Optimum:
    """The best optimum over the law's starts (any, q), each with the spread of its residuals."""
    data = objective.observations
    spreads = [
        np.log(max(float(np.std(data.log_y - objective.law.log_median(start, data.log_x))), 1e-3)) for start in starts
    ]
    return best_of(objective, np.column_stack([starts, spreads]))
