"""Running statistics of G against a scan of the whole curve, however its steps are cut into chunks."""

import itertools
import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.measurement.stationarity import NEVER, Chunk, Stationarity

EPSILONS = (0.5, 1e-1, 1e-2, 1e-4)
CURVES = st.lists(
    st.one_of(st.sampled_from([1.0, *EPSILONS]), st.floats(1e-6, 10)), min_size=1, max_size=40
)  # ties with thresholds are likely
CUTS = st.lists(st.integers(1, 15), min_size=1, max_size=40)


def folded(curves: list[list[float]], losses: list[list[float]], eta: list[float], cuts: list[int]) -> Stationarity:
    """Curves of unequal length, one per slot, folded in chunks of the given lengths."""
    slots, length = len(curves), max(map(len, curves))
    kept = Stationarity(slots=slots, epsilons=EPSILONS, dtype=torch.float64, device=torch.device("cpu"))
    scaled, loss, valid, promised = (torch.full((length, slots), math.nan, dtype=torch.float64) for _ in range(4))
    for slot, (curve, values, rate) in enumerate(zip(curves, losses, eta, strict=True)):
        promised[1 : len(curve), slot] = rate * torch.tensor(curve[:-1], dtype=torch.float64)
        scaled[: len(curve), slot] = torch.tensor(curve, dtype=torch.float64)
        loss[: len(curve), slot] = torch.tensor(values, dtype=torch.float64)
        valid[: len(curve), slot] = 1
    valid = valid == 1
    at, lengths = 0, itertools.cycle(cuts)
    while at < length:
        rows = slice(at, at + next(lengths))
        start = torch.full((slots,), at)
        part = Chunk(
            loss=loss[rows], scaled_grad_norm_sq=scaled[rows].clone(), promised=promised[rows], valid=valid[rows]
        )
        kept.fold(part, start=start)
        at = rows.stop
    return kept


@st.composite
def lanes(draw):
    curves = draw(st.lists(CURVES, min_size=1, max_size=3))
    losses = [draw(st.lists(st.floats(0, 5), min_size=len(c), max_size=len(c))) for c in curves]
    eta = [draw(st.floats(0.01, 2)) for _ in curves]
    return curves, losses, eta


@settings(deadline=None)
@given(lane=lanes(), cuts=CUTS)
def test_every_statistic_is_that_of_a_scan(lane, cuts):
    curves, losses, eta = lane
    kept = folded(curves, losses, eta, cuts)
    for slot, (curve, loss, rate) in enumerate(zip(curves, losses, eta, strict=True)):
        state = {name: value.tolist() for name, value in kept.state(slot).items()}
        assert state["running_min"] == min(curve)
        assert state["running_max"] == max(curve)
        assert state["num_evaluations"] == len(curve)
        assert state["first_loss"] == loss[0]
        assert state["first_scaled"] == curve[0]
        np.testing.assert_allclose(state["total"], math.fsum(curve), rtol=1e-12)
        np.testing.assert_allclose(state["total_promised"], rate * math.fsum(curve[:-1]), rtol=1e-12)
        for index, epsilon in enumerate(EPSILONS):
            below = [step for step, g in enumerate(curve) if g <= epsilon]
            above = [step for step, g in enumerate(curve) if g > epsilon]
            assert state["first_below"][index] == (below[0] if below else NEVER)
            assert state["last_above"][index] == (above[-1] if above else NEVER)
            largest = list(itertools.accumulate(curve, max))
            below = [step for step, g in enumerate(curve) if g <= epsilon * largest[step]]
            above = [step for step, g in enumerate(curve) if g > epsilon * largest[step]]
            assert state["first_below_relative"][index] == (below[0] if below else NEVER)
            assert state["last_above_relative"][index] == (above[-1] if above else NEVER)


@settings(deadline=None)
@given(lane=lanes())
def test_violations_are_steps_that_lower_the_loss_by_less_than_half_of_the_promise(lane):
    curves, losses, eta = lane
    kept = folded(curves, losses, eta, [7])
    unit = np.finfo(np.float64).eps
    for slot, (curve, loss, rate) in enumerate(zip(curves, losses, eta, strict=True)):
        slack = [8 * unit * abs(value) for value in loss[:-1]]
        promised = [rate * g / 2 for g in curve[:-1]]
        drops = [a - b for a, b in itertools.pairwise(loss)]
        state = kept.state(slot)
        assert state["num_violations"] == sum(d < p - s for d, p, s in zip(drops, promised, slack, strict=True))
        assert state["num_checkable"] == sum(p > s for p, s in zip(promised, slack, strict=True))


@settings(deadline=None)
@given(lane=lanes(), cuts=CUTS, other=CUTS)
def test_the_cutting_into_chunks_changes_no_bit(lane, cuts, other):
    one, two = folded(*lane, cuts), folded(*lane, other)
    for name in Stationarity.FIELDS:
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=0, atol=0, equal_nan=True)


def test_the_state_of_one_slot_goes_on_in_another():
    kept = folded([[3.0, 0.2], [5.0, 0.3]], [[1.0, 0.5], [1.0, 0.4]], [0.1, 0.1], [1])
    other = Stationarity(slots=2, epsilons=EPSILONS, dtype=torch.float64, device=torch.device("cpu"))
    other.load(0, kept.state(1))
    for name, value in kept.state(1).items():
        assert torch.equal(other.state(0)[name], value), name
    other.reset(0)
    assert other.state(0)["num_evaluations"] == 0
