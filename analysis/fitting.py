"""Fit a scaling law to a table, with intervals, a status in words and the error of extrapolating.

Without censoring the estimator is Huber's on log residuals; with right-censored rows it is the likelihood of an
accelerated failure time, log-normal or Weibull. Intervals take the seed as the cluster: a seed jackknife for laws that
are linear in logarithms, a profile likelihood for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.censoring import DENSITIES, FailureTime, Times, fit_failure_time
from analysis.intervals import (
    FEWEST_CLUSTERS,
    ProfileLimits,
    Spread,
    bootstrap_draws,
    check_confidence,
    independent_spread,
    jackknife_spread,
    profile_limits,
    wilson_interval,
)
from analysis.laws import LAWS, Array, Law, Parameter, law_named
from analysis.observations import Observations, log_columns, observe, resolve
from analysis.optimum import Objective, Optimum
from analysis.robust import EFFICIENT, Huber, fit_huber, log_likelihood

__all__ = ["Estimate", "Fit", "fit_law", "wilson_interval"]

FEWEST_TABLES = 100
"""Of a bootstrap: percentiles of fewer say nothing."""
LEAST_ANGLE = 1e-6
"""Smallest ratio of singular values of a design: with less, variables move together but for rounding."""
Status = Literal["converged", "on-bound", "undecided", "failed"]


@dataclass(frozen=True)
class Estimate:
    """A parameter with its interval; an infinite limit means that the data do not set one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law fitted to a table."""

    law: str
    y: str
    x: tuple[str, ...]
    parameters: dict[str, Estimate]
    """By name: A, E, and exponents: `a` for one variable, `a_<last component>` for several."""
    confidence: float
    """Of the intervals in `parameters`."""
    sigma: float
    """Standard deviation of log y around the law."""
    status: Status
    """`converged`; `on-bound` or `undecided`: do not report the parameters as a result, the message says why;
    `failed`: no optimum was reached."""
    message: str
    """What to know about this fit, in words; empty when there is nothing."""
    num_points: int
    num_clusters: int
    num_censored: int
    scales: dict[str, tuple[float, ...]]
    """Distinct values of each x."""
    log_likelihood: float
    """Of log y; the scale counts as a parameter in `aic` and `bic`."""
    aic: float
    bic: float
    extrapolation_error: float | None
    """Root mean squared log error at the largest scale of the first x (of thresholds epsilon: at the smallest), from a
    fit without it; a censored row counts only as far as the prediction falls short of it. None if that fit is
    impossible."""
    method: str
    """Estimator and how the intervals were made."""
    theta: Array = field(repr=False, compare=False)
    """Parameters in fitted coordinates, of y in its unit: (q,)."""
    unit: float = field(repr=False, compare=False)
    """Logarithm of the unit of y in which the law was fitted."""
    spread: Spread = field(repr=False, compare=False)
    """Of theta; `interval` uses it."""

    def predict(self, table: pd.DataFrame | Mapping[str, Any]) -> Array:
        """Median of y at each row of x: columns or keys named as in `x`, or by their last component: (n,)."""
        return np.exp(self.unit + LAWS[self.law].log_median(self.theta, log_columns(table, self.x)))

    def interval(self, table: pd.DataFrame | Mapping[str, Any], confidence: float = 0.95) -> tuple[Array, Array]:
        """Interval of the median of y at each row of x, by the delta method in log y: (n,), (n,).

        It is finite also where `message` says that the rows leave a parameter open: a median may be known where the
        parameters are not, but beyond the rows such an interval is too narrow.
        """
        check_confidence(confidence)
        log_x = log_columns(table, self.x)
        law = LAWS[self.law]
        centre, jacobian = self.unit + law.log_median(self.theta, log_x), law.jacobian(self.theta, log_x)
        variance = np.einsum("ni,ij,nj->n", jacobian, self.spread.covariance, jacobian)
        half = self.spread.quantile(confidence) * np.sqrt(np.maximum(variance, 0.0))
        with np.errstate(over="ignore"):
            return np.exp(centre - half), np.exp(centre + half)

    def sentence(self) -> str:
        """The fitted law with its exponents and intervals, in one line."""
        offset = self.parameters.get("E")
        level = f"{offset.value:.4g} [{offset.low:.4g}, {offset.high:.4g}] + " if offset else ""
        text = f"{self.y} = {level}{self._powers()}"
        return f"{text} ({self.message})" if self.message else text

    def _powers(self) -> str:
        """The law without its offset, in numbers."""
        given, variables = self.parameters, [x.rsplit(".", 1)[-1] for x in self.x]
        powers = [f"{x}^{_power(given[name])}" for x, name in zip(variables, self.exponents, strict=False)]
        if self.law == "broken-power":
            beyond = _power(given["a2"])
            return f"{given['A'].value:.4g} {powers[0]}, and as the power {beyond} beyond {given['x0'].value:.4g}"
        if len(powers) > 1 and "A" not in given:
            amplitudes = [given["A" + name[1:]].value for name in self.exponents]
            return " + ".join(f"{a:.4g} {power}" for a, power in zip(amplitudes, powers, strict=True))
        return f"{given['A'].value:.4g} {' '.join(powers)}"

    @property
    def exponents(self) -> list[str]:
        """Names of the parameters that are exponents."""
        return [p.name for p in LAWS[self.law].parameters(self.x) if p.is_exponent]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers that are infinite or not a number become None."""
        names = [name for name in self.__dataclass_fields__ if name not in ("theta", "unit", "spread")]
        return {name: _json(getattr(self, name)) for name in names}


