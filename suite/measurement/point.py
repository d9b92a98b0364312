"""A point: where the trials of a stack are in weight space, as measurements see it. Shapes: S slots, n samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from suite.experiment import TrialSettings
    from suite.measurement.stationarity import Stationarity
    from suite.training.pair import Pair
    from suite.training.towers import Pass


@dataclass(frozen=True)
class Point:
    """S trials at their present weights. Weights and gradients are in the order of `pair.weights`."""

    pair: Pair
    loss: Tensor
    """(S,)."""
    gradients: Sequence[Tensor]
    """Of each slot's own loss, in every trained weight: (S, ...) each."""
    embeddings: Sequence[Tensor]
    """Of both views: (S, n, d) each."""
    eta: Tensor
    """Rate of the step from here, (S,)."""
    settings: Sequence[TrialSettings | None]
    """Of each slot's trial; None for an idle slot."""
    running: Stationarity
    """What was kept at every step so far."""
    update_norm_sq: Tensor
    """Of the step that led here, (S,); NaN where it is G itself."""

    @cached_property
    def norms_sq(self) -> Tensor:
        """Squared Frobenius norm of each gradient: (weights, S)."""
        with torch.no_grad():
            return torch.stack([norms(gradient) for gradient in self.gradients]).square()

    @cached_property
    def scaled(self) -> Tensor:
        """G, the squared gradient norm with each weight's factor P: (S,)."""
        factors = torch.tensor(self.pair.factors, dtype=self.loss.dtype, device=self.loss.device)
        return factors @ self.norms_sq

    @cached_property
    def passes(self) -> list[list[Pass]]:
        """What goes through every layer of each view's tower, at the present weights."""
        return self.pair.passes(self.pair.weights)

    @cached_property
    def passes_at_start(self) -> list[list[Pass]]:
        """The same at the weights of the draw."""
        return self.pair.passes(self.pair.at_start)


def norms(stack: Tensor) -> Tensor:
    """Frobenius norm of each slot's part: (S, ...) -> (S,). A flattened view would copy a transposed gradient."""
    return torch.linalg.vector_norm(stack, dim=tuple(range(1, stack.ndim)))
