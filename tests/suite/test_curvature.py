"""Extreme curvature against known spectra and dense Hessians; the sharpness rule that rests on it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from losses_by_hand import VARIANTS, label
from towers_by_hand import Trial, lane_of, point_of, seeds, weights_of

from suite.data.digits import Digits
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.measurement.catalog import measured, parse_measure
from suite.measurement.curvature import Extremes, extremes, hessian_extremes
from suite.measurement.registry import MEASUREMENTS
from suite.training.couplings import Coupling, Joint, Shared
from suite.training.lane import Lane
from suite.training.learning_rates import SharpnessRule, WidthRule
from suite.training.loop import Job, Loop
from suite.training.losses import InfoNCE, Loss, Sigmoid
from suite.training.optimizers import GradientDescent
from suite.training.schedules import Cosine, InverseSqrt, Schedule

FIELDS = ("largest", "smallest", "largest_residual", "smallest_residual")


def operators(spectra: list[list[float]], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Symmetric matrices (S, P, P) with these spectra, in random directions."""
    rng, size = np.random.default_rng(seed), len(spectra[0])
    rotations = np.linalg.qr(rng.normal(size=(len(spectra), size, size)))[0]
    return torch.from_numpy(rotations * np.array(spectra)[:, None] @ rotations.swapaxes(1, 2)).to(dtype)


def found_of(matrices: torch.Tensor, seed: int = 0, **more: Any) -> Extremes:
    start = torch.from_numpy(np.random.default_rng(1000 + seed).normal(size=matrices.shape[:2])).to(matrices.dtype)
    return extremes(lambda v: (matrices @ v[..., None])[..., 0], start, **more)


@st.composite
def stacks(draw: st.DrawFn) -> list[list[float]]:
    """Spectra of one size, with ties, zeros and clusters among them."""
    size, slots = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    normal = st.floats(-100, 100).map(lambda x: x if abs(x) > 1e-30 else 0.0)  # squares of others vanish
    value = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 3.0]), normal)
    return draw(st.lists(st.lists(value, min_size=size, max_size=size), min_size=slots, max_size=slots))


@profile(deadline=None, max_examples=150)
@given(spectra=stacks(), seed=st.integers(0, 1000))
def test_extremes_of_known_spectra_several_at_once(spectra: list[list[float]], seed: int):
    found = found_of(operators(spectra, seed), seed)
    for slot, spectrum in enumerate(spectra):
        largest, smallest, top, bottom = (getattr(found, name)[slot] for name in FIELDS)
        radius = max(map(abs, spectrum))
        rounding = 1e-13 * radius + 1e-300
        assert largest == pytest.approx(max(spectrum), abs=2e-5 * radius + 1e-300)
        assert smallest == pytest.approx(min(spectrum), abs=2e-5 * radius + 1e-300)
        assert min(spectrum) - rounding <= smallest <= largest <= max(spectrum) + rounding
        assert np.abs(np.array(spectrum) - largest).min() <= top + rounding
        assert np.abs(np.array(spectrum) - smallest).min() <= bottom + rounding


@profile(deadline=None, max_examples=60)
@given(spectra=stacks(), seed=st.integers(0, 1000), data=st.data())
def test_a_slot_is_the_same_to_the_bit_whatever_its_neighbours(spectra: list[list[float]], seed: int, data):
    size, slots = len(spectra[0]), len(spectra)
    kept = data.draw(st.integers(0, slots - 1))
    matrices = operators(spectra, seed)
    others = operators([data.draw(st.permutations(range(size))) for _ in range(slots)], seed + 1)
    others[kept] = matrices[kept]
    poisoned = matrices.clone()
    for slot in set(range(slots)) - {kept}:
        poisoned[slot, 0, -1] = data.draw(st.sampled_from([np.nan, np.inf]))
    for name in FIELDS:
        values = [getattr(found_of(m, seed), name) for m in (matrices, others, poisoned)]
        assert values[0][kept] == values[1][kept] == values[2][kept], name
        assert np.isnan(np.delete(values[2], kept)).all(), name


def test_a_zero_operator_has_no_curvature():
    found = found_of(torch.zeros(2, 7, 7, dtype=torch.float64))
    for name in FIELDS:
        assert getattr(found, name).tolist() == [0, 0]


def test_the_residuals_tell_when_there_were_too_few_steps():
    spectra = [list(np.linspace(-1, 1, 300)), [*np.linspace(0, 1, 299), 50.0]]
    found = found_of(operators(spectra, 0), steps=8)
    for slot, spectrum in enumerate(spectra):
        assert max(spectrum) - found.largest[slot] <= found.largest_residual[slot] + 1e-12
        assert found.smallest[slot] - min(spectrum) <= found.smallest_residual[slot] + 1e-12
    assert found.largest_residual[0] > 1e-2
    assert found.largest[1] == pytest.approx(50, rel=1e-9)