def fit_law(
    frame: pd.DataFrame,
    *,
    law: str,
    y: str,
    x: str | Sequence[str],
    cluster: str | None = "seed",
    censored: str | None = None,
    hold_out: bool = True,
    confidence: float = 0.95,
    tuning: float = EFFICIENT,
    times: Times = "log-normal",
    bootstrap: int = 0,
) -> Fit:
    """Fit `law` of the columns `x` to the column `y`; all must be > 0. Names may be an unambiguous last component.

    `cluster` names the rows that share a draw; the default counts rows as independent where there is no such column.
    Rows flagged by `censored` hold a lower bound of y, and `times` is how y is spread around the law then. `tuning` is
    Huber's constant in residual standard deviations (inf is least squares); censored fits do not use it. `bootstrap`
    draws so many tables of whole clusters for intervals by percentiles, which are too narrow where clusters are few.

    Raises ValueError for columns, values or designs from which the law cannot be fitted.
    """
    form = law_named(law)
    check_confidence(confidence)
    _check_options(times, censored, tuning, bootstrap)
    names, y = _variables(frame, x, y)
    cluster = _cluster_column(frame, cluster)
    censored = resolve(frame, censored) if censored is not None else None
    data = observe(frame, y=y, x=names, cluster=cluster, censored=censored)
    _check_design(form, names, data)
    parameters = form.parameters(names)
    unit = _unit(parameters, data)
    data = replace(data, log_y=data.log_y - unit)
    solution = _solve(form, parameters, data, tuning, times)
    estimates, spread, method = _estimates(form, parameters, solution, confidence, cluster)
    if bootstrap:
        estimates, method = _bootstrapped(parameters, solution, estimates, confidence, bootstrap, cluster)
    estimates = {p.name: _in_unit(estimates[p.name], p, unit) for p in parameters}
    status, message = _judge(form, names, parameters, solution, estimates)
    error = _extrapolation_error(form, names, data, tuning, times) if hold_out else None
    num_free = len(parameters) + 1
    return Fit(
        law=law,
        y=y,
        x=tuple(names),
        parameters=estimates,
        confidence=confidence,
        sigma=solution.sigma,
        status=status,
        message=message,
        num_points=len(data),
        num_clusters=data.num_clusters,
        num_censored=int(data.censored.sum()),
        scales=_scales(frame, names),
        log_likelihood=solution.log_likelihood,
        aic=2 * num_free - 2 * solution.log_likelihood,
        bic=num_free * float(np.log(len(data))) - 2 * solution.log_likelihood,
        extrapolation_error=error,
        method=method,
        theta=solution.optimum.theta[: len(parameters)],
        unit=unit,
        spread=spread.of_first(len(parameters)),
    )


