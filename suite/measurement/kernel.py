"""Tangent kernels of the towers: how far training has left the kernel of the draw, and how well that is conditioned.

Shapes: S slots, n samples, m width, L depth, d embedding_dim. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Column, Values
from suite.measurement.spectra import eigenvalues

if TYPE_CHECKING:
    from torch import Tensor

    from suite.experiment import TrialSettings
    from suite.measurement.point import Point
    from suite.training.pair import Pair
    from suite.training.towers import Pass, TowerSlots

MOST_SAMPLES = 512
"""The kernel is that of the first samples of each view, so many at most."""
BLOCK_ELEMENTS = 2**24
"""Derivatives at one layer held at once, about: of more coordinates of the embedding, they are taken in blocks."""

_TOWERS = ("query", "key")
_KERNEL = "Jacot et al. 2018, arXiv 1806.07572"
_ALIGNMENT = "Cortes et al. 2012, arXiv 1203.0550, without centring; Fort et al. 2020, arXiv 2010.15110"
_UNIT = "‖z‖² per unit of eta t"


def _columns(tower: str) -> list[Column]:
    return [
        Column(name=f"kernel_drift_{tower}", formula="‖K_t − K_0‖ / ‖K_0‖, Frobenius norms", source=_KERNEL),
        Column(name=f"kernel_alignment_{tower}", formula="⟨K_t, K_0⟩ / (‖K_t‖ ‖K_0‖)", source=_ALIGNMENT),
        Column(name=f"kernel_smallest_{tower}", formula="smallest eigenvalue of K_t", unit=_UNIT, source=_KERNEL),
        Column(name=f"kernel_trace_{tower}", formula="tr(K_t) / n", unit=_UNIT, source=_KERNEL),
    ]


def gradients(settings: TrialSettings) -> float:
    """Floating-point operations of the kernels now and at the draw, over those of one gradient of both towers; about
    (2/3) d (1 + n/m)."""
    n, d = settings.data.samples, settings.encoder.embedding_dim
    views = list(settings.encoder.towers().values())
    training = sum(6 * n * shape.depth * shape.width**2 for shape in views) + 6 * n**2 * d
    rows = min(n, MOST_SAMPLES)
    if settings.coupling.one_tower:
        views, rows = views[:1], 2 * rows
    layers = sum(2 * (1 + d) * rows * shape.depth * shape.width**2 for shape in views)
    products = sum(2 * rows**2 * (1 + d) * shape.depth * shape.width for shape in views)
    return 2 * (layers + products) / training


@MEASUREMENTS(
    "kernel",
    *(column for tower in _TOWERS for column in _columns(tower)),
    default=Moments.NEVER,
    cost="about (2/3) d (1 + n/m) gradients: the derivative of every coordinate of the embedding, now and at the draw",
    gradients=gradients,
    waits=True,
)
def kernel(point: Point) -> Values:
    """Tangent kernel of each tower against that of its draw. K_ij = P sum_k <dz_k(x_i)/dw, dz_k(x_j)/dw> over all
    trained weights and biases w of the tower and all coordinates k of its embedding, of the first 512 samples of a
    view at most. A linearized tower keeps the kernel of its draw. With one tower for both views, its kernel is over
    the samples of both and counts as the query's; there is no other. Ratios to a kernel of zero are NaN.
    """
    pair = point.pair
    values: Values = {}
    starts, now = tangent_kernels(pair, pair.at_start), tangent_kernels(pair, pair.weights)
    for tower, start, present in zip(_TOWERS, starts, now, strict=False):
        size, start_size = _inner(present, present).sqrt(), _inner(start, start).sqrt()
        change = present - start
        values |= {
            f"kernel_drift_{tower}": _inner(change, change).sqrt() / start_size,
            f"kernel_alignment_{tower}": _inner(present, start) / (size * start_size),
            f"kernel_smallest_{tower}": eigenvalues(present)[:, 0],
            f"kernel_trace_{tower}": present.diagonal(dim1=-2, dim2=-1).mean(-1),
        }
    return values


def tangent_kernels(pair: Pair, weights: Sequence[Tensor]) -> list[Tensor]:
    """The P-weighted trace kernel of each tower at these weights, in the order of `pair.weights`: float64 (S, n, n),
    or one (S, 2n, 2n), first the query's samples and then the key's, where one tower sees both views."""
    import torch

    inputs = [tower.inputs[:, :MOST_SAMPLES] for tower in pair.towers]
    parts = [weights[pair.parts[name]] for name in _TOWERS]
    with torch.no_grad():
        if not parts[1]:
            return [_kernel(pair.towers[0], torch.cat(inputs, dim=1), parts[0])]
        return [_kernel(*of_tower) for of_tower in zip(pair.towers, inputs, parts, strict=True)]


def _kernel(tower: TowerSlots, inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Layer by layer: a sample's gradient in a matrix is the outer product of what the layer sends out and takes in,
    so that inner products of gradients are products of inner products."""
    spec, (slots, n, _) = tower.spec, inputs.shape
    if spec.linearized:
        weights = tower.initial
    passes = list(tower.passes(inputs, weights))
    incoming = {part.layer.name: _incoming(tower, part) for part in passes if part.layer.trained}
    total = inputs.new_zeros(slots, n, n).double()
    block = max(1, BLOCK_ELEMENTS // (slots * n * spec.width))
    for first in range(0, spec.embedding_dim, block):
        for part, delta in tower.deltas(passes, weights, slice(first, first + block)):
            if part.layer.trained:
                total += incoming[part.layer.name] * _gram(delta.flatten(2))
    return spec.learning_rate_factor * total


def _incoming(tower: TowerSlots, part: Pass) -> Tensor:
    """Inner products of what a layer's matrix and bias take in, as often as the output has them."""
    matrix, bias = tower.multipliers(part.layer)
    gram = matrix**2 * _gram(part.input)
    return gram + bias**2 if part.layer.has_bias else gram


def _gram(rows: Tensor) -> Tensor:
    """Inner products of all rows, (S, n, k) -> (S, n, n); float64, or the least eigenvalues would be rounding."""
    rows = rows.double()
    return rows @ rows.mT


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1))
