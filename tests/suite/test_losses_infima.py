"""The stated lower bounds against minimisation over free embeddings: never passed, and reached where they say so."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from losses_by_hand import VARIANTS, changed, label
from scipy.optimize import minimize
from torch import Tensor

from suite.training.losses import DCL, LOSSES, Debiased, InfoNCE, Loss, NTXent, Sigmoid, SupCon, draw_negatives

LABELS = (0, 0, 1, 1, 2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices only lose by more, most of all where other work shares the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def least(loss: Loss, samples: int, dim: int, *, labels: Sequence[int] = LABELS, starts: int = 4) -> float:
    """Lowest value that L-BFGS finds over both towers' embeddings, and the trained parameters; each slot is a start."""
    known = {
        "labels": torch.tensor([labels] * starts),
        "negatives": torch.from_numpy(draw_negatives(0, samples=samples, negatives=2)).expand(starts, -1, -1),
    }
    extra = {name: known[name] for name in loss.needs}
    size = 2 * starts * samples * dim

    def values(point: Tensor) -> Tensor:
        query, key = point[:size].view(2, starts, samples, dim)
        trained = dict(zip(loss.parameters(), point[size:].view(-1, starts), strict=True))
        return loss(query, key, **extra, **trained)

    def sum_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(point, requires_grad=True)
        total = values(free).sum()
        return total.item(), torch.autograd.grad(total, free)[0].numpy()

    embedded = np.random.default_rng(0).normal(size=size)
    point = np.concatenate([embedded, np.repeat(list(loss.parameters().values()), starts)])
    options = {"maxiter": 200, "maxfun": 250, "maxcor": 30, "ftol": 1e-14, "gtol": 1e-8}
    found = minimize(sum_and_gradient, point, jac=True, method="L-BFGS-B", options=options).x
    return values(torch.tensor(found)).min().item()


def check(loss: Loss, samples: int, dim: int, labels: Sequence[int] = LABELS) -> None:
    """Never below the bound; at it where it is attained, and clear of it where a compact set's is not."""
    bound = loss.infimum(samples=samples, embedding_dim=dim, labels=labels)
    if bound is None:
        pytest.skip(f"{loss.name} states no bound")
    gap = least(loss, samples, dim, labels=labels) - bound.value
    assert gap >= -1e-12
    if bound.attained:
        assert gap <= 1e-6
    elif bound.attained is False and loss.similarity == "cosine" and not loss.parameters():
        assert gap > 1e-5


@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize("loss", VARIANTS, ids=label)
def test_free_embeddings_stay_above_the_bound_and_reach_it_where_it_is_attained(loss: Loss, dim: int):
    check(loss, 5, dim)


@pytest.mark.parametrize(
    ("labels", "dim", "attained"),
    [
        ((0, 0, 1, 1, 2, 2), 2, True),
        ((0, 0, 1, 1, 2, 2, 3, 3), 3, True),
        ((0, 0, 1, 1, 2, 2, 3, 3), 2, False),
        ((0, 0, 0, 1, 1, 2), 3, False),
        ((0, 0, 0, 0, 1), 2, True),
        ((0, 0, 0, 0), 2, True),
        ((0, 1, 2, 3), 3, True),
    ],
)
def test_supervised_classes_collapse_to_a_simplex_where_their_sizes_allow(
    labels: tuple[int, ...], dim: int, attained: bool
):
    loss = SupCon(temperature=0.7)
    bound = loss.infimum(samples=len(labels), embedding_dim=dim, labels=labels)
    assert bound.attained is attained
    check(loss, len(labels), dim, labels)


def test_without_labels_the_supervised_bound_is_unknown():
    assert SupCon().infimum(samples=4, embedding_dim=3) is None


