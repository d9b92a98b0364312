"""A pair of encoders as a user of PyTorch writes it: modules, autograd, an optimizer, one trial after another.

Shapes: n samples, m width, L depth, d embedding_dim. The first layer is not trained, so that its outputs, the
features h_0, are computed once and given; that helps every peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a trial begins, and how it moves: arrays alone, so that a peer needs nothing of the suite.

    For each of two towers: features (n, m), hidden L times (m, m), last (d, m).
    """

    trial_id: str
    shape: tuple[int, int]
    """Width and depth."""
    rate: float
    """Learning rate of the weights themselves."""
    factor: float
    """P: scaled G is P times the squared norm of the gradient."""
    temperature: float
    features: list[np.ndarray]
    hidden: list[list[np.ndarray]]
    last: list[np.ndarray]


class Tower(nn.Module):
    """From features to embeddings; the last layer stays at its draw."""

    def __init__(self, hidden: list[np.ndarray], last: np.ndarray) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(_linear(w) for w in hidden)
        self.last = _linear(last).requires_grad_(False)

    def forward(self, h: Tensor) -> Tensor:
        """(n, m) -> (n, d)."""
        for layer in self.hidden:
            h = torch.relu(layer(h))
        return self.last(h)


class Pair(nn.Module):
    """InfoNCE of the cosines of two towers' embeddings."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.query, self.key = (Tower(h, w) for h, w in zip(start.hidden, start.last, strict=True))
        self.temperature = start.temperature

    def forward(self, query_features: Tensor, key_features: Tensor) -> Tensor:
        """The loss, of (n, m) features of each view."""
        query = F.normalize(self.query(query_features), dim=-1)
        key = F.normalize(self.key(key_features), dim=-1)
        positives = torch.arange(len(query), device=query.device)
        return F.cross_entropy(query @ key.T / self.temperature, positives)

    def trained(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [w for w in self.parameters() if w.requires_grad]


@dataclass(frozen=True)
class Trained:
    """Loss and scaled G at steps 0, 1, ..., and the seconds that training took, without what came before it."""

    losses: Tensor
    scaled_grad_norm_sq: Tensor
    seconds: float


def train(start: Start, steps: int, *, device: str = "cpu", report: Callable[..., None] | None = None) -> Trained:
    """One trial by plain gradient descent; G is taken at every step, and `report(step, loss, G)` called if given."""
    pair = Pair(start).to(device)
    features = tensors(start.features, device)
    weights = pair.trained()
    optimizer = torch.optim.SGD(weights, lr=start.rate)
    losses, scaled = torch.empty(2, steps + 1, device=device)
    began = time.perf_counter()
    for step in range(steps + 1):
        optimizer.zero_grad()
        loss = pair(*features)
        loss.backward()
        losses[step] = loss.detach()
        scaled[step] = start.factor * sum(w.grad.square().sum() for w in weights if w.grad is not None)
        if report is not None:
            report(step, losses[step], scaled[step])
        if step < steps:
            optimizer.step()
    return Trained(losses, scaled, time.perf_counter() - began)


def tensors(arrays: list[np.ndarray], device: str = "cpu") -> list[Tensor]:
    """In single precision."""
    return [torch.as_tensor(array, dtype=torch.float32, device=device) for array in arrays]


def _linear(weight: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    return layer
