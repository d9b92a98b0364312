"""The exponent of one curve: recovered, covered by its interval, and no better for being recorded more often."""

import numpy as np
import pandas as pd
import pytest

from analysis.curves import decay_exponent, fall_step
from suite.training.records import record_steps

EXPONENT = 1.5
SPARSE, DENSE = 9, 150


def steps(per_decade: int, last: int = 3000) -> np.ndarray:
    """The steps of a trial's records but the first, about 30 or 300 of them."""
    return np.array(sorted(record_steps(last, per_decade, ended=True)))[1:]


def curve(step: np.ndarray, *, seed: int, correlation: float, sigma: float = 0.2) -> pd.DataFrame:
    """3 t^-a with smooth log-normal noise of that correlation length in decades; one seed is one curve."""
    spacing = 0.02
    grid = np.arange(-0.5, 4.0, spacing)
    kernel = np.exp(-((np.arange(-60, 61) * spacing / correlation) ** 2))
    white = np.random.default_rng(seed).normal(size=len(grid) + 120)
    noise = np.convolve(white, kernel / np.sqrt((kernel**2).sum()), "valid")
    return pd.DataFrame(
        {"step": step, "g": 3 * step**-EXPONENT * np.exp(sigma * np.interp(np.log10(step), grid, noise))}
    )


@pytest.mark.parametrize("correlation", [0.1, 0.2])
def test_the_interval_covers_and_does_not_shrink_with_more_records(correlation: float):
    assert (len(steps(SPARSE)), len(steps(DENSE))) == (31, 315)
    covered, widths = {SPARSE: 0, DENSE: 0}, {SPARSE: [], DENSE: []}
    for seed in range(200):
        for per_decade in (SPARSE, DENSE):
            records = curve(steps(per_decade), seed=seed, correlation=correlation)
            estimate = decay_exponent(records, y="g", from_step=1)
            covered[per_decade] += estimate.low <= EXPONENT <= estimate.high
            widths[per_decade].append(estimate.high - estimate.low)
    assert min(covered.values()) >= 180
    ratio = np.array(widths[DENSE]) / np.array(widths[SPARSE])
    assert ((ratio > 0.5) & (ratio < 2)).all()


@pytest.mark.parametrize("per_decade", [SPARSE, DENSE])
def test_an_exact_power_is_recovered_after_a_plateau(per_decade: int):
    step = np.concatenate([[0], steps(per_decade)])
    at = int(step[step >= 50][0])
    records = pd.DataFrame({"step": step, "running_min_scaled_grad_norm_sq": np.maximum(1.0, step / at) ** -2.0})
    if per_decade == DENSE:
        records = records.sample(frac=1, random_state=0)
    estimate = decay_exponent(records)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], 2.0, rtol=1e-9)


def test_the_fall_starts_at_the_last_record_before_it():
    curve = pd.DataFrame({"step": [0, 1, 2, 5, 9, 20], "g": [1.0, 1.0, 1.0, 0.9, 0.9, 0.1]})
    assert fall_step(curve, "g") == 2


def test_a_curve_that_sets_no_exponent_is_refused():
    step = np.arange(30)
    with pytest.raises(ValueError, match="never falls below its first value"):
        decay_exponent(pd.DataFrame({"step": step, "g": 1.0 + step}), y="g")
    with pytest.raises(ValueError, match="5 records of 'g' from step 25 on"):
        decay_exponent(pd.DataFrame({"step": step, "g": 1 / (1 + step)}), y="g", from_step=25)
    with pytest.raises(ValueError, match="never falls"):
        decay_exponent(pd.DataFrame({"step": [], "g": []}), y="g")
