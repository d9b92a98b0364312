import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.censoring import FailureTime, Times, minus_log_density
from analysis.fitting import fit_law
from analysis.laws import LAWS
from analysis.observations import Observations

WIDTHS = 2.0 ** np.arange(5, 10)


def times(rng: np.random.Generator, *, seeds: int = 8, depths: int = 3, noise: float = 0.5) -> pd.DataFrame:
    """T = 1e4 m^-0.5 with independent log-normal noise, censored at the time that 60% of rows reach."""
    index = pd.MultiIndex.from_product([range(seeds), WIDTHS, range(depths)], names=["seed", "width", "depth"])
    frame = index.to_frame(index=False)
    frame["T"] = 1e4 * frame["width"] ** -0.5 * np.exp(noise * rng.normal(size=len(frame)))
    limit = frame["T"].quantile(0.6)
    return frame.assign(unreached=frame["T"] > limit, T=frame["T"].clip(upper=limit))


@pytest.mark.parametrize("name", ["power", "offset-power"])
@pytest.mark.parametrize("spread", ["log-normal", "weibull"])
def test_gradient_and_curvature_equal_finite_differences(name: str, spread: Times) -> None:
    rng = np.random.default_rng(0)
    data = Observations(rng.uniform(1, 5, (9, 1)), rng.normal(5, 1, 9), rng.random(9) < 0.5, None)
    theta = np.array({"power": [6.0, 0.4, -0.3], "offset-power": [30.0, 6.0, 0.7, -0.3]}[name])
    free = np.full(len(theta), np.inf)
    objective = FailureTime(LAWS[name], data, -free, free, spread)
    steps = np.diag(1e-5 * np.maximum(np.abs(theta), 1))
    pairs = [(objective.evaluate(theta + step), objective.evaluate(theta - step), 2 * step.sum()) for step in steps]
    local = objective.evaluate(theta)
    np.testing.assert_allclose(local.gradient, [(u.value - d.value) / h for u, d, h in pairs], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        local.curvature, [(u.gradient - d.gradient) / h for u, d, h in pairs], rtol=1e-5, atol=1e-6
    )


def weibull_times(rng: np.random.Generator) -> pd.DataFrame:
    """T of median 1e4 m^-0.5 with a Weibull shape of 2.5, 40% censored; more rows than `times` has."""
    frame = times(rng, seeds=40)
    scale = 1e4 * frame["width"] ** -0.5 / np.log(2) ** (1 / 2.5)
    frame["T"] = scale * rng.weibull(2.5, size=len(frame))
    limit = frame["T"].quantile(0.6)
    return frame.assign(unreached=frame["T"] > limit, T=frame["T"].clip(upper=limit))


def test_weibull_times_equal_a_likelihood_written_with_scipys_distribution() -> None:
    frame = weibull_times(np.random.default_rng(2))
    fit = fit_law(frame, law="power", y="T", x="width", censored="unreached", times="weibull")
    assert "weibull" in fit.method
    x, y, unreached = frame["width"].to_numpy(), frame["T"].to_numpy(), frame["unreached"].to_numpy()

    def minus_log_likelihood(p: np.ndarray) -> float:
        shape = np.exp(-p[2])
        at = stats.weibull_min(shape, scale=np.exp(p[0]) * x ** -p[1] / np.log(2) ** (1 / shape))
        return -float(np.where(unreached, at.logsf(y), at.logpdf(y) + np.log(y)).sum())

    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 10000, "maxfev": 10000}
    expected = optimize.minimize(minus_log_likelihood, [9.0, 0.3, -1.0], method="Nelder-Mead", options=options)
    found = [np.log(fit.parameters["A"].value), fit.parameters["a"].value, np.log(fit.sigma)]
    np.testing.assert_allclose(found, expected.x, rtol=1e-5)
    assert fit.log_likelihood == pytest.approx(-expected.fun)
    assert fit.parameters["a"].low < 0.5 < fit.parameters["a"].high


def test_value_is_the_normal_density_and_survival() -> None:
    z = np.array([-3.0, 0.2, 4.0])
    seen, unseen = (minus_log_density(z, np.full(3, censored))[0] for censored in (False, True))
    np.testing.assert_allclose(seen, -stats.norm.logpdf(z))
    np.testing.assert_allclose(unseen, -stats.norm.logsf(z))
    far = minus_log_density(np.array([-60.0, 60.0]), np.array([True, True]))
    assert np.isfinite(far).all()


