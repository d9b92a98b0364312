"""Activations: what each layer does with the samples, against what it did at the draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, MOST_SAMPLES, Column, Values

if TYPE_CHECKING:
    from torch import Tensor

    from suite.measurement.point import Point
    from suite.training.towers import Pass

MOST_PAIRED = 256
"""Angles are those of pairs among the first so many samples."""


@MEASUREMENTS(
    "flips",
    Column(name="flipped_share", formula="share of the signs of pre-activations, over all hidden layers, that differ"),
    Column(
        name="flipped_share_by_layer",
        formula="share of (sample, unit) whose pre-activation has another sign than at the draw, in each layer that "
        "has an activation and is trained or behind a trained one: through the query view, then the key view",
        kind="list",
        source="Allen-Zhu, Li, Song 2019, arXiv 1811.03962, section 5",
    ),
    default=Moments.ALWAYS,
    cost="two forward passes",
    gradients=lambda settings: 0.4,
)
def flips(point: Point) -> Values:
    """How far training has left the activation pattern of the draw; none in a linearized tower."""
    import torch

    shares = []
    for tower, now, drawn in zip(point.pair.towers, point.passes, point.passes_at_start, strict=True):
        for after, before in zip(now[:-1], drawn[:-1], strict=True):
            differs = (_is_on(after) - _is_on(before)).abs_().mean((1, 2), dtype=torch.float64)
            shares.append(differs * (not tower.spec.linearized))
    by_layer = torch.stack(shares)
    return {"flipped_share": by_layer.mean(0), "flipped_share_by_layer": by_layer.mT}


@MEASUREMENTS(
    "angles",
    Column(
        name="median_angle_by_layer",
        formula="median over pairs of samples of the angle between h_l(x_i) and h_l(x_j), l = 0, ..., L: through the "
        f"query view, then the key view; of the first {MOST_PAIRED} samples",
        unit="radians",
        kind="list",
        source="Cho & Saul 2009, for their map from layer to layer",
    ),
    default=Moments.ALWAYS,
    cost="one product of each layer's activations with themselves",
    gradients=lambda settings: 0.3 * min(settings.data.samples, MOST_PAIRED) / settings.encoder.width,
)
def angles(point: Point) -> Values:
    """Angles between samples as they pass through the layers: depth compresses them."""
    import torch

    medians = []
    for view in point.passes:
        inputs = torch.stack([layer.input[:, :MOST_PAIRED] for layer in _after_first(view)])
        medians.append(median_angles(inputs.flatten(0, 1)).view(len(inputs), -1))
    return {"median_angle_by_layer": torch.cat(medians).mT}


def _is_on(layer: Pass) -> Tensor:
    """1 where a pre-activation is above 0, else 0; by its sign, because comparisons are several times slower."""
    return layer.pre_activation.sign().clamp_min_(0)


def _after_first(view: list[Pass]) -> list[Pass]:
    """The layers whose input is h_0, ..., h_L."""
    return view[1:] if view[0].layer.name == "first" else view


def median_angles(h: Tensor) -> Tensor:
    """Median angle of pairs of rows, the upper of two: (N, n, m) -> (N,). A zero row is at a right angle to all."""
    import torch

    from suite.training.losses import unit_rows

    unit = unit_rows(h)
    n = h.shape[1]
    row, column = torch.triu_indices(n, n, offset=1, device=h.device)
    cosines = (unit @ unit.mT).flatten(1).index_select(1, row * n + column).clamp_(-1, 1)
    middle = _lower_median(cosines).where(cosines.sum(1).isfinite(), torch.nan)
    return middle.acos()


def _lower_median(values: Tensor) -> Tensor:
    """The lower of the two middle ones of each row: (N, k) -> (N,). NumPy selects ten times faster than torch."""
    import torch

    if values.device.type != "cpu":
        return values.median(dim=1).values
    middle = (values.shape[1] - 1) // 2
    return torch.from_numpy(np.partition(values.numpy(), middle, axis=1)[:, middle])


@MEASUREMENTS(
    "linearization",
    Column(
        name="linearization_error_query",
        formula="‖Z − Z_lin‖ / ‖Z − Z_0‖ of the query view, Z_lin the first-order expansion of the tower at the draw",
        source="Chizat, Oyallon, Bach 2019, arXiv 1812.07956",
    ),
    Column(name="linearization_error_key", formula="the same of the key view"),
    default=Moments(decades=True, end=True),
    cost="a forward pass with tangents",
    gradients=lambda settings: 1.0,
)
def linearization(point: Point) -> Values:
    """How far the towers are from their linearized twins at the same weights: 0 in the lazy limit and in the twins
    themselves, and of order 1 where features are learnt."""
    import torch

    values = {}
    expansions = point.pair.expansions(point.pair.weights, MOST_SAMPLES)
    views = zip(point.pair.towers, point.passes, point.passes_at_start, expansions, strict=True)
    for name, (tower, now, drawn, expanded) in zip(("query", "key"), views, strict=True):
        z = expanded if tower.spec.linearized else now[-1].output
        error, moved = (torch.linalg.vector_norm(z - other, dim=(1, 2)) for other in (expanded, drawn[-1].output))
        values[f"linearization_error_{name}"] = (error / moved).where(moved != 0, 0.0)
    return values
