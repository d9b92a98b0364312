import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analysis.laws import LAWS, Multiplicative, OffsetPower, Power, exponent_names, register
from analysis.observations import Observations
from analysis.optimum import best_of
from analysis.robust import Huber

POINTS = {
    "power": (("width",), [3.0, 0.5]),
    "offset-power": (("width",), [20.0, 8.0, 1.2]),
    "multiplicative": (("width", "depth"), [3.0, 0.5, -0.4]),
    "additive": (("width", "depth"), [2.0, 3.0, 0.5, 1.0, 1.4]),
    "broken-power": (("width",), [3.0, 0.2, 1.1, 4.0]),
}


def log_x(num_variables: int) -> np.ndarray:
    return np.log(np.random.default_rng(0).uniform(1, 500, size=(7, num_variables)))


def test_every_law_has_a_point_here() -> None:
    assert set(POINTS) == set(LAWS)


@pytest.mark.parametrize("name", LAWS)
def test_jacobian_equals_finite_differences(name: str) -> None:
    variables, point = POINTS[name]
    x, theta = log_x(len(variables)), np.array(point)
    steps = 1e-6 * np.maximum(np.abs(theta), 1)
    differences = [
        (LAWS[name].log_median(theta + step, x) - LAWS[name].log_median(theta - step, x)) / (2 * step.sum())
        for step in np.diag(steps)
    ]
    np.testing.assert_allclose(LAWS[name].jacobian(theta, x), np.column_stack(differences), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_bend_equals_finite_differences_of_the_jacobian(name: str) -> None:
    variables, point = POINTS[name]
    x, theta, weights = log_x(len(variables)), np.array(point), np.random.default_rng(1).normal(size=7)
    steps = 1e-6 * np.maximum(np.abs(theta), 1)
    differences = [
        weights @ (LAWS[name].jacobian(theta + step, x) - LAWS[name].jacobian(theta - step, x)) / (2 * step.sum())
        for step in np.diag(steps)
    ]
    np.testing.assert_allclose(
        LAWS[name].bend(theta, x, weights, LAWS[name].jacobian(theta, x)), differences, rtol=1e-6, atol=1e-8
    )


def test_formulas() -> None:
    x = np.array([4.0, 9.0])
    columns = np.log(x)[:, None]
    np.testing.assert_allclose(np.exp(Power().log_median(np.array([np.log(6), 0.5]), columns)), 6 * x**-0.5)
    np.testing.assert_allclose(
        np.exp(OffsetPower().log_median(np.array([7.0, np.log(6), 0.5]), columns)), 7 + 6 * x**-0.5
    )
    np.testing.assert_allclose(
        np.exp(Multiplicative().log_median(np.array([np.log(6), 0.5, -1.0]), np.hstack([columns, columns]))),
        6 * x**-0.5 * x,
    )


def test_an_offset_of_zero_is_a_power_law_without_a_warning() -> None:
    x = log_x(1)
    np.testing.assert_array_equal(
        OffsetPower().log_median(np.array([0.0, 3.0, 0.5]), x), Power().log_median(np.array([3.0, 0.5]), x)
    )
    assert np.isfinite(OffsetPower().jacobian(np.array([0.0, 3.0, 0.5]), x)).all()


@settings(max_examples=25, deadline=None)
@given(offset=st.floats(1, 1e4), amplitude=st.floats(1, 1e6), exponent=st.floats(0.2, 3))
def test_the_starts_of_an_offset_power_reach_exact_data(offset: float, amplitude: float, exponent: float) -> None:
    x, law = np.log(2.0 ** np.arange(3, 10))[:, None], OffsetPower()
    log_y = law.log_median(np.array([offset, np.log(amplitude), exponent]), x)
    assume(np.ptp(log_y) > 0.01)  # flatter data determine no exponent
    lower, upper = np.array([(p.lower, p.upper) for p in law.parameters(["x"])]).T
    squares = Huber(law, Observations(x, log_y, np.zeros(7, dtype=bool), None), lower, upper, 1.0, np.inf)
    optimum = best_of(squares, law.starts(x, log_y))
    np.testing.assert_allclose(law.log_median(optimum.theta, x), log_y, atol=1e-5)


def test_exponents_are_named_after_their_variable() -> None:
    assert exponent_names(["encoder.width"]) == ["a"]
    assert exponent_names(["encoder.width", "epsilon"]) == ["a_width", "a_epsilon"]
    assert exponent_names(["encoder.width", "encoder.key.width"]) == ["a_encoder.width", "a_encoder.key.width"]


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'power' is registered twice"):
        register(Power)
