"""Displacement against NumPy's SVD of real training, and the block Lanczos behind it against known matrices."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from towers_by_hand import Trial, lane_of, point_of, seeds

from suite.data.digits import Digits
from suite.data.sphere import Sphere
from suite.experiment import Encoder, KeyEncoder, TrialSettings
from suite.measurement.catalog import measured
from suite.measurement.displacement import BLOCK, DRAW_BLOCK, DRAW_STEPS, STEPS, largest_singular_values
from suite.measurement.registry import MEASUREMENTS, Values
from suite.training.couplings import Joint, Shared
from suite.training.lane import Lane
from suite.training.losses import InfoNCE, Sigmoid

KINDS: list[dict[str, Any]] = [
    {},
    {"key": KeyEncoder(width=20, depth=3)},
    {"biases": True, "residual": True},
    {"train_ends": True, "biases": True, "parametrization": "standard", "loss": InfoNCE(similarity="dot")},
    {"parametrization": "ntk", "train_ends": True, "train_hidden": False, "loss": Sigmoid(trainable=True)},
    {"coupling": Shared(), "parametrization": "standard", "activation": "gelu", "biases": True},
    {"linearized": True, "depth": 3},
]


def settings_of(precision: str, **kind: Any) -> TrialSettings:
    loss, coupling = kind.pop("loss", InfoNCE()), kind.pop("coupling", Joint())
    return TrialSettings(
        data=Digits(samples=32),
        encoder=Encoder(**{"width": 32, "depth": 2, "embedding_dim": 8} | kind),
        loss=loss,
        coupling=coupling,
        seed=3,
        precision=precision,
    )


def displacements(lane: Lane) -> Values:
    point = point_of(lane)
    names = ("displacement", "spectral-displacement")
    return {k: v for name in names for k, v in measured(point, MEASUREMENTS[name]).items()}


def moved_of(lane: Lane, slot: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What NumPy makes of every weight of the towers: w - w_0 and w_0, in the lane's own precision first."""
    draw = Trial(lane.settings[slot])
    count = sum(map(len, draw.trained))
    weights = [w[slot].detach().numpy() for w in lane.pair.weights[:count]]
    drawn = [w0.numpy().astype(w.dtype) for w0, w in zip(draw.start, weights, strict=False)]
    return [(w - w0).astype(float) for w, w0 in zip(weights, drawn, strict=True)], [w0.astype(float) for w0 in drawn]


def spectral(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False)[0] if matrix.ndim == 2 else np.sqrt((matrix**2).sum()))


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-5), ("float64", 1e-8)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_every_norm_is_that_of_numpy_after_training(kind: dict[str, Any], precision: str, rtol: float):
    lane = lane_of(*seeds(settings_of(precision, **kind), 3, 4))
    for steps in (1, 40, 160):
        for _ in range(steps):
            lane.advance(1)
        found = {name: column.numpy() for name, column in displacements(lane).items()}
        for slot in (0, 1):
            moved, drawn = moved_of(lane, slot)
            frobenius, sizes = ([float(np.sqrt((w**2).sum())) for w in ws] for ws in (moved, drawn))
            top, tops = ([spectral(w) for w in ws] for ws in (moved, drawn))
            matrices = [w.ndim == 2 for w in moved]
            at = {name: column[slot] for name, column in found.items()}
            rounding = 1e-12 if precision == "float64" else 1e-6
            np.testing.assert_allclose(at["displacement_by_layer"], frobenius, rtol=10 * rounding)
            np.testing.assert_allclose(at["displacement"], np.linalg.norm(frobenius), rtol=1e-6)
            np.testing.assert_allclose(
                at["relative_displacement"], np.linalg.norm(frobenius) / np.linalg.norm(sizes), rtol=1e-6
            )
            np.testing.assert_allclose(at["spectral_displacement_by_layer"], top, rtol=rtol)
            assert (
                at["spectral_displacement_by_layer"] <= np.array(top) * (1 + (1e-12 if rtol < 1e-6 else 1e-6))
            ).all()
            np.testing.assert_allclose(at["spectral_displacement"], max(top), rtol=rtol)
            relative = np.array([m / w if w else np.inf for m, w in zip(frobenius, sizes, strict=True)])
            np.testing.assert_allclose(at["relative_displacement_by_layer"], relative, rtol=1e-5)
            relative = np.array([m / w if w else np.inf for m, w in zip(top, tops, strict=True)])
            np.testing.assert_allclose(at["relative_spectral_displacement_by_layer"], relative, rtol=1e-3)
            assert at["relative_spectral_displacement"] == pytest.approx(relative[matrices].max(), rel=1e-3)


