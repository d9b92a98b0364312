"""InfoNCE against PyTorch's own cross entropy, finite differences and its infimum."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from suite.training.losses import InfoNCE, Similarity, unit_rows

VARIANTS = [(similarity, symmetric) for similarity in ("dot", "cosine") for symmetric in (False, True)]


def embeddings(slots: int = 3, samples: int = 5, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, slots, samples, dim, generator=generator, dtype=torch.float64)
    return query, key


def as_classification(query: Tensor, key: Tensor, similarity: Similarity, temperature: float) -> Tensor:
    """One slot: which of the n keys belongs to each query, by cross entropy."""
    if similarity == "cosine":
        logits = cosine_similarity(query[:, None], key[None], dim=-1)
    else:
        logits = (query[:, None] * key[None]).sum(-1)
    return cross_entropy(logits / temperature, torch.arange(len(query)))


@pytest.mark.parametrize(("similarity", "symmetric"), VARIANTS)
@settings(max_examples=20, deadline=None)
@given(
    samples=st.integers(2, 7), dim=st.integers(1, 5), temperature=st.floats(0.05, 20), seed=st.integers(0, 2**31 - 1)
)
def test_infonce_is_the_cross_entropy_of_picking_the_right_key(
    similarity: Similarity, symmetric: bool, samples: int, dim: int, temperature: float, seed: int
):
    query, key = embeddings(2, samples, dim, seed)
    values = InfoNCE(similarity=similarity, temperature=temperature, symmetric=symmetric)(query, key)
    for value, q, k in zip(values, query, key, strict=True):
        expected = as_classification(q, k, similarity, temperature)
        if symmetric:
            expected = (expected + as_classification(k, q, similarity, temperature)) / 2
        assert value.item() == pytest.approx(expected.item(), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize(("similarity", "symmetric"), VARIANTS)
def test_the_gradient_of_infonce_agrees_with_finite_differences(similarity: Similarity, symmetric: bool):
    query, key = (z.requires_grad_() for z in embeddings(slots=2))
    loss = InfoNCE(similarity=similarity, temperature=0.7, symmetric=symmetric)
    assert torch.autograd.gradcheck(loss, (query, key))


def test_one_sided_infonce_tells_query_from_key():
    query, key = embeddings()
    assert not torch.allclose(InfoNCE()(query, key), InfoNCE()(key, query))
    assert torch.allclose(InfoNCE(symmetric=True)(query, key), InfoNCE(symmetric=True)(key, query))


def test_cosine_infonce_attains_its_infimum_on_a_simplex():
    simplex = torch.eye(5, dtype=torch.float64) - 1 / 5  # n = 5 points, rank 4
    floor = math.log(1 + 4 * math.exp(-5 / (4 * 0.5)))
    assert InfoNCE(temperature=0.5)(simplex[None], simplex[None]).item() == pytest.approx(floor, rel=1e-12)


def test_a_dead_embedding_has_cosine_zero_and_zero_gradient():
    query, key = embeddings(slots=1)
    query[0, 2] = 0
    query.requires_grad_()
    InfoNCE()(query, key).sum().backward()
    assert not unit_rows(query)[0, 2].any()
    assert not query.grad[0, 2].any()
    assert query.grad[0, [0, 1, 3, 4]].abs().amin() > 0


def test_a_slot_with_huge_logits_stays_finite():
    query, key = embeddings(slots=1)
    loss = InfoNCE(similarity="dot", temperature=1e-3)(query * 100, key * 100)
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_temperature_is_refused(temperature: float):
    with pytest.raises(ValueError, match="temperature"):
        InfoNCE(temperature=temperature)