def _unit(parameters: Sequence[Parameter], data: Observations) -> float:
    """Logarithm of the unit of y in which the law is fitted: near the rows, so that the search has the same numbers
    whatever theirs is. 0 where the law does not say which parameters have it."""
    return float(np.mean(data.log_y)) if any(p.of_y for p in parameters) else 0.0


def _in_unit(estimate: Estimate, parameter: Parameter, unit: float) -> Estimate:
    """In the units of the table."""
    if not parameter.of_y:
        return estimate
    with np.errstate(over="ignore"):
        ends = (float(np.exp(np.log(v) + unit)) if v > 0 else v for v in (estimate.value, estimate.low, estimate.high))
        return Estimate(*ends)


def _check_options(times: Times, censored: str | None, tuning: float, bootstrap: int) -> None:
    """Raise ValueError for one that means nothing."""
    if times not in DENSITIES:
        raise ValueError(f"times is {times!r}; there are {', '.join(DENSITIES)}")
    if times != "log-normal" and censored is None:
        raise ValueError(f"times is {times!r}, of which only censored rows tell: name the column that says which are")
    if not tuning > 0:
        raise ValueError(f"tuning is {tuning}; Huber's constant is > 0, such as {EFFICIENT}, or inf for least squares")
    if bootstrap and bootstrap < FEWEST_TABLES:
        raise ValueError(f"bootstrap is {bootstrap} tables; percentiles need {FEWEST_TABLES} or more, or 0 for none")


def _variables(frame: pd.DataFrame, x: str | Sequence[str], y: str) -> tuple[list[str], str]:
    """Full names of what explains and of what is explained."""
    if frame.empty:
        raise ValueError("the table has no rows")
    names = [resolve(frame, name) for name in ([x] if isinstance(x, str) else x)]
    if not names:
        raise ValueError("x is empty: name at least one variable")
    return names, resolve(frame, y)


def _cluster_column(frame: pd.DataFrame, cluster: str | None) -> str | None:
    """The full name; None where the default, `seed`, is not a column."""
    if cluster == "seed" and not any(str(name).rsplit(".", 1)[-1] == "seed" for name in frame.columns):
        return None
    return None if cluster is None else resolve(frame, cluster)


def _scales(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(value) for value in np.unique(frame[name].astype(float))) for name in names}


def _check_design(law: Law, names: Sequence[str], data: Observations) -> None:
    """Raise ValueError where the rows cannot determine the law's parameters."""
    if len(set(names)) < len(names):
        raise ValueError(f"x is {', '.join(names)}: name each variable once")
    if law.max_variables is not None and len(names) > law.max_variables:
        raise ValueError(
            f"the law {law.name!r} takes at most {law.max_variables}, given {len(names)} variables: {', '.join(names)}"
        )
    needed = len(law.parameters(names)) + 1
    if len(data) < needed:
        raise ValueError(
            f"the law {law.name!r} needs at least {needed} rows (its parameters and one more), given {len(data)}"
        )
    seen = data.log_x[~data.censored]
    told = " that are not censored" if data.censored.any() else ""
    if len(seen) < needed:
        raise ValueError(f"the law {law.name!r} needs at least {needed} rows{told}, given {len(seen)} of {len(data)}")
    for name, column in zip(names, seen.T, strict=True):
        if (given := len(np.unique(column))) < law.min_scales:
            raise ValueError(
                f"the law {law.name!r} needs at least {law.min_scales} distinct values of {name!r}{told}, given {given}"
            )
    if np.linalg.matrix_rank(seen - seen.mean(axis=0), rtol=LEAST_ANGLE) < len(names):
        raise ValueError(f"{' and '.join(names)} move together in these rows, so their exponents cannot be told apart")


@dataclass(frozen=True)
class _Solution:
    """An optimum with the objective it belongs to."""

    objective: Objective
    optimum: Optimum
    sigma: float
    log_likelihood: float


