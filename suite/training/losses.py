"""Contrastive losses: each maps a lane's embeddings to one value per slot, so that the gradient of their sum is
each slot's own gradient.

Shapes: S slots, n samples, d embedding_dim.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from suite.registry import Registry, Settings

if TYPE_CHECKING:
    from torch import Tensor

Similarity = Literal["dot", "cosine"]


class Loss(Settings):
    """A contrastive loss of the two towers' embeddings."""

    name: str
    needs: __import__("typing").ClassVar = frozenset()

    def parameters(self):
        return {}

    def diagnostics(self, q, k, **e):
        return {}

    @abstractmethod
    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Loss of each slot: (S, n, d) x (S, n, d) -> (S,)."""


LOSSES: Registry[Loss] = Registry()


def unit_rows(z: Tensor) -> Tensor:
    """Rows scaled to norm 1, any shape; a zero row stays zero, with zero gradient."""
    norm_sq = z.square().sum(-1, keepdim=True)
    alive = norm_sq > 0
    return z * (norm_sq.where(alive, 1.0).rsqrt() * alive)


def similarities(query: Tensor, key: Tensor, kind: Similarity) -> Tensor:
    """All pairs (S, n, d) x (S, n, d) -> (S, n, n). A zero embedding has cosine 0 with everything."""
    if kind == "cosine":
        query, key = unit_rows(query), unit_rows(key)
    return query @ key.mT


def positive_among_all(logits: Tensor) -> Tensor:
    """Mean over rows of -log softmax at the diagonal: (S, n, n) -> (S,)."""
    return (logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)).mean(-1)


@LOSSES
class InfoNCE(Loss):
    """InfoNCE with all other samples as negatives (van den Oord et al. 2018, eq. 4).

    Infimum: 0 for dot (not attained); at least log(1 + (n-1) exp(-n / ((n-1) temperature))) for cosine,
    attained only if d >= n - 1.
    """

    name: Literal["infonce"] = "infonce"
    similarity: Similarity = "cosine"
    """How two embeddings are compared: their cosine, or their plain inner product."""
    temperature: float = Field(default=0.5, gt=0)
    """Divides the similarities; 0.05 to 1 is usual."""
    symmetric: bool = False
    """Average both directions, query to key and key to query, as CLIP does (Radford et al. 2021, fig. 3)."""

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Loss of each slot: (S, n, d) x (S, n, d) -> (S,)."""
        logits = similarities(query, key, self.similarity) / self.temperature
        if self.symmetric:
            return (positive_among_all(logits) + positive_among_all(logits.mT)) / 2
        return positive_among_all(logits)


BLOCK_ELEMENTS = 2**24


def draw_negatives(seed, *, samples, negatives): ...
