"""The certificate: what kind of point a trial ended at, from numbers that tell reasons of a small gradient apart.

The numbers are measured once, at the end (`certificate`); the kind follows from them and from the levels that the
experiment states (`kind_of`), so that another level needs no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from suite.measurement.curvature import Extremes, both_converged, columns_of, hessian_extremes
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Column, Values

if TYPE_CHECKING:
    from torch import Tensor

    from suite.measurement.point import Point

KINDS = {
    "diverged": "the loss or the gradient is not finite",
    "dead": "over half of a view's embeddings are exactly 0",
    "noise-floor": "the gradient is above the level and as small as rounding lets it be",
    "not-stationary": "the gradient is above the level",
    "flat-start": "the gradient is below the level, but it was hardly larger before",
    "collapsed": "stationary: all embeddings of a view point the same way",
    "escaping": "stationary: the loss falls on while the embeddings grow without bound",
    "saddle-like": "stationary: the Hessian has a clearly negative eigenvalue",
    "minimum-like": "stationary: the Hessian has no eigenvalue below zero beyond rounding",
    "undetermined": "stationary: neither a clear saddle nor shown to be a minimum",
}
"""Kinds of end points, in the order of the rules, with what they mean."""

STATIONARY = frozenset({"collapsed", "escaping", "saddle-like", "minimum-like", "undetermined"})
"""Kinds that count as stationary."""

DEAD_SHARE = 0.5
NOISE_FACTOR = 10.0
"""G is at the noise floor if it is at most so many times the rounding error of the gradient, squared."""
COLLAPSED_SPREAD = 1e-3
GROWTH = 2.0
FLATTENED = 0.1
"""A loss is escaped if curvature fell below this share of its peak while embeddings grew by GROWTH."""
MOST_STEPS = 60
"""Lanczos steps for a certificate, at most: what they leave open is undetermined."""
SADDLE, MINIMUM = 0.05, 1e-3
"""Bounds of the smallest eigenvalue, as shares of the largest."""
SETTLED = 0.1
"""No bound is taken to hold before the residual is below this share of it."""


@dataclass(frozen=True)
class Levels:
    """Below which scaled G a point is stationary."""

    below: float = 1e-4
    """Absolute."""
    relative: float = 1e-2
    """As a share of the largest G of the trial."""

    def __str__(self) -> str:
        return f"{self.below:g}, relative {self.relative:g}"


def kind_of(row: Mapping[str, Any], levels: Levels) -> str | None:
    """The kind of a trial's end point from its row of measurements; None if the certificate was not made.

    The first rule that applies decides: docs/science.md, "The certificate".
    """
    early = _kind_without_curvature(row, levels)
    if early != "":
        return early
    largest, smallest = row.get("lambda_max"), row.get("lambda_min")
    if largest is None or smallest is None:
        return "undetermined"
    peak = row.get("lambda_max_peak")
    if peak is not None and row["norm_growth"] > GROWTH and largest < FLATTENED * peak:
        return "escaping"
    residual, scale = row["lambda_min_residual"], max(largest, 0.0)
    if smallest + residual < -SADDLE * scale:
        return "saddle-like"
    is_settled = residual <= SETTLED * MINIMUM * scale
    return "minimum-like" if is_settled and smallest - residual >= -MINIMUM * scale else "undetermined"


def _kind_without_curvature(row: Mapping[str, Any], levels: Levels) -> str | None:
    """The kind, if it needs no curvature; "" if it does, None without a certificate."""
    if row.get("status") == "diverged":
        return "diverged"
    exact = row.get("scaled_grad_norm_sq_float64")
    if exact is None:
        return None
    if max(row["dead_share_query"], row["dead_share_key"]) > DEAD_SHARE:
        return "dead"
    if exact > levels.below:
        return "noise-floor" if exact <= NOISE_FACTOR * row["gradient_noise_sq"] else "not-stationary"
    if exact > levels.relative * row["running_max_scaled_grad_norm_sq"]:
        return "flat-start"
    return "collapsed" if row["least_spread"] <= COLLAPSED_SPREAD else ""


def lacks_curvature(row: Mapping[str, Any], levels: Levels) -> bool:
    """Whether the kind depends on curvature that was not measured: the level was another one then."""
    return _kind_without_curvature(row, levels) == "" and row.get("lambda_min") is None


def decided(found: Extremes) -> np.ndarray:
    """Which slots' curvature is known well enough to tell a saddle from all else, or a minimum where that is easy.

    A Ritz value below a bound proves that the smallest eigenvalue is below it. That there is none proves nothing before
    convergence: a Hessian has many zeros, of which Lanczos may find a mixture with a residual that looks small. So no
    bound counts before the residual is ten times smaller, which for a minimum takes a hundred steps in wide networks:
    they are taken where `measure` asks for curvature at the end.
    """
    scale, residual = np.maximum(found.largest, 0.0), found.smallest_residual
    saddle = found.smallest + residual < -SADDLE * scale
    no_saddle = (found.smallest - residual >= -SADDLE * scale) & (residual <= SETTLED * SADDLE * scale)
    return (_largest_roughly(found) & (saddle | no_saddle)) | both_converged(found)


def _largest_roughly(found: Extremes) -> np.ndarray:
    return found.largest_residual <= 0.1 * found.largest


@MEASUREMENTS(
    "certificate",
    Column(name="kind", formula="what kind of point the trial ended at; the first rule that applies", kind="text"),
    Column(name="stationary", formula="whether that kind counts as stationary", kind="bool"),
    Column(
        name="scaled_grad_norm_sq_float64",
        formula="g, scaled G at the end with every operation in 64 bits: G that counts",
    ),
    Column(name="gradient_noise_sq", formula="φ = ‖P^½ (g − g_64)‖², the rounding error of the trained gradient"),
    Column(name="least_spread", formula="the smaller of the two views' 1 − ‖mean_i ẑ_i‖²"),
    Column(
        name="norm_growth",
        formula="mean ‖z_i‖ over its value at the start, the larger of two views; of the scale t, where it is trained",
    ),
    Column(
        name="lambda_max_peak",
        formula="largest lambda_max measured, that at the start among them; only where escape is possible and "
        f"embeddings grew by {GROWTH:g}",
    ),
    default=Moments.END,
    cost="a gradient in 64 bits; where G is below the level, also 10 to 20 Hessian-vector products",
    gradients=lambda settings: 30.0,
    waits=True,
    of_trial=True,
)
def certificate(point: Point) -> Values:
    """Tells apart what a small gradient can mean, once per trial; `lambda_max` and `lambda_min` are measured with it
    where the kind depends on them, as far as it does (`curvature: end` gives them in full)."""
    import torch

    exact, noise = _gradient_in_double(point)
    values = {
        "scaled_grad_norm_sq_float64": exact,
        "gradient_noise_sq": noise,
        "least_spread": _least_spread(point),
        "norm_growth": _norm_growth(point),
    }
    told = {name: column.tolist() for name, column in values.items()}
    rows = [None if row is None else {**row, **_at(told, slot)} for slot, row in enumerate(point.known)]
    needs = np.array([row is not None and lacks_curvature(row, point.levels) for row in rows])
    if needs.any():
        found = hessian_extremes(point.pair, point.pair.weights, enough=decided, steps=MOST_STEPS, wanted=needs)
        values |= columns_of(found)
    grown = np.array([row is not None and _may_escape(row, s) for row, s in zip(rows, point.settings, strict=True)])
    curved = needs | np.array([row is not None and "lambda_min" in row for row in rows])
    if (grown & curved).any():  # also above the level: another level then finds all that its kind depends on
        chosen = grown & curved
        start = hessian_extremes(point.pair, point.pair.at_start, enough=_largest_roughly, wanted=chosen).largest
        peaks = np.array([np.nan if row is None else row.get("lambda_max_met", np.nan) for row in rows])
        values["lambda_max_peak"] = torch.from_numpy(np.where(chosen, np.fmax(start, peaks), np.nan))
    return values


def _at(columns: Mapping[str, list[float]], slot: int) -> dict[str, float]:
    return {name: values[slot] for name, values in columns.items()}


def _gradient_in_double(point: Point) -> tuple[Tensor, Tensor]:
    """g and phi of each slot: the same weights, inputs and frozen layers, cast to float64 as they are."""
    import torch

    pair = point.pair.in_double()
    with torch.enable_grad():
        exact = torch.autograd.grad(pair.loss(pair.weights)[0].sum(), pair.weights)
    scaled, noise = (torch.zeros(len(point.loss), dtype=torch.float64, device=point.loss.device) for _ in range(2))
    for true, rounded, factor in zip(exact, point.gradients, pair.factors, strict=True):
        scaled += factor * true.square().flatten(1).sum(1)
        noise += factor * (rounded.double() - true).square().flatten(1).sum(1)
    return scaled, noise


def _least_spread(point: Point) -> Tensor:
    import torch

    from suite.training.losses import unit_rows

    spreads = [1 - unit_rows(z.double()).mean(1).square().sum(-1) for z in point.embeddings]
    return torch.minimum(*spreads)


def _norm_growth(point: Point) -> Tensor:
    """Of the embeddings' mean norm since the start; where the loss trains its own scale, of that: (S,)."""
    import torch

    for name, scalar in point.pair.scalars.items():
        if name.startswith("log_"):
            first = point.pair.at_start[point.pair.parts["loss"]][list(point.pair.scalars).index(name)]
            return (scalar.detach() - first)[:, 0].double().exp()
    now, start = (
        [torch.linalg.vector_norm(z, dim=-1).mean(-1).double() for z in embeddings]
        for embeddings in (point.embeddings, point.embeddings_at_start)
    )
    return torch.maximum(*(a / b for a, b in zip(now, start, strict=True)))


def _may_escape(row: Mapping[str, Any], settings: Any) -> bool:
    return bool(settings.loss.escapes) and row["norm_growth"] > GROWTH