def _solve(law: Law, parameters: Sequence[Parameter], data: Observations, tuning: float, times: Times) -> _Solution:
    """Huber's estimate, or the likelihood's where rows are censored."""
    lower, upper = np.array([p.lower for p in parameters]), np.array([p.upper for p in parameters])
    starts = law.starts(data.log_x, data.log_y)
    if data.censored.any():
        objective = FailureTime(law, data, np.append(lower, -20.0), np.append(upper, 20.0), times)
        optimum = fit_failure_time(objective, starts)
        return _Solution(objective, optimum, float(np.exp(optimum.theta[-1])), -optimum.local.value)
    huber, optimum = fit_huber(Huber(law, data, lower, upper, 1.0, tuning), starts)
    likelihood = log_likelihood(huber.scale * huber.residuals(optimum.theta), tuning)
    return _Solution(huber, optimum, huber.scale, likelihood)


def _estimates(
    law: Law, parameters: Sequence[Parameter], solution: _Solution, confidence: float, cluster: str | None
) -> tuple[dict[str, Estimate], Spread, str]:
    """Intervals of all parameters, the spread of the optimum, and the method in words."""
    objective, optimum = solution.objective, solution.optimum
    spread = jackknife_spread(objective, optimum, refit=law.log_linear)
    method = _estimator(objective)
    if law.log_linear:
        method += f"; {'classical interval' if spread is None else f'jackknife over {cluster}'}"
    else:
        method += f"; profile likelihood{'' if spread is None else f', cutoff inflated by the variance over {cluster}'}"
    spread = spread or independent_spread(objective, optimum)
    limits = [_limits(law, solution, index, spread, confidence) for index in range(len(parameters))]
    estimates = {p.name: _estimate(p, v, b) for p, v, b in zip(parameters, optimum.theta, limits, strict=False)}
    return estimates, spread, f"{method}, {spread.source}"


def _estimator(objective: Objective) -> str:
    """In words."""
    return (
        f"{objective.times} accelerated failure time"
        if isinstance(objective, FailureTime)
        else "Huber on log residuals"
    )


def _bootstrapped(
    parameters: Sequence[Parameter],
    solution: _Solution,
    estimates: Mapping[str, Estimate],
    confidence: float,
    times: int,
    cluster: str | None,
) -> tuple[dict[str, Estimate], str]:
    """Percentile intervals of fits to tables of clusters drawn with replacement (Efron & Tibshirani 1993, chapter 13);
    of rows where there are no clusters. Each fit starts from the optimum; the draws are the same each time."""
    drawn = bootstrap_draws(solution.objective, solution.optimum, times)
    tails = 50 * (1 - confidence), 100 - 50 * (1 - confidence)
    limits = np.percentile(drawn, tails, axis=0).T
    found = {
        p.name: _estimate(p, estimate_at, ProfileLimits(*pair))
        for p, estimate_at, pair in zip(parameters, solution.optimum.theta, limits, strict=False)
    }
    unit = f"values of {cluster}" if solution.objective.observations.num_clusters else "rows"
    words = f"{_estimator(solution.objective)}; percentiles of {len(drawn)} bootstrap tables of {unit}"
    return (found if len(drawn) >= times / 2 else dict(estimates)), words


def _limits(law: Law, solution: _Solution, index: int, spread: Spread, confidence: float) -> ProfileLimits:
    theta = solution.optimum.theta
    if not solution.optimum.converged or law.degenerate(theta, solution.objective.observations.log_x):
        return ProfileLimits(0.0 if solution.objective.lower[index] == 0 else -np.inf, np.inf)
    if not law.log_linear:
        return profile_limits(solution.objective, solution.optimum, index, spread, confidence)
    half = spread.quantile(confidence) * float(np.sqrt(spread.covariance[index, index]))
    return ProfileLimits(theta[index] - half, theta[index] + half)


def _estimate(parameter: Parameter, value: float, limits: ProfileLimits) -> Estimate:
    """In natural units."""
    with np.errstate(over="ignore"):
        natural = [float(np.exp(v) if parameter.log else v) for v in (value, limits.low, limits.high)]
    return Estimate(*natural)


