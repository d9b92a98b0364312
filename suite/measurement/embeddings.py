"""Embeddings: how the two views' embeddings lie, as representation learning describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, MOST_SAMPLES, Column, Values
from suite.measurement.spectra import eigenvalues

if TYPE_CHECKING:
    from torch import Tensor

    from suite.measurement.point import Point

_WANG = "Wang & Isola 2020, arXiv 2005.10242"
_GARRIDO = "Garrido et al. 2023, arXiv 2210.02885, eq. 1 and 2"


def _both(name: str, formula: str, source: str = "") -> list[Column]:
    """A column for each view."""
    return [Column(name=f"{name}_{tower}", formula=formula, source=source) for tower in ("query", "key")]


@MEASUREMENTS(
    "embeddings",
    Column(name="alignment", formula="mean_i ‖ẑ_i − ẑ'_i‖², of unit embeddings ẑ of the two views", source=_WANG),
    *_both("uniformity", "log mean_{i<j} exp(−2 ‖ẑ_i − ẑ_j‖²), of one view", source=_WANG),
    *_both("rankme", "exp(−Σ_k p_k log p_k), p = σ/Σσ + 1e-7, σ the singular values of Z", source=_GARRIDO),
    *_both("spread", "1 − ‖mean_i ẑ_i‖²; 0 where all embeddings point the same way"),
    *_both("embedding_norm", "mean_i ‖z_i‖"),
    *_both("embedding_std", "mean over dimensions of the standard deviation of ẑ; d^-½ for uniform directions"),
    Column(
        name="embedding_std_by_dimension",
        formula="standard deviation over the samples of each dimension of ẑ: of the query view, then the key view",
        kind="list",
        source="Chen & He 2021, arXiv 2011.10566, section 4.1",
    ),
    default=Moments.ALWAYS,
    cost="products of the embeddings with themselves",
    gradients=lambda settings: 0.3,
)
def embeddings(point: Point) -> Values:
    """Embeddings of both views, scaled to norm 1 where they wear a hat."""
    import torch

    from suite.training.losses import unit_rows

    units = [unit_rows(z) for z in point.embeddings]
    values = {"alignment": (units[0] - units[1]).square().sum(-1).mean(-1)}
    deviations = [unit.std(1, correction=0) for unit in units]
    for name, z, unit, deviation in zip(("query", "key"), point.embeddings, units, deviations, strict=True):
        values |= {
            f"uniformity_{name}": uniformity(unit[:, :MOST_SAMPLES]),
            f"rankme_{name}": rankme(z),
            f"spread_{name}": 1 - unit.mean(1).square().sum(-1),
            f"embedding_norm_{name}": torch.linalg.vector_norm(z, dim=-1).mean(-1),
            f"embedding_std_{name}": deviation.mean(-1),
        }
    return values | {"embedding_std_by_dimension": torch.cat(deviations, dim=-1)}


def uniformity(unit: Tensor) -> Tensor:
    """log mean_{i<j} exp(-2 ||z_i - z_j||^2) of unit rows: (S, n, d) -> (S,)."""
    import math

    n = unit.shape[1]
    squared_norms = unit.square().sum(-1)
    exponents = 4 * unit @ unit.mT - 2 * (squared_norms[:, :, None] + squared_norms[:, None])
    exponents.diagonal(dim1=1, dim2=2).fill_(-math.inf)
    return exponents.flatten(1).logsumexp(-1) - math.log(n * (n - 1))


def rankme(z: Tensor) -> Tensor:
    """Effective rank of embeddings, not centred: (S, n, d) -> (S,), from the eigenvalues of Z^T Z in float64."""
    wide = z.double()
    gram = wide.mT @ wide if z.shape[1] >= z.shape[2] else wide @ wide.mT
    singular = eigenvalues(gram).clamp_min(0).sqrt()
    shares = singular / singular.sum(-1, keepdim=True) + 1e-7
    return (-(shares * shares.log()).sum(-1)).exp()