def test_censored_fit_is_unbiased_where_dropping_and_clamping_are_not() -> None:
    """40% censored, log-sd 0.5, slope -0.5: mean exponent over 300 tables (its standard error is 0.7%)."""
    rng, exponents = np.random.default_rng(0), {"censored": [], "dropped": [], "clamped": []}
    for _ in range(300):
        frame = times(rng)
        assert frame["unreached"].mean() == pytest.approx(0.4, abs=0.01)
        rows = {"censored": frame, "dropped": frame[~frame["unreached"]], "clamped": frame}
        for how, table in rows.items():
            censored = "unreached" if how == "censored" else None
            fit = fit_law(table, law="power", y="T", x="width", censored=censored, cluster=None, hold_out=False)
            exponents[how].append(fit.parameters["a"].value)
    bias = {how: np.mean(values) / 0.5 - 1 for how, values in exponents.items()}
    assert abs(bias["censored"]) < 0.03
    assert bias["dropped"] < -0.25
    assert bias["clamped"] < -0.25


def test_equals_a_likelihood_maximised_by_hand() -> None:
    frame = times(np.random.default_rng(3))
    x, y = np.log(frame["width"].to_numpy()), np.log(frame["T"].to_numpy())
    unreached = frame["unreached"].to_numpy()

    def minus_log_likelihood(p: np.ndarray) -> float:
        median, sigma = p[0] - p[1] * x, np.exp(p[2])
        rows = np.where(unreached, stats.norm.logsf(y, median, sigma), stats.norm.logpdf(y, median, sigma))
        return -float(rows.sum())

    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 10000, "maxfev": 10000}
    expected = optimize.minimize(minus_log_likelihood, [8.0, 0.3, 0.0], method="Nelder-Mead", options=options)
    fit = fit_law(frame, law="power", y="T", x="width", censored="unreached")
    found = [np.log(fit.parameters["A"].value), fit.parameters["a"].value, np.log(fit.sigma)]
    np.testing.assert_allclose(found, expected.x, rtol=1e-6)
    assert fit.log_likelihood == pytest.approx(-expected.fun)
    assert fit.num_censored == frame["unreached"].sum()
    assert "log-normal accelerated failure time" in fit.method


def test_intervals_of_censored_fits_cover() -> None:
    rng, hits = np.random.default_rng(1), []
    for _ in range(60):
        estimate = fit_law(times(rng), law="power", y="T", x="width", censored="unreached", hold_out=False).parameters[
            "a"
        ]
        hits.append(estimate.low <= 0.5 <= estimate.high)
    assert 0.87 <= np.mean(hits) <= 1


def test_offset_power_with_censoring_finds_the_offset() -> None:
    rng = np.random.default_rng(2)
    frame = times(rng)
    frame["T"] = (300 + 3e4 / frame["width"]) * np.exp(0.1 * rng.normal(size=len(frame)))
    limit = frame["T"].quantile(0.8)
    frame = frame.assign(unreached=frame["T"] > limit, T=frame["T"].clip(upper=limit))
    fit = fit_law(frame, law="offset-power", y="T", x="width", censored="unreached")
    assert fit.status == "converged"
    for name, truth in {"E": 300, "A": 3e4, "a": 1}.items():
        assert fit.parameters[name].low <= truth <= fit.parameters[name].high


def test_nothing_reached_is_said() -> None:
    frame = times(np.random.default_rng(0)).assign(unreached=True)
    with pytest.raises(ValueError, match="needs at least 3 rows that are not censored, given 0 of 120"):
        fit_law(frame, law="power", y="T", x="width", censored="unreached")


def test_one_scale_reached_is_said() -> None:
    frame = times(np.random.default_rng(0))
    frame["unreached"] = frame["width"] < 500
    with pytest.raises(ValueError, match="2 distinct values of 'width' that are not censored, given 1"):
        fit_law(frame, law="power", y="T", x="width", censored="unreached")


@pytest.mark.parametrize("flag", ["yes", None, 2])
def test_flags_must_be_true_or_false(flag: object) -> None:
    frame = times(np.random.default_rng(0))
    frame["unreached"] = frame["unreached"].astype(object)
    frame.loc[0, "unreached"] = flag
    with pytest.raises(ValueError, match="'unreached' must be true or false, or 1 and 0; 1 of 120"):
        fit_law(frame, law="power", y="T", x="width", censored="unreached")
