"""Every registered loss in all its variants: against second implementations, finite differences and itself."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_by_hand import (
    BY_HAND,
    VARIANTS,
    by_hand,
    changed,
    decimals,
    embeddings,
    estimate_by_hand,
    exponentials,
    extras,
    label,
    slot,
)
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from suite.experiment import TrialSettings
from suite.training import losses
from suite.training.losses import LOSSES, Debiased, InfoNCE, Loss, Sigmoid, Similarity, draw_negatives, unit_rows

every_variant = pytest.mark.parametrize("loss", VARIANTS, ids=label)


def derivatives(loss: Loss, query: Tensor, key: Tensor, **extra: Tensor) -> list[Tensor]:
    """Value, gradient and two Hessian-vector products, in the embeddings and in the trained parameters."""
    trained = {name: extra[name].clone().requires_grad_() for name in loss.parameters()}
    points = [query.clone().requires_grad_(), key.clone().requires_grad_()]
    value = loss(*points, **{**extra, **trained})
    points += trained.values()
    gradient = torch.autograd.grad(value.sum(), points, create_graph=True)
    generator = torch.Generator().manual_seed(1)
    vectors = [torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g.dtype) for g in gradient]
    product = torch.autograd.grad(gradient, points, grad_outputs=vectors, retain_graph=True)
    turned = torch.autograd.grad(gradient, points, grad_outputs=[vector.flip(-1) for vector in vectors])
    return [part.detach() for part in (value, *gradient, *product, *turned)]


@pytest.mark.parametrize("loss", [loss for loss in VARIANTS if loss.name in BY_HAND], ids=label)
@settings(max_examples=15, deadline=None)
@given(
    samples=st.integers(3, 7),
    dim=st.integers(1, 5),
    temperature=st.floats(0.05, 20),
    prior=st.floats(0, 0.95),
    bias=st.floats(-12, 3),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_loss_is_its_paper_s_formula(
    loss: Loss, samples: int, dim: int, temperature: float, prior: float, bias: float, seed: int
):
    loss = changed(loss, temperature=temperature, prior=prior, scale=temperature, bias=bias)
    query, key = embeddings(2, samples, dim, seed)
    extra = extras(loss, 2, samples, seed)
    values = loss(query, key, **extra)
    for index in range(2):
        expected = by_hand(loss, query[index], key[index], **slot(extra, index))
        assert values[index].item() == pytest.approx(expected, rel=1e-11, abs=1e-12)


def as_classification(query: Tensor, key: Tensor, similarity: Similarity, temperature: float) -> Tensor:
    """One slot: which of the n keys belongs to each query, by cross entropy."""
    if similarity == "cosine":
        logits = cosine_similarity(query[:, None], key[None], dim=-1)
    else:
        logits = (query[:, None] * key[None]).sum(-1)
    return cross_entropy(logits / temperature, torch.arange(len(query)))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_infonce_is_the_cross_entropy_of_picking_the_right_key(similarity: Similarity):
    query, key = embeddings()
    values = InfoNCE(similarity=similarity, temperature=0.7)(query, key)
    expected = [as_classification(q, k, similarity, 0.7) for q, k in zip(query, key, strict=True)]
    assert values.tolist() == pytest.approx(torch.stack(expected).tolist(), rel=1e-13)


@pytest.mark.parametrize(
    ("name", "similarity"),
    [("nt_xent", "cosine"), ("infonce", "dot"), ("infonce", "cosine"), ("supcon", "dot"), ("supcon", "cosine")],
)
def test_a_loss_agrees_with_pytorch_metric_learning(name: str, similarity: Similarity):
    from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity
    from pytorch_metric_learning.losses import NTXentLoss, SupConLoss

    loss = LOSSES[name](similarity=similarity, temperature=0.7)
    distance = CosineSimilarity() if similarity == "cosine" else DotProductSimilarity(normalize_embeddings=False)
    theirs = {"infonce": NTXentLoss, "nt_xent": NTXentLoss, "supcon": SupConLoss}[name](0.7, distance=distance)
    query, key = embeddings(slots=4, samples=9)
    extra = extras(loss, 4, 9)
    for index, value in enumerate(loss(query, key, **extra).tolist()):
        q, k, own = query[index], key[index], torch.arange(9)
        if name == "nt_xent":
            expected = theirs(torch.cat([q, k]), torch.cat([own, own]))
        else:
            classes = extra["labels"][index] if name == "supcon" else own
            expected = theirs(q, classes, ref_emb=k, ref_labels=classes.clone())
        assert value == pytest.approx(expected.item(), rel=1e-10)


@every_variant
def test_gradient_and_curvature_agree_with_finite_differences(loss: Loss):
    query, key = (z.requires_grad_() for z in embeddings(2, 4, 2))
    extra = extras(loss, 2, 4)
    names = list(loss.parameters())

    def value(q: Tensor, k: Tensor, *trained: Tensor) -> Tensor:
        return loss(q, k, **{**extra, **dict(zip(names, trained, strict=True))})

    points = (query, key, *(extra[name].requires_grad_() for name in names))
    assert torch.autograd.gradcheck(value, points)
    assert torch.autograd.gradgradcheck(value, points)


@every_variant
def test_slots_are_independent_to_the_bit(loss: Loss):
    query, key = embeddings()
    extra = extras(loss)
    before = derivatives(loss, query, key, **extra)
    other_query, other_key = embeddings(seed=1)
    other_extra = extras(loss, seed=7)
    other_query[0], other_key[0] = query[0], key[0]
    for name, value in extra.items():
        other_extra[name][0] = value[0]
    after = derivatives(loss, other_query, other_key, **other_extra)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[0], other[0])
        assert not torch.equal(one[1], other[1])


@every_variant
@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_loss_in_blocks_is_the_loss_at_once(
    loss: Loss, dtype: torch.dtype, accuracy: float, rows: int, monkeypatch: pytest.MonkeyPatch
):
    query, key = embeddings(2, 7, dtype=dtype)
    extra = extras(loss, 2, 7, dtype=dtype)
    whole = derivatives(loss, query, key, **extra)
    heights: list[int] = []
    of_rows = type(loss).of_rows

    def watched(self: Loss, logits: Tensor, first: int, **extra: Tensor) -> Tensor:
        heights.append(logits.shape[1])
        return of_rows(self, logits, first, **extra)

    monkeypatch.setattr(type(loss), "of_rows", watched)
    num_candidates = loss.anchors_and_candidates(query, key)[1].shape[1]
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", 2 * num_candidates * rows)
    blocked = derivatives(loss, query, key, **extra)
    assert max(heights) == rows
    for one, other in zip(whole, blocked, strict=True):
        assert one.isfinite().all()
        assert torch.linalg.vector_norm(one - other) <= accuracy * torch.linalg.vector_norm(one)


@every_variant
def test_a_loss_is_finite_with_its_gradient_in_single_precision(loss: Loss):
    loss = changed(loss, temperature=0.01, scale=100.0)
    query, key = embeddings(dtype=torch.float32)
    parts = derivatives(loss, query, key, **extras(loss, dtype=torch.float32))
    assert parts[0].shape == (3,)
    assert parts[1].shape == parts[2].shape == (3, 5, 4)
    assert all(part.isfinite().all() and part.dtype == torch.float32 for part in parts)


@every_variant
def test_dead_embeddings_have_similarity_zero_and_with_cosine_no_gradient(loss: Loss):
    query, key = embeddings(2, 5)
    query[0, 2], key[0, 2], query[1] = 0, 0, 0
    extra = extras(loss, 2, 5)
    values, *gradients = derivatives(loss, query, key, **extra)
    assert all(gradient.isfinite().all() for gradient in gradients)
    for index, value in enumerate(values.tolist() if loss.name in BY_HAND else []):
        expected = by_hand(loss, query[index], key[index], **slot(extra, index))
        assert value == pytest.approx(expected, rel=1e-12)
    if loss.similarity == "cosine":
        assert not unit_rows(query)[1].any()
        assert not gradients[0][query == 0].any()
        assert not gradients[1][key == 0].any()


def test_one_sided_infonce_tells_query_from_key():
    query, key = embeddings()
    assert not torch.allclose(InfoNCE()(query, key), InfoNCE()(key, query))
    assert torch.allclose(InfoNCE(symmetric=True)(query, key), InfoNCE(symmetric=True)(key, query))


def test_a_slot_with_huge_logits_stays_finite():
    query, key = embeddings(slots=1)
    loss = InfoNCE(similarity="dot", temperature=1e-3)(query * 100, key * 100)
    assert torch.isfinite(loss).all()


def test_a_confident_sigmoid_loss_keeps_its_digits_in_single_precision():
    query, _ = embeddings(1, 2, dtype=torch.float32)
    query[0, 1] = -query[0, 0]
    loss = Sigmoid(scale=40.0, bias=0.0)(query, query)
    assert loss.item() == pytest.approx(2 * math.exp(-40), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"name": "dcl", "similarity": "dot"},
            "loss dcl with dot similarity is unbounded below: use similarity: cosine",
        ),
        ({"name": "nt_xent", "similarity": "dot"}, "loss nt_xent with dot similarity .* use similarity: cosine"),
        ({"name": "sigmoid", "similarity": "dot"}, "loss sigmoid with dot similarity .* use similarity: cosine"),
        ({"name": "debiased", "similarity": "dot"}, "loss debiased with dot similarity .* use similarity: cosine"),
        ({"name": "spectral", "similarity": "cosine"}, "loss spectral with cosine similarity .* use similarity: dot"),
    ],
)
def test_a_wrong_similarity_is_refused_with_the_reason_at_its_field(given: dict[str, str], reason: str):
    with pytest.raises(ValidationError, match=reason) as refusal:
        TrialSettings.model_validate({"loss": given})
    (problem,) = refusal.value.errors()
    assert problem["loc"] == ("loss", given["name"], "similarity")


@pytest.mark.parametrize("name", [name for name in LOSSES if "temperature" in LOSSES[name].model_fields])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_temperature_is_refused(name: str, temperature: float):
    with pytest.raises(ValidationError, match="temperature"):
        LOSSES[name](temperature=temperature)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("infonce", "negatives", 0),
        ("debiased", "prior", 1.0),
        ("debiased", "prior", -0.1),
        ("sigmoid", "scale", 0.0),
        ("sigmoid", "bias", math.inf),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, field: str, value: Any):
    with pytest.raises(ValidationError, match=field):
        LOSSES[name](**{field: value})


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_clamped_share_counts_the_anchors_at_the_clamp(symmetric: bool, rows: int, monkeypatch: pytest.MonkeyPatch):
    loss = Debiased(temperature=0.2, prior=0.15, symmetric=symmetric)
    query, noise = embeddings(3, 20, 3)
    key = query + 0.3 * noise
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", 3 * 20 * rows)
    shares = loss.diagnostics(query, key)["clamped_share"]
    for share, one, other in zip(shares.tolist(), query, key, strict=True):
        q, k = decimals(one, unit=True), decimals(other, unit=True)
        e = exponentials(loss, q, k) + (exponentials(loss, k, q) if symmetric else [])
        clamped = [estimate_by_hand(loss, row, i % 20) < math.exp(-1 / 0.2) for i, row in enumerate(e)]
        assert 0 < sum(clamped) < len(clamped)
        assert share == pytest.approx(sum(clamped) / len(clamped), abs=1e-15)


def test_diagnostics_have_one_value_for_each_slot():
    for loss in VARIANTS:
        columns = loss.diagnostics(*embeddings(), **extras(loss))
        assert all(column.shape == (3,) for column in columns.values())


@pytest.mark.parametrize(("samples", "negatives"), [(2, 1), (9, 1), (9, 4), (9, 8)])
def test_drawn_negatives_are_the_first_of_a_random_order_of_the_others(samples: int, negatives: int):
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 3])))
    expected = np.zeros((samples, samples), dtype=bool)
    for i in range(samples):
        order = np.argsort(stream.random(samples))
        expected[i, [j for j in order if j != i][:negatives]] = True
        expected[i, i] = True
    drawn = draw_negatives(5, samples=samples, negatives=negatives)
    assert drawn.dtype == bool
    assert np.array_equal(drawn, expected)
    assert (drawn.sum(axis=1) == negatives + 1).all()


def test_all_other_samples_are_drawn_equally_often():
    counts = sum(draw_negatives(seed, samples=6, negatives=2).astype(int) for seed in range(2000))
    assert (np.diag(counts) == 2000).all()
    off_diagonal = counts[~np.eye(6, dtype=bool)]
    assert np.abs(off_diagonal - 800).max() < 5 * math.sqrt(2000 * 0.4 * 0.6)


@pytest.mark.parametrize("negatives", [0, 5])
def test_more_negatives_than_there_are_others_are_refused(negatives: int):
    with pytest.raises(ValueError, match=rf"negatives is {negatives}; 5 samples allow 1 to 4"):
        draw_negatives(0, samples=5, negatives=negatives)


def test_drawing_every_other_sample_is_infonce_itself():
    query, key = embeddings()
    everyone = torch.from_numpy(draw_negatives(0, samples=5, negatives=4)).expand(3, 5, 5)
    assert torch.equal(InfoNCE(negatives=4)(query, key, negatives=everyone), InfoNCE()(query, key))


PEAK = """
import resource, torch
from suite.training.losses import LOSSES
query, key = (torch.randn(1, 16384, 16, requires_grad=True) for _ in range(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
LOSSES["infonce"]()(query, key).sum().backward()
assert query.grad.isfinite().all() and key.grad.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.cluster
def test_many_samples_need_the_memory_of_a_few_blocks():
    output = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    whole = 4 * 16384**2
    assert int(output) * 2**10 < 0.6 * whole
