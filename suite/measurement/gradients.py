"""Gradients: the size of the gradient as a whole, by tower and by layer, in weight space and in output space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suite.measurement.moments import Moments
from suite.measurement.registry import FREE, MEASUREMENTS, Column, Values

if TYPE_CHECKING:
    from suite.measurement.point import Point

_WIDTH_FREE = "docs/science.md"
_RAW, _SCALED = "loss² / weight²", "loss / (eta t)"


@MEASUREMENTS(
    "gradient",
    Column(name="loss", formula="L, the loss of all samples", unit="nats; the loss's own"),
    Column(name="grad_norm_sq", formula="Σ_l ‖∇_l‖², over all trained weights of both towers", unit=_RAW),
    Column(
        name="scaled_grad_norm_sq",
        formula="G = Σ_l P_l ‖∇_l‖², the first-order decrease of the loss per unit of eta t",
        unit=_SCALED,
        source=_WIDTH_FREE,
    ),
    Column(name="relative_grad_norm_sq", formula="G_t / max_{s≤t} G_s"),
    Column(name="grad_norm_sq_query", formula="the query tower's part of Σ_l ‖∇_l‖²", unit=_RAW),
    Column(name="grad_norm_sq_key", formula="the key tower's part", unit=_RAW),
    Column(name="scaled_grad_norm_sq_query", formula="the query tower's part of G", unit=_SCALED),
    Column(name="scaled_grad_norm_sq_key", formula="the key tower's part of G", unit=_SCALED),
    Column(
        name="grad_norm_sq_by_layer",
        formula="‖∇_l‖² of each trained weight: through the query tower, then the key tower, then the loss's own",
        unit=_RAW,
        kind="list",
    ),
    Column(name="scaled_grad_norm_sq_by_layer", formula="P_l ‖∇_l‖², in the same order", unit=_SCALED, kind="list"),
    Column(
        name="scaled_update_norm_sq",
        formula="Σ_l ‖step_l‖² / (eta² P_l) of the step that led here; empty where it is G by definition",
        unit=_SCALED,
    ),
    default=Moments.ALWAYS,
    cost=FREE,
)
def gradient(point: Point) -> Values:
    """The full batch's gradient at the parameters before the step, whatever moves them."""
    import torch

    by_layer, parts = point.norms_sq, point.pair.parts
    scaled = by_layer * torch.tensor(point.pair.factors, dtype=by_layer.dtype, device=by_layer.device)[:, None]
    return {
        "loss": point.loss,
        "grad_norm_sq": by_layer.sum(0),
        "scaled_grad_norm_sq": point.scaled,
        "relative_grad_norm_sq": point.scaled / point.running.running_max,
        "grad_norm_sq_query": by_layer[parts["query"]].sum(0),
        "grad_norm_sq_key": by_layer[parts["key"]].sum(0),
        "scaled_grad_norm_sq_query": scaled[parts["query"]].sum(0),
        "scaled_grad_norm_sq_key": scaled[parts["key"]].sum(0),
        "grad_norm_sq_by_layer": by_layer.mT,
        "scaled_grad_norm_sq_by_layer": scaled.mT,
        "scaled_update_norm_sq": point.update_norm_sq,
    }


@MEASUREMENTS(
    "output-gradient",
    Column(name="output_grad_norm_sq", formula="G_z = ‖dL/dZ‖², over the embeddings Z of both views"),
    Column(
        name="grad_ratio",
        formula="G / (L_q + L_k)/2 / G_z, with the mean depth of the towers; free of width",
        source=_WIDTH_FREE,
    ),
    default=Moments.ALWAYS,
    cost="one gradient of the loss in the embeddings",
    gradients=lambda settings: 0.2,
)
def output_gradient(point: Point) -> Values:
    """The gradient in output space: what the loss asks of the embeddings, whatever the towers make of it."""
    import torch

    _, (query, key, *_) = point.pair.loss_and_signals(point.embeddings)
    squared = torch.stack([g.square().sum((1, 2)) for g in (query, key)]).sum(0)
    depth = sum(tower.spec.depth for tower in point.pair.towers) / len(point.pair.towers)
    return {"output_grad_norm_sq": squared, "grad_ratio": point.scaled / depth / squared}


@MEASUREMENTS(
    "loss-diagnostics",
    Column(name="dead_share_query", formula="samples whose query embedding is exactly 0; their cosine has no gradient"),
    Column(name="dead_share_key", formula="samples whose key embedding is exactly 0"),
    Column(name="clamped_share", formula="anchors of the `debiased` loss whose estimate is at its clamp"),
    default=Moments.ALWAYS,
    cost=FREE,
)
def loss_diagnostics(point: Point) -> Values:
    """What the loss tells of itself at these embeddings."""
    return point.pair.diagnostics(list(point.embeddings))