@pytest.mark.parametrize("kind", [{}, {"biases": True, "train_ends": True, "parametrization": "ntk"}], ids=str)
def test_nothing_has_moved_at_the_draw(kind: dict[str, Any]):
    for name, column in displacements(lane_of(*seeds(settings_of("float32", **kind), 3, 4))).items():
        assert not column.any(), name


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_trial_that_is_not_finite_leaves_the_others_their_numbers(value: float):
    lane = lane_of(*seeds(settings_of("float32", biases=True), 3, 4, 5), steps=30)
    calm = displacements(lane)
    with torch.no_grad():
        for weight in lane.pair.weights:
            weight[1].view(-1)[2] = value
    for name, column in displacements(lane).items():
        assert not column[1].isfinite().any(), name
        for slot in (0, 2):
            assert torch.equal(column[slot], calm[name][slot]), name


def test_one_weight_that_is_not_finite_is_told_by_its_layer():
    lane = lane_of(*seeds(settings_of("float64"), 3, 4), steps=5)
    with torch.no_grad():
        lane.pair.weights[2][0, 1, 1] = torch.nan
    found = displacements(lane)
    for name, column in found.items():
        if name.endswith("by_layer"):
            assert column.isnan().nonzero().tolist() == [[0, 2]], name
        else:
            assert column.isnan().tolist() == [True, False], name


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (16, 64), (64, 64), (256, 256), (16, 512)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_qr", [True, False])
def test_the_norm_of_a_draw_is_within_a_thousandth(size: tuple[int, int], dtype: torch.dtype, by_qr: bool):
    for seed in range(5):
        matrix = np.random.default_rng(seed).normal(size=size)
        stack, true = torch.from_numpy(matrix).to(dtype)[None], spectral(matrix)
        found = largest_singular_values(stack, block=DRAW_BLOCK, steps=DRAW_STEPS, by_qr=by_qr).item()
        assert true * (1 - 1e-3) <= found <= true * (1 + (1e-6 if dtype == torch.float32 else 1e-13))


@profile(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 48),
    columns=st.integers(1, 48),
    singular=st.lists(st.sampled_from([0.0, 1e-12, 1e-3, 0.5, 1.0, 1.0, 30.0]), min_size=3, max_size=3),
    decay=st.floats(0.01, 0.85),
    seed=st.integers(0, 100),
    budget=st.sampled_from([(BLOCK, STEPS), (DRAW_BLOCK, DRAW_STEPS)]),
    by_qr=st.booleans(),
)
def test_a_largest_singular_value_is_never_above_the_true_one(rows, columns, singular, decay, seed, budget, by_qr):
    rng, rank = np.random.default_rng(seed), min(rows, columns)
    spectra = np.array([scale * decay ** np.arange(rank) for scale in singular])
    left = np.linalg.qr(rng.normal(size=(3, rows, rank)))[0]
    right = np.linalg.qr(rng.normal(size=(3, columns, rank)))[0]
    matrices = left * spectra[:, None] @ right.swapaxes(1, 2)

    def largest(stack: np.ndarray) -> np.ndarray:
        return largest_singular_values(torch.from_numpy(stack), block=budget[0], steps=budget[1], by_qr=by_qr).numpy()

    found = largest(matrices)
    true = np.array([spectral(matrix) for matrix in matrices])
    assert (found <= true * (1 + 1e-12)).all()
    assert (found >= true * (1 - 1e-3)).all()
    alone = [largest(m[None]).item() for m in matrices]
    np.testing.assert_allclose(alone, found, rtol=1e-12)


@pytest.mark.parametrize("by_qr", [True, False])
@pytest.mark.parametrize("scale", [1e-16, 1e-14, 1e-12, 1.0, 1e9, 1e15])
def test_the_largest_singular_value_of_what_is_very_small_or_large(scale: float, by_qr: bool):
    """In float32 the squares of such numbers are no numbers."""
    for size in (128, 256):
        matrix = scale * np.random.default_rng(0).normal(size=(size, size))
        stack, true = torch.from_numpy(matrix).float()[None], spectral(matrix)
        found = largest_singular_values(stack, block=DRAW_BLOCK, steps=DRAW_STEPS, by_qr=by_qr).item()
        assert true * (1 - 1e-3) <= found <= true * (1 + 1e-6)


def test_a_weight_that_does_not_move_has_no_displacement():
    settings = TrialSettings(
        data=Sphere(samples=4, input_dim=3), encoder=Encoder(width=2, depth=1, embedding_dim=2), seed=0
    )
    for seed in range(20):  # narrow towers are often dead
        lane = lane_of(*seeds(settings, seed), steps=3)
        if not lane.pair.gradients()[0].any():
            break
    found = displacements(lane)
    assert all(column.isfinite().all() for column in found.values())
    assert found["spectral_displacement_by_layer"][0, 0] == found["relative_displacement_by_layer"][0, 0] == 0