def _judge(
    law: Law,
    names: Sequence[str],
    parameters: Sequence[Parameter],
    solution: _Solution,
    estimates: Mapping[str, Estimate],
) -> tuple[Status, str]:
    """Status of a fit, and what to know about it in words."""
    theta, data = solution.optimum.theta[: len(parameters)], solution.objective.observations
    nothing = law.degenerate(theta, data.log_x)
    if not nothing and not solution.optimum.converged:
        return "failed", "no optimum was reached: the search ended before its tolerance"
    words = [nothing, *(_bound_words(p, value) for p, value in zip(parameters, theta, strict=True))]
    bounds = [word for word in words if word]
    open_sides = _undecided_words(parameters, estimates)
    message = "; ".join([*bounds, *open_sides, *_scale_words(law, names, data), *_cluster_words(data)])
    if bounds:
        return "on-bound", message
    return ("undecided" if open_sides else "converged"), message


def _bound_words(parameter: Parameter, value: float) -> str:
    """What an optimum on a bound means; empty inside the bounds."""
    if parameter.lower < value < parameter.upper:
        return ""
    if value == 0 and parameter.name == "E":
        return "the offset is 0 within the data: a plain power law fits as well"
    return f"{parameter.name} is at {value:g}, the limit of its search: not determined by these data"


def _undecided_words(parameters: Sequence[Parameter], estimates: Mapping[str, Estimate]) -> list[str]:
    """Which parameters have no limit on a side."""
    words = []
    for parameter in parameters:
        estimate = estimates[parameter.name]
        sides = [
            side
            for side, is_open in (
                ("lower", estimate.low == (0.0 if parameter.log else -np.inf)),
                ("upper", estimate.high == np.inf),
            )
            if is_open
        ]
        if sides:
            limits = f"{' and '.join(sides)} limit{'s' if len(sides) > 1 else ''}"
            words.append(f"the {limits} of {parameter.name} cannot be decided by these data")
    return words


def _scale_words(law: Law, names: Sequence[str], data: Observations) -> list[str]:
    """Variables with no more scales than the law needs, which leave its form unchecked."""
    counts = [(name, len(np.unique(column))) for name, column in zip(names, data.log_x.T, strict=True)]
    return [
        f"{count} values of {name} determine the law but cannot check its form"
        for name, count in counts
        if count <= law.min_scales
    ]


def _cluster_words(data: Observations) -> list[str]:
    """Clusters that are too few to show how much they differ."""
    few = 0 < data.num_clusters < FEWEST_CLUSTERS
    words = f"an interval over clusters needs {FEWEST_CLUSTERS}, given {data.num_clusters}: rows count as independent"
    return [words] if few else []


def _extrapolation_error(
    law: Law, names: Sequence[str], data: Observations, tuning: float, times: Times
) -> float | None:
    """Root mean squared log error at the far end of the first x of a fit without it; None if that cannot be fitted."""
    far = data.log_x[:, 0].min() if names[0].rsplit(".", 1)[-1] == "epsilon" else data.log_x[:, 0].max()
    largest = data.log_x[:, 0] == far
    rest, held = data.where(~largest), data.where(largest)
    if held.censored.all():
        return None
    try:
        _check_design(law, names, rest)
    except ValueError:
        return None
    parameters = law.parameters(names)
    optimum = _solve(law, parameters, rest, tuning, times).optimum
    if not optimum.converged:
        return None
    error = held.log_y - law.log_median(optimum.theta[: len(parameters)], held.log_x)
    error = np.where(held.censored, np.maximum(error, 0.0), error)
    return float(np.sqrt(np.mean(np.square(error))))


def _power(exponent: Estimate) -> str:
    """The power of x, with its interval: minus the exponent."""
    return f"{-exponent.value:.3g} [{-exponent.high:.3g}, {-exponent.low:.3g}]"


def _json(value: Any) -> Any:
    """Plain Python values; numbers that JSON lacks become None."""
    if isinstance(value, Estimate):
        return _json({"value": value.value, "low": value.low, "high": value.high})
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return value
