"""Sharpness against dense Hessians."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.measurement.curvature import largest_eigenvalue
from suite.training.lane import Lane
from suite.training.learning_rates import SharpnessRule, WidthRule
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(0, 100))
def test_the_largest_eigenvalue_of_a_known_spectrum(spectrum, seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))[0]
    matrix = torch.from_numpy(rotation @ np.diag(spectrum) @ rotation.T)
    found = largest_eigenvalue(lambda v: matrix @ v, len(spectrum), dtype=torch.float64, device=torch.device("cpu"))
    assert found == pytest.approx(max(spectrum), rel=1e-5, abs=1e-5 * max(map(abs, spectrum)) + 1e-12)


def dense_sharpness(lane: Lane, settings: TrialSettings) -> float:
    """lambda_max(P^1/2 H P^1/2), every entry of H from PyTorch's functional Hessian."""
    towers = [tower.alone(0) for tower in lane.pair.towers]
    shapes = [w.shape for tower in towers for w in tower.weights]
    sizes = [shape.numel() for shape in shapes]
    factors = [tower.spec.learning_rate_factor for tower in towers for _ in tower.weights]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        depth = len(towers[0].weights)
        return settings.loss(towers[0].embed(parts[:depth]), towers[1].embed(parts[depth:])).sum()

    flat = torch.cat([w.detach().flatten() for tower in towers for w in tower.weights])
    hessian = torch.autograd.functional.hessian(loss, flat)
    scale = torch.cat([torch.full((size,), factor**0.5) for size, factor in zip(sizes, factors, strict=True)])
    return float(torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1])


@pytest.mark.parametrize(("parametrization", "similarity"), [("allen-zhu", "cosine"), ("ntk", "dot")])
def test_the_sharpness_rule_takes_its_share_of_the_largest_stable_rate(parametrization, similarity):
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
    expected = dense_sharpness(lane, settings)
    assert expected > 0
    assert eta == pytest.approx(0.5 * 2 / expected, rel=1e-5)


def test_no_rate_follows_from_a_loss_without_curvature():
    with pytest.raises(ValueError, match="no stable rate"):
        SharpnessRule().eta(factor=1.0, sharpness=lambda: 0.0)
    assert WidthRule(c=0.3).eta(factor=17.0, sharpness=lambda: 1.0) == 0.3
