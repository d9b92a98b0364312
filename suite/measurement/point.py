"""A point: where the trials of a stack are in weight space, as measurements see it. Shapes: S slots, n samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from suite.measurement.registry import MOST_SAMPLES

if TYPE_CHECKING:
    from torch import Tensor

    from suite.experiment import TrialSettings
    from suite.measurement.certificate import Levels
    from suite.measurement.stationarity import Stationarity
    from suite.training.pair import Pair
    from suite.training.towers import Pass


@dataclass(frozen=True, kw_only=True)
class Point:
    """S trials at their present weights. Weights and gradients are in the order of `pair.weights`."""

    pair: Pair
    loss: Tensor
    """(S,)."""
    gradients: Sequence[Tensor]
    """Of each slot's own loss, in every trained weight: (S, ...) each."""
    norms_sq: Tensor
    """Squared Frobenius norm of each gradient, (weights, S)."""
    embeddings: Sequence[Tensor]
    """Of both views: (S, n, d) each."""
    eta: Tensor
    """Rate of the step from here, (S,)."""
    settings: Sequence[TrialSettings | None]
    """Of each slot's trial; None for an idle slot."""
    running: Stationarity
    """What was kept at every step so far; of no meaning to measurements that wait."""
    update_norm_sq: Tensor
    """Of the step that led here, (S,); NaN where it is G itself."""
    known: Sequence[Mapping[str, Any] | None]
    """What was measured already at this record, for measurements that wait; None for an idle slot."""
    levels: Levels
    """Where stationarity begins."""

    @cached_property
    def scaled(self) -> Tensor:
        """G, the squared gradient norm with each weight's factor P: (S,)."""
        import torch

        factors = torch.tensor(self.pair.factors, dtype=self.loss.dtype, device=self.loss.device)
        return factors @ self.norms_sq

    @cached_property
    def moved(self) -> list[Tensor]:
        """w - w_0 of the towers' weights; what the loss itself trains is left out."""
        drawn = self.pair.initial
        return [w.detach() - w0 for w, w0 in zip(self.pair.weights[: len(drawn)], drawn, strict=True)]

    @cached_property
    def passes(self) -> list[list[Pass]]:
        """What goes through every layer of each view's tower at the present weights, for MOST_SAMPLES samples."""
        import torch

        with torch.no_grad():
            return self.pair.passes(self.pair.weights, MOST_SAMPLES)

    @cached_property
    def passes_at_start(self) -> list[list[Pass]]:
        """The same at the weights of the draw."""
        return self.pair.passes_at_start(MOST_SAMPLES)

    @cached_property
    def embeddings_at_start(self) -> list[Tensor]:
        """Of both views, at the weights of the draw: (S, n, d) each."""
        import torch

        with torch.no_grad():
            return self.pair.embeddings(self.pair.at_start)


def squared_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Squared Frobenius norm of each stack of gradients, (S, ...) each: (weights, S)."""
    import torch

    return torch.stack([norms(gradient) for gradient in gradients]).square()


def norms(stack: Tensor) -> Tensor:
    """Frobenius norm of each slot's part: (S, ...) -> (S,). A flattened view would copy a transposed gradient."""
    import torch

    return torch.linalg.vector_norm(stack, dim=tuple(range(1, stack.ndim)))
