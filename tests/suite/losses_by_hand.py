"""Every loss a second time, in loops over decimal numbers straight from its paper, and all settings worth a test."""

import itertools
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, get_args

import torch
from torch import Tensor

from suite.training.losses import LOSSES, Loss, Similarity, draw_negatives

Matrix = list[list[Decimal]]


def variants() -> Iterator[Loss]:
    """Every registered loss in every combination of its similarities, switches and kinds of negatives."""
    for name in LOSSES:
        cls = LOSSES[name]
        choices: dict[str, list[Any]] = {"similarity": [s for s in get_args(Similarity) if s not in cls.unsuited]}
        choices |= {field: [False, True] for field, spec in cls.model_fields.items() if spec.annotation is bool}
        choices |= {"negatives": [None, 2]} if "negatives" in cls.model_fields else {}
        for values in itertools.product(*choices.values()):
            yield cls(**dict(zip(choices, values, strict=True)))


def label(loss: Loss) -> str:
    """Names a variant in the test's id."""
    switched = [field for field in ("symmetric", "trainable", "negatives") if getattr(loss, field, None)]
    return "-".join([loss.name, loss.similarity, *switched])


VARIANTS = list(variants())


def changed(loss: Loss, **changes: Any) -> Loss:
    """The loss with those of the changes that it has fields for."""
    fields = {name: value for name, value in changes.items() if name in type(loss).model_fields}
    return type(loss)(**{**loss.model_dump(), **fields})


def embeddings(
    slots: int = 3, samples: int = 5, dim: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, slots, samples, dim, generator=generator, dtype=torch.float64).to(dtype)
    return query, key


def extras(loss: Loss, slots: int = 3, samples: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict:
    """What a call of this loss takes besides the embeddings, different in every slot."""
    masks = [draw_negatives(seed + slot, samples=samples, negatives=min(2, samples - 1)) for slot in range(slots)]
    generator = torch.Generator().manual_seed(seed)
    known = {
        "labels": torch.randint(0, 3, (slots, samples), generator=generator),
        "negatives": torch.stack([torch.from_numpy(mask) for mask in masks]),
    }
    shifts = torch.arange(slots, dtype=dtype) / 10
    parameters = {name: (value + shifts).to(dtype) for name, value in loss.parameters().items()}
    return {name: known[name] for name in sorted(loss.needs)} | parameters


def slot(values: dict[str, Tensor], index: int) -> dict[str, Any]:
    """One slot's part, as plain Python."""
    return {name: value[index].tolist() for name, value in values.items()}


def by_hand(loss: Loss, query: Tensor, key: Tensor, **extra: Any) -> float:
    """One slot's loss, from (n, d) and (n, d)."""
    q, k = (decimals(z, unit=loss.similarity == "cosine") for z in (query, key))
    one_way = BY_HAND[loss.name]
    value = one_way(loss, q, k, **extra)
    if getattr(loss, "symmetric", False):
        value = (value + one_way(loss, k, q, **extra)) / 2
    return float(value)


def decimals(z: Tensor, *, unit: bool) -> Matrix:
    rows = [[Decimal(x) for x in row] for row in z.tolist()]
    norms = [sum(x * x for x in row).sqrt() if unit else Decimal(1) for row in rows]
    return [[x / norm if norm else x for x in row] for row, norm in zip(rows, norms, strict=True)]


def inner(a: list[Decimal], b: list[Decimal]) -> Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), Decimal(0))


def exponentials(loss: Any, q: Matrix, k: Matrix) -> Matrix:
    return [[(inner(a, b) / Decimal(loss.temperature)).exp() for b in k] for a in q]


def mean(values: list[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


def infonce(loss: Any, q: Matrix, k: Matrix, negatives: list[list[bool]] | None = None) -> Decimal:
    e, n = exponentials(loss, q, k), len(q)
    seen = negatives or [[True] * n] * n
    return mean([-(e[i][i] / sum(e[i][j] for j in range(n) if seen[i][j])).ln() for i in range(n)])


def nt_xent(loss: Any, q: Matrix, k: Matrix) -> Decimal:
    views, n = q + k, len(q)
    e = exponentials(loss, views, views)
    return mean([-(e[v][(v + n) % (2 * n)] / sum(e[v][w] for w in range(2 * n) if w != v)).ln() for v in range(2 * n)])


def dcl(loss: Any, q: Matrix, k: Matrix) -> Decimal:
    e, n = exponentials(loss, q, k), len(q)
    return mean([-(e[i][i] / sum(e[i][j] for j in range(n) if j != i)).ln() for i in range(n)])


def sigmoid(loss: Any, q: Matrix, k: Matrix, log_scale: float | None = None, bias: float | None = None) -> Decimal:
    scale = Decimal(loss.scale) if log_scale is None else Decimal(log_scale).exp()
    shift = Decimal(loss.bias if bias is None else bias)
    total = Decimal(0)
    for i, a in enumerate(q):
        for j, b in enumerate(k):
            y = 1 if i == j else -1
            total += (1 + (-y * (scale * inner(a, b) + shift)).exp()).ln()
    return total / len(q)


def spectral(loss: Any, q: Matrix, k: Matrix) -> Decimal:
    attraction = mean([inner(a, b) for a, b in zip(q, k, strict=True)])
    return -2 * attraction + mean([inner(a, b) ** 2 for a in q for b in k])


def estimate_by_hand(loss: Any, row: list[Decimal], i: int) -> Decimal:
    """Chuang et al.'s g before the clamp, from a row of exponentials."""
    prior, others = Decimal(loss.prior), row[:i] + row[i + 1 :]
    return (mean(others) - prior * row[i]) / (1 - prior)


def debiased(loss: Any, q: Matrix, k: Matrix) -> Decimal:
    e, floor = exponentials(loss, q, k), (-1 / Decimal(loss.temperature)).exp()
    g = [max(estimate_by_hand(loss, row, i), floor) for i, row in enumerate(e)]
    return mean([-(e[i][i] / (e[i][i] + (len(q) - 1) * g[i])).ln() for i in range(len(q))])


def supcon(loss: Any, q: Matrix, k: Matrix, labels: list[int]) -> Decimal:
    e, n = exponentials(loss, q, k), len(q)
    kin = [[p for p in range(n) if labels[p] == labels[i]] for i in range(n)]
    return mean([mean([-(e[i][p] / sum(e[i])).ln() for p in kin[i]]) for i in range(n)])


BY_HAND: dict[str, Callable[..., Decimal]] = {
    "infonce": infonce,
    "nt_xent": nt_xent,
    "dcl": dcl,
    "sigmoid": sigmoid,
    "spectral": spectral,
    "debiased": debiased,
    "supcon": supcon,
}
