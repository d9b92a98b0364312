"""Activations of the hidden layers, and the gain that keeps the size of what passes through them."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["relu", "gelu", "tanh"]


def activate(name: Activation, x: Tensor) -> Tensor:
    """The activation, elementwise."""
    import torch

    if name == "relu":
        return torch.relu(x)
    return torch.tanh(x) if name == "tanh" else torch.nn.functional.gelu(x)


def slope(name: Activation, x: Tensor) -> Tensor:
    """Derivative of the activation, elementwise; 0 at the kink of ReLU, as autograd has it."""
    import torch

    if name == "relu":
        return (x > 0).to(x.dtype)
    if name == "tanh":
        return 1 - torch.tanh(x).square()
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density


@cache
def gain(name: Activation) -> float:
    """1 / E phi(g)^2 for a standard normal g, by Gauss-Hermite quadrature: 2 for ReLU, exactly."""
    if name == "relu":
        return 2.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    values = np.tanh(nodes) if name == "tanh" else [g * (1 + math.erf(g / math.sqrt(2))) / 2 for g in nodes]
    return float(weights.sum() / (weights @ np.square(values)))
