"""Towers: ReLU networks of equal shape stacked over the slots of a lane.

Shapes: S slots, n samples, p input_dim, m width, L depth, d embedding_dim. Only the L hidden layers are trained; the
first layer A and the last layer B stay at their draw, so the features h_0 = relu(A x) are computed once per trial.
Source of the setting: Allen-Zhu, Li, Song 2019 (arXiv 1811.03962, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suite.training.parametrizations import Parametrization, layer_scales, learning_rate_factor

TOWERS = ("query", "key")


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """Shape and parametrization of one tower; `index` is 0 for query and 1 for key, and picks its random stream."""

    index: int
    width: int
    depth: int
    embedding_dim: int
    parametrization: Parametrization

    @property
    def learning_rate_factor(self) -> float:
        """P of the trained layers."""
        return learning_rate_factor(self.parametrization, width=self.width, embedding_dim=self.embedding_dim)


@dataclass(frozen=True)
class TowerWeights:
    """One trial's tower at its draw, float64: first (m, p), hidden L times (m, m), last (d, m)."""

    first: np.ndarray
    hidden: list[np.ndarray]
    last: np.ndarray


def draw_weights(spec: TowerSpec, *, seed: int, input_dim: int) -> TowerWeights:
    """Initial weights, from (seed, tower, layer) alone: no draw depends on lane, slot, node or order."""
    scales = layer_scales(spec.parametrization, width=spec.width, embedding_dim=spec.embedding_dim)

    def normal(layer: int, shape: tuple[int, int], std: float) -> np.ndarray:
        stream = np.random.SeedSequence([seed, 1 + spec.index, layer])
        return std * np.random.Generator(np.random.PCG64(stream)).standard_normal(shape)

    m, d = spec.width, spec.embedding_dim
    return TowerWeights(
        first=normal(0, (m, input_dim), scales[0].init_std),
        hidden=[normal(layer, (m, m), scales[1].init_std) for layer in range(1, spec.depth + 1)],
        last=normal(spec.depth + 1, (d, m), scales[2].init_std),
    )


class TowerSlots:
    """One tower of every trial in a lane: features (S, n, m), hidden L times (S, m, m), last (S, d, m)."""

    def __init__(self, spec: TowerSpec, *, slots: int, samples: int, dtype: torch.dtype, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=device)

        m = spec.width
        self.spec = spec
        self.features = zeros(samples, m)
        self.hidden = [zeros(m, m).requires_grad_() for _ in range(spec.depth)]
        self.initial = [zeros(m, m) for _ in range(spec.depth)]
        self.last = zeros(spec.embedding_dim, m)
        self._multipliers = [
            scale.multiplier for scale in layer_scales(spec.parametrization, width=m, embedding_dim=spec.embedding_dim)
        ]

    @torch.no_grad()
    def fill(self, slot: int, weights: TowerWeights, inputs: np.ndarray) -> None:
        """Put a trial's tower at its draw into one slot; inputs (n, p), both cast from float64 once."""
        features = np.maximum(self._multipliers[0] * (inputs @ weights.first.T), 0)
        self.features[slot] = torch.from_numpy(features)
        self.last[slot] = torch.from_numpy(weights.last)
        for layer, draw in enumerate(weights.hidden):
            self.initial[layer][slot] = torch.from_numpy(draw)
            self.hidden[layer][slot] = self.initial[layer][slot]

    def alone(self, slot: int) -> TowerSlots:
        """A copy of one slot as a stack of one, for work that concerns a single trial."""
        samples, like = self.features.shape[1], self.features
        copy = TowerSlots(self.spec, slots=1, samples=samples, dtype=like.dtype, device=like.device)
        copy.features, copy.last = self.features[slot : slot + 1], self.last[slot : slot + 1]
        copy.hidden = [w[slot : slot + 1].detach().clone().requires_grad_() for w in self.hidden]
        copy.initial = [w[slot : slot + 1] for w in self.initial]
        return copy

    def embed(self, hidden: list[Tensor]) -> Tensor:
        """Embeddings z (S, n, d) with the given hidden weights in place of the lane's own."""
        h = self.features
        for w in hidden:
            h = torch.relu(_scaled(h @ w.mT, self._multipliers[1]))
        return _scaled(h @ self.last.mT, self._multipliers[2])


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
