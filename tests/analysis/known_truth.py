"""Tables made from a law with a known truth, in our design, and how well fits of them find it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting import fit_law
from analysis.laws import LAWS, Array

SEEDS, WIDTHS, DEPTHS = 8, 2.0 ** np.arange(5, 10), (1.0, 2.0, 4.0)
NOISE, SEED_SD, SLOPE_SD = 0.15, 0.1, 0.05
"""Log-sd of each row, of each seed, and of each seed's exponent of width where seeds differ in it."""


@dataclass(frozen=True)
class Truth:
    """A law with its parameters in fitted coordinates."""

    law: str
    x: tuple[str, ...]
    theta: tuple[float, ...]

    @property
    def exponents(self) -> dict[str, float]:
        parameters = LAWS[self.law].parameters(self.x)
        return {p.name: value for p, value in zip(parameters, self.theta, strict=True) if p.is_exponent}


TRUTHS = (
    Truth("power", ("width",), (np.log(50.0), 0.5)),
    Truth("multiplicative", ("width", "depth"), (np.log(2000.0), 0.5, 0.8)),
    Truth("offset-power", ("width",), (300.0, np.log(3e4), 1.0)),
    Truth("additive", ("width", "depth"), (100.0, np.log(3e4), 1.0, np.log(600.0), 1.2)),
    Truth("broken-power", ("width",), (np.log(2000.0), 0.2, 1.2, np.log(128.0))),
)


def design() -> pd.DataFrame:
    """8 seeds, 5 widths, 3 depths."""
    index = pd.MultiIndex.from_product([range(SEEDS), WIDTHS, DEPTHS], names=["seed", "width", "depth"])
    return index.to_frame(index=False)


def tables(truth: Truth, count: int, *, generator: int, slopes: bool) -> Iterator[pd.DataFrame]:
    """Tables of the law; with `slopes`, each seed has an exponent of width of its own around the law's."""
    rng, frame = np.random.default_rng([generator, slopes]), design()
    log_x = np.log(frame[list(truth.x)].to_numpy())
    median = LAWS[truth.law].log_median(np.array(truth.theta), log_x)
    centred = np.log(frame.width.to_numpy() / np.exp(np.log(WIDTHS).mean()))
    for _ in range(count):
        effects = SEED_SD * rng.normal(size=SEEDS)[frame.seed]
        if slopes:
            effects = effects + SLOPE_SD * rng.normal(size=SEEDS)[frame.seed] * centred
        yield frame.assign(y=np.exp(median + effects + NOISE * rng.normal(size=len(frame))))


def cramer_rao(truth: Truth, *, slopes: bool) -> Array:
    """Standard errors of the exponents of the best unbiased estimator, the covariance of the rows known."""
    frame, law = design(), LAWS[truth.law]
    jacobian = law.jacobian(np.array(truth.theta), np.log(frame[list(truth.x)].to_numpy()))
    centred = np.log(frame.width.to_numpy() / np.exp(np.log(WIDTHS).mean()))
    same = frame.seed.to_numpy()[:, None] == frame.seed.to_numpy()[None, :]
    covariance = NOISE**2 * np.eye(len(frame)) + same * SEED_SD**2
    if slopes:
        covariance += same * SLOPE_SD**2 * np.outer(centred, centred)
    information = jacobian.T @ np.linalg.solve(covariance, jacobian)
    names = [p.name for p in law.parameters(truth.x)]
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    return np.array([errors[names.index(name)] for name in truth.exponents])


@dataclass(frozen=True)
class Found:
    """How fits of many tables did, over all exponents of a law."""

    coverage: float
    """Share of the 95% intervals that hold the truth."""
    error_ratio: float
    """Median absolute error over that of the Cramer-Rao bound, the worst exponent."""
    converged: float
    """Share of the fits that are reported as a result."""


def recover(truth: Truth, count: int, *, generator: int, slopes: bool) -> Found:
    """Fit so many tables."""
    hits, errors, converged = [], [], []
    exponents = truth.exponents
    for table in tables(truth, count, generator=generator, slopes=slopes):
        fit = fit_law(table, law=truth.law, y="y", x=list(truth.x), hold_out=False)
        estimates = [fit.parameters[name] for name in exponents]
        hits.append([e.low <= value <= e.high for e, value in zip(estimates, exponents.values(), strict=True)])
        errors.append([abs(e.value - value) for e, value in zip(estimates, exponents.values(), strict=True)])
        converged.append(fit.status in ("converged", "undecided"))
    bound = 0.6745 * cramer_rao(truth, slopes=slopes)
    ratios = np.median(np.array(errors), axis=0) / bound
    return Found(float(np.mean(hits)), float(ratios.max()), float(np.mean(converged)))