def test_an_end_of_which_the_start_has_hardly_any_part_is_not_taken_for_its_neighbour():
    spectrum = torch.tensor([1.0, 0.3, 0.2, 0.05, 0.0, -0.02, -0.03, -0.1, -0.2, -0.4, -0.41, 0.11, 0.12, 0.6])
    matrix, start = torch.diag(spectrum.double())[None], torch.ones(1, 14, dtype=torch.float64)
    start[0, 10] = 1e-5
    found = extremes(lambda v: (matrix @ v[..., None])[..., 0], start)
    assert found.smallest[0] == pytest.approx(-0.41, rel=1e-5)


def test_single_precision_finds_the_ends_too():
    spectra = [[*np.linspace(-1, 1, 28), 4.0, -3.0], [2.0] * 15 + [-2.0] * 15]
    found = found_of(operators(spectra, 0, torch.float32))
    assert found.largest.tolist() == pytest.approx([4, 2], rel=1e-5)
    assert found.smallest.tolist() == pytest.approx([-3, -2], rel=1e-5)


def settings_of(loss: Loss, coupling: Coupling, *, seed: int = 3, samples: int = 6, **encoder: Any) -> TrialSettings:
    source = Digits(samples=samples) if "labels" in loss.needs else Sphere(samples=samples, input_dim=4)
    shape = {"width": 7, "depth": 2, "embedding_dim": 3, "parametrization": "standard"} | encoder
    return TrialSettings(
        data=source,
        encoder=Encoder(**shape),
        loss=loss,
        coupling=coupling,
        optimizer=GradientDescent(learning_rate=WidthRule(c=0.2)),
        seed=seed,
        precision="float64",
    )


def spectrum_of(trial: Trial, weights: list[torch.Tensor]) -> np.ndarray:
    """All eigenvalues of P^1/2 H P^1/2, every entry of H from PyTorch's functional Hessian."""
    shapes, sizes = [w.shape for w in weights], [w.numel() for w in weights]
    assert sum(sizes) <= 500

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return trial.loss([part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)])

    flat = torch.cat([w.flatten() for w in weights])
    hessian = torch.autograd.functional.hessian(loss, flat, vectorize=True)
    scale = torch.cat(
        [torch.full((size,), p**0.5, dtype=flat.dtype) for size, p in zip(sizes, trial.factors, strict=True)]
    )
    return torch.linalg.eigvalsh(scale[:, None] * hessian * scale).numpy()


def assert_extremes_of_dense_hessians(lane: Lane, trials: list[TrialSettings]) -> None:
    found = hessian_extremes(lane.pair, lane.pair.weights)
    for slot, settings in enumerate(trials):
        spectrum = spectrum_of(Trial(settings), weights_of(lane, slot))
        radius = np.abs(spectrum).max()
        assert radius > 1e-4
        for ritz, residual, end in (
            (found.largest[slot], found.largest_residual[slot], spectrum[-1]),
            (found.smallest[slot], found.smallest_residual[slot], spectrum[0]),
        ):
            assert abs(ritz - end) <= 1e-6 * radius
            assert np.abs(spectrum - ritz).min() <= residual + 1e-12 * radius


COUPLINGS = [Joint(), Shared()]
KINDS: list[dict[str, Any]] = [
    {"residual": True},
    {"biases": True},
    {"train_ends": True},
    {"train_ends": True, "train_hidden": False},
    {"linearized": True},
    {"linearized": True, "residual": True, "train_ends": True, "biases": True, "activation": "gelu"},
    {"parametrization": "ntk", "train_ends": True, "biases": True, "residual": True},
    {"parametrization": "ntk", "activation": "tanh"},
    {"parametrization": "allen-zhu", "width": 9, "depth": 1},
]


@pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: c.name)
@pytest.mark.parametrize("loss", VARIANTS, ids=label)
def test_both_ends_are_those_of_the_dense_hessian_for_every_loss(loss: Loss, coupling: Coupling):
    trials = seeds(settings_of(loss, coupling), 3, 4)
    lane = lane_of(*trials)
    assert_extremes_of_dense_hessians(lane, trials)
    for _ in range(12):
        lane.advance(1)
    assert_extremes_of_dense_hessians(lane, trials)


@pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: c.name)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(f"{k}={v}" for k, v in kind.items()))
def test_both_ends_are_those_of_the_dense_hessian_for_every_tower(kind: dict[str, Any], coupling: Coupling):
    trials = seeds(settings_of(InfoNCE(), coupling, **kind), 3, 4, 5)
    lane = lane_of(*trials)
    assert_extremes_of_dense_hessians(lane, trials)
    for _ in range(12):
        lane.advance(1)
    assert_extremes_of_dense_hessians(lane, trials)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_towers_of_unequal_shape_have_unequal_factors(similarity: str):
    kind = {"key": KeyEncoder(width=9, depth=3), "train_ends": True}
    trials = seeds(settings_of(InfoNCE(similarity=similarity), Joint(), **kind), 3, 4)
    lane = lane_of(*trials, steps=5)
    assert_extremes_of_dense_hessians(lane, trials)


def test_mup_and_trained_scalars_too():
    cells = [
        settings_of(InfoNCE(similarity="dot"), Joint(), parametrization="mup", train_ends=True),
        settings_of(Sigmoid(trainable=True), Joint(), linearized=True, biases=True),
    ]
    for settings in cells:
        assert_extremes_of_dense_hessians(lane_of(settings, steps=9), [settings])


