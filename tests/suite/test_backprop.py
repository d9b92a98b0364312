"""Backprop by hand against autograd, in float64, for everything a pair can be; and nothing left in a slot."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses_by_hand import VARIANTS, label

from suite.data.digits import Digits
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.training.backprop import Backprop, SquareSums, move
from suite.training.couplings import Coupling, Joint, Shared
from suite.training.lane import Lane
from suite.training.losses import InfoNCE, Loss, Sigmoid
from suite.training.pair import Pair

N, CPU = 6, torch.device("cpu")
TOWERS: list[dict[str, Any]] = [
    {"depth": depth, "activation": activation, "residual": residual, "biases": biases, **ends}
    for depth, activation, (residual, biases), ends in itertools.product(
        (1, 3),
        ("relu", "tanh", "gelu"),
        ((False, False), (True, False), (False, True), (True, True)),
        ({}, {"train_ends": True}, {"train_ends": True, "train_hidden": False}),
    )
]


def settings_of(loss: Loss | None = None, coupling: Coupling | None = None, **encoder: Any) -> TrialSettings:
    loss = loss or InfoNCE()
    return TrialSettings(
        data=Digits(samples=N) if "labels" in loss.needs else Sphere(samples=N, input_dim=4),
        encoder=Encoder(**{"width": 7, "depth": 2, "embedding_dim": 3, "parametrization": "ntk"} | encoder),
        loss=loss,
        coupling=coupling or Joint(),
        precision="float64",
    )


def pair_of(settings: TrialSettings, slots: int = 3) -> Pair:
    """Trials of seeds 0, 1, ... a little away from their draw, so that biases and scalars are not zero."""
    pair = Pair(settings, slots=slots, dtype=torch.float64, device=CPU)
    for slot in range(slots):
        pair.fill(slot, settings.model_copy(update={"seed": slot}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in pair.weights:
            weight += 0.03 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return pair


def assert_as_autograd(settings: TrialSettings, rows: torch.Tensor | None = None) -> None:
    pair = pair_of(settings)
    batch = None if rows is None else rows.shape[1]
    backprop = Backprop(pair, batch=batch)
    loss, embeddings = backprop(rows=rows)
    expected, expected_embeddings = pair.loss(pair.weights, rows)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-13, atol=1e-13)
    for z, other in zip(embeddings, expected_embeddings, strict=True):
        torch.testing.assert_close(z, other.detach(), rtol=1e-13, atol=1e-13)
    gradients = pair.gradients(rows)
    for mine, norm_sq, other in zip(backprop.gradients, backprop.norms_sq, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(norm_sq, other.square().flatten(1).sum(1), rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("encoder", TOWERS, ids=lambda e: "-".join(str(value) for value in e.values()))
@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda c: c.name)
def test_towers_as_autograd_has_them(encoder: dict[str, Any], coupling: Coupling):
    assert_as_autograd(settings_of(coupling=coupling, **encoder))


@pytest.mark.parametrize("loss", [*VARIANTS, InfoNCE(negatives=2, symmetric=True), Sigmoid(trainable=True)], ids=label)
def test_losses_as_autograd_has_them(loss: Loss):
    assert_as_autograd(settings_of(loss))


@pytest.mark.parametrize("parametrization", ["allen-zhu", "standard", "ntk", "mup"])
def test_parametrizations_as_autograd_has_them(parametrization: str):
    dot = InfoNCE(similarity="dot")
    assert_as_autograd(settings_of(dot, parametrization=parametrization, train_ends=True, biases=True))


@pytest.mark.parametrize("encoder", [{"linearized": True}, {"key": KeyEncoder(width=5, depth=1)}], ids=str)
def test_towers_that_are_linearized_or_unequal(encoder: dict[str, Any]):
    assert_as_autograd(settings_of(**encoder))


@pytest.mark.parametrize("encoder", [{}, {"linearized": True}, {"train_ends": True, "biases": True}], ids=str)
@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda c: c.name)
def test_batches_as_autograd_has_them(encoder: dict[str, Any], coupling: Coupling):
    rows = torch.tensor([[0, 2, 5], [1, 2, 3], [5, 4, 0]])
    assert_as_autograd(settings_of(coupling=coupling, **encoder), rows)
    assert_as_autograd(settings_of(Sigmoid(trainable=True), coupling, **encoder), rows)


@given(
    loss=st.sampled_from([InfoNCE(), InfoNCE(similarity="dot"), InfoNCE(symmetric=True), InfoNCE(negatives=2)]),
    zero=st.lists(st.integers(0, N - 1), max_size=3),
    size=st.sampled_from([1e-12, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_slopes_by_hand_at_embeddings_of_any_size_also_zero(loss: InfoNCE, zero: list[int], size: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    query, key = (size * torch.randn(2, N, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    query[0, zero] = 0
    extras = {"negatives": torch.rand(2, N, N, generator=generator) < 0.5} if loss.negatives else {}
    for mask in extras.values():
        mask.diagonal(dim1=1, dim2=2).fill_(True)
    by_hand = loss.with_gradient(query, key, **extras)
    assert by_hand is not None
    leaves = [query.requires_grad_(), key.requires_grad_()]
    expected = loss(*leaves, **extras)
    torch.testing.assert_close(by_hand[0], expected.detach(), rtol=1e-12, atol=1e-12)
    for mine, other in zip(by_hand[1], torch.autograd.grad(expected.sum(), leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12 * float(other.abs().max()))


@pytest.mark.parametrize("encoder", [{}, {"linearized": True}, {"train_ends": True, "biases": True}], ids=str)
@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda c: c.name)
def test_moving_on_the_way_is_moving_first(encoder: dict[str, Any], coupling: Coupling):
    settings = settings_of(Sigmoid(trainable=True), coupling, **encoder)
    rates = torch.tensor([0.3, 0.0, 0.1], dtype=torch.float64)
    one, other = pair_of(settings), pair_of(settings)
    first, second = Backprop(one), Backprop(other)
    first()
    second()
    loss, _ = first(rates)
    with torch.no_grad():
        for weight, gradient, factor in zip(other.weights, second.gradients, other.factors, strict=True):
            move(weight, gradient, rates, factor)
    assert torch.equal(loss, second()[0])
    for mine, theirs in zip([*one.weights, *first.gradients], [*other.weights, *second.gradients], strict=True):
        assert torch.equal(mine, theirs)


def largest_made(lane: Lane) -> int:
    """Bytes of the largest tensor that three steps make."""
    lane.advance(2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        lane.advance(3)
    return max(event.self_cpu_memory_usage for event in profile.events())


@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda c: c.name)
@pytest.mark.parametrize("linearized", [False, True])
def test_plain_descent_makes_no_tensor_of_the_size_of_a_weight(coupling: Coupling, linearized: bool):
    settings = settings_of(coupling=coupling, width=64, linearized=linearized)
    lane = Lane(settings, slots=2, budget=Budget(steps=1000), stop_below=0, device=CPU)
    for slot in range(2):
        lane.fill(slot, settings)
    weight = lane.pair.weights[0]
    size = weight.numel() * weight.element_size()
    assert (largest_made(lane) >= size) == linearized  # which is left to autograd


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("shape", [(1,), (7,), (4, 6), (3, 2, 5)])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("is_whole", [False, True])
def test_squares_are_summed_of_each_slot_alone(slots: int, shape: tuple[int, ...], adds: bool, is_whole: bool):
    draws = torch.Generator().manual_seed(0)
    stack = torch.randn(slots, 2 * shape[0], *shape[1:], generator=draws, dtype=torch.float64)
    part = stack if is_whole else stack[:, shape[0] :]
    out = torch.ones(2, slots, dtype=torch.float64)[1]
    sum_squares = SquareSums(part, out, adds=adds)
    sum_squares()
    expected = adds + part.square().flatten(1).sum(1)
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=0)
    part[0] = torch.nan
    sum_squares()
    assert out[0].isnan()
    torch.testing.assert_close(out[1:], expected[1:] + adds * (expected[1:] - 1), rtol=1e-13, atol=0)