@pytest.mark.parametrize(
    ("scale", "bias", "dim", "attained"),
    [
        (10.0, -10.0, 3, False),  # positives together
        (10.0, -10.0, 4, True),
        (1.0, 0.0, 4, False),  # positives apart, by a fifth dimension
        (1.0, 0.0, 5, True),
        (5.0, 6.0, 2, True),  # positives opposite
        (5000.0, -100.0, 4, False),
    ],
)
def test_the_sigmoid_bound_holds_in_all_three_regimes(scale: float, bias: float, dim: int, attained: bool):
    loss = Sigmoid(scale=scale, bias=bias)
    assert loss.infimum(samples=5, embedding_dim=dim).attained is attained
    if scale < 1000:  # beyond, the bound is zero to all digits
        check(loss, 5, dim)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (1.0, 0.0), (3.0, 0.5), (5.0, 6.0), (0.1, -2.0)])
@pytest.mark.parametrize("samples", [2, 3, 64])
def test_the_sigmoid_bound_is_the_least_over_double_constant_embeddings(scale: float, bias: float, samples: int):
    bound = Sigmoid(scale=scale, bias=bias).infimum(samples=samples, embedding_dim=samples)
    apart = np.linspace(0, 1, 20001)  # squared share of the axis along which the views are moved apart
    positive = scale * (1 - 2 * apart) + bias
    negative = scale * (-(1 - apart) / (samples - 1) - apart) + bias
    values = np.logaddexp(0, -positive) + (samples - 1) * np.logaddexp(0, negative)
    assert values.min() == pytest.approx(bound.value, rel=1e-7)
    assert values.min() >= bound.value - 1e-13


@pytest.mark.parametrize("loss", [InfoNCE(), InfoNCE(symmetric=True), NTXent(), DCL(), DCL(symmetric=True)], ids=label)
@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
def test_a_simplex_attains_the_bound(loss: Loss, temperature: float):
    loss = changed(loss, temperature=temperature)
    simplex = (torch.eye(5, dtype=torch.float64) - 1 / 5)[None]  # n = 5 points, rank 4
    bound = loss.infimum(samples=5, embedding_dim=4)
    assert bound.attained
    assert loss(simplex, simplex).item() == pytest.approx(bound.value, rel=1e-12)


def test_cosine_infonce_has_its_known_infimum():
    expected = math.log(1 + 4 * math.exp(-5 / (4 * 0.5)))
    assert InfoNCE().infimum(samples=5, embedding_dim=4).value == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("temperature", "clamped"), [(0.5, True), (1.0, False)])
def test_debiased_reaches_its_bound_where_a_simplex_clamps_every_anchor(temperature: float, clamped: bool):
    loss = Debiased(temperature=temperature)
    simplex = (torch.eye(5, dtype=torch.float64) - 1 / 5)[None]
    bound = loss.infimum(samples=5, embedding_dim=4)
    assert loss.diagnostics(simplex, simplex)["clamped_share"].item() == clamped
    assert bound.attained is clamped
    assert loss.infimum(samples=5, embedding_dim=3).attained is (None if clamped else False)
    check(loss, 5, 4)


def test_in_one_dimension_dot_infonce_does_not_come_near_zero():
    assert least(InfoNCE(similarity="dot"), 3, 1, starts=32) == pytest.approx(math.log(2) / 3, abs=1e-3)
    assert least(InfoNCE(similarity="dot"), 3, 2) < 1e-6


def test_a_trained_scale_takes_the_sigmoid_loss_to_zero():
    """By a path there: how far a minimiser gets towards an infimum at infinity differs between machines."""
    loss = Sigmoid(trainable=True)
    angles = torch.arange(5, dtype=torch.float64) * (2 * math.pi / 5)
    pentagon = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    boundary = (1 + math.cos(2 * math.pi / 5)) / 2  # halfway between the cosines of positives and of the nearest others
    values = []
    for scale in (10.0, 100.0, 1000.0):
        trained = {"log_scale": torch.tensor([math.log(scale)]), "bias": torch.tensor([-scale * boundary])}
        values.append(loss(pentagon, pentagon, **trained).item())
    assert 0 <= values[2] < 1e-100 < values[1] < 1e-14 < values[0]
    assert least(loss, 5, 2) < values[0]


def test_every_loss_states_a_bound_for_the_quickstart():
    for name in LOSSES:
        bound = LOSSES[name]().infimum(samples=64, embedding_dim=16, labels=[i % 10 for i in range(64)])
        assert bound is None or math.isfinite(bound.value)