def test_a_trial_that_is_not_finite_leaves_the_others_their_numbers():
    trials = seeds(settings_of(InfoNCE(), Joint()), 3, 4, 5)
    lane = lane_of(*trials, steps=3)
    calm = hessian_extremes(lane.pair, lane.pair.weights)
    with torch.no_grad():
        lane.pair.weights[1][1, 0, 0] = torch.nan
    found = hessian_extremes(lane.pair, lane.pair.weights)
    for name in FIELDS:
        assert np.isnan(getattr(found, name)[1])
        for slot in (0, 2):
            assert getattr(found, name)[slot] == getattr(calm, name)[slot]


@pytest.mark.parametrize("schedule", [None, InverseSqrt(steps=3), Cosine(steps=40, warm_up=5)], ids=str)
def test_the_edge_of_stability_is_of_the_rate_of_the_step_from_there(schedule: Schedule | None):
    settings = settings_of(InfoNCE(), Joint())
    optimizer = settings.optimizer.model_copy(update={} if schedule is None else {"schedule": schedule})
    settings = settings.model_copy(update={"optimizer": optimizer})
    jobs = [Job(trial_id=str(one.seed), settings=one) for one in seeds(settings, 3, 4, 5)]
    loop = Loop(
        jobs, slots=2, budget=Budget(steps=30), stop_below=0, measure=parse_measure({"curvature": {"every": 6}})
    )
    while not loop.done:
        loop.run_chunk()
    records = [record for record in loop.take()[1] if "lambda_max" in record]
    assert len(records) > 9
    for record in records:
        factor = 1.0 if schedule is None else schedule.factor(np.array([float(record["step"])])).item()
        expected = 0.2 * factor * record["lambda_max"] / 2
        assert record["edge_of_stability"] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    if schedule is None:
        lane = lane_of(settings)
        values = measured(point_of(lane), MEASUREMENTS["curvature"])
        first = next(record for record in records if record["step"] == 0 and record["trial_id"] == "3")
        assert values["lambda_max"].item() == pytest.approx(first["lambda_max"], rel=1e-5)


@pytest.mark.parametrize(("parametrization", "similarity"), [("allen-zhu", "cosine"), ("ntk", "dot")])
def test_the_sharpness_rule_takes_its_share_of_the_largest_stable_rate(parametrization: str, similarity: str):
    settings = TrialSettings(
        data=Sphere(samples=6, input_dim=5),
        encoder=Encoder(
            width=8, depth=1, embedding_dim=3, parametrization=parametrization, key=KeyEncoder(width=6, depth=2)
        ),
        loss=InfoNCE(similarity=similarity),
        optimizer=GradientDescent(learning_rate=SharpnessRule(fraction=0.5)),
        seed=1,
        precision="float64",
    )
    lane = Lane(settings, slots=2, budget=Budget(steps=10), stop_below=0, device=torch.device("cpu"))
    eta, *_ = lane.fill(0, settings)
    trial = Trial(settings)
    expected = spectrum_of(trial, trial.start)[-1]
    assert expected > 0
    assert lane.pair.sharpness(0) == pytest.approx(expected, rel=1e-6)
    assert eta == pytest.approx(0.5 * 2 / expected, rel=1e-5)


def test_no_rate_follows_from_a_loss_without_curvature():
    with pytest.raises(ValueError, match="no stable rate"):
        SharpnessRule().eta(factor=1.0, sharpness=lambda: 0.0)
    assert WidthRule(c=0.3).eta(factor=17.0, sharpness=lambda: 1.0) == 0.3


def test_a_stack_too_large_at_once_is_taken_in_parts_and_a_slot_too_large_not_at_all(monkeypatch):
    settings = TrialSettings(
        data=Sphere(samples=6, input_dim=5), encoder=Encoder(width=8, depth=1, embedding_dim=3), precision="float64"
    )
    lane = Lane(settings, slots=5, budget=Budget(steps=10), stop_below=0, device=torch.device("cpu"))
    for slot in range(5):
        lane.fill(slot, settings.model_copy(update={"seed": slot}))
    whole = hessian_extremes(lane.pair, lane.pair.weights)
    monkeypatch.setattr("suite.measurement.curvature.MOST_LOGITS", 2 * 6**2 + 1)
    parts = hessian_extremes(lane.pair, lane.pair.weights)
    np.testing.assert_allclose(parts.numbers[:2], whole.numbers[:2], rtol=1e-9)
    chosen = np.array([False, False, True, False, True])
    some = hessian_extremes(lane.pair, lane.pair.weights, wanted=chosen)
    np.testing.assert_array_equal(some.numbers[:, chosen], parts.numbers[:, chosen])
    assert np.isnan(some.numbers[:, ~chosen]).all()
    monkeypatch.setattr("suite.measurement.curvature.MOST_LOGITS", 6**2 - 1)
    assert np.isnan(hessian_extremes(lane.pair, lane.pair.weights).numbers).all()
