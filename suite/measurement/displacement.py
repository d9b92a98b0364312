"""Displacement: how far the weights are from their draw, as a whole and by layer, in two norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from suite.measurement.moments import Moments
from suite.measurement.point import norms
from suite.measurement.registry import FREE, MEASUREMENTS, Column, Values
from suite.measurement.spectra import eigenvalues

if TYPE_CHECKING:
    from torch import Tensor

    from suite.measurement.point import Point

BLOCK, STEPS = 4, 4
"""Of the Krylov space for a displacement, whose singular values fall fast: within 1e-6 of the largest."""
DRAW_BLOCK, DRAW_STEPS = 2, 12
"""For a Gaussian draw, whose largest singular values are crowded: within 1e-3; once per trial."""

_ORDER = "through the query tower, then the key tower"


@MEASUREMENTS(
    "displacement",
    Column(name="displacement", formula="‖w − w_0‖, Frobenius norm over all trained weights of both towers"),
    Column(name="relative_displacement", formula="‖w − w_0‖ / ‖w_0‖"),
    Column(name="displacement_by_layer", formula=f"‖w_l − w_l,0‖ of each trained weight: {_ORDER}", kind="list"),
    Column(
        name="relative_displacement_by_layer",
        formula="‖w_l − w_l,0‖ / ‖w_l,0‖; infinite for a bias that has moved, which starts at 0",
        kind="list",
    ),
    default=Moments.ALWAYS,
    cost=FREE,
)
def displacement(point: Point) -> Values:
    """Distance from the draw in the Frobenius norm."""
    import torch

    by_layer = torch.stack([norms(w) for w in point.moved])
    scale = point.pair.initial_sizes()
    total = by_layer.norm(dim=0)
    return {
        "displacement": total,
        "relative_displacement": total / scale.norm(dim=0),
        "displacement_by_layer": by_layer.mT,
        "relative_displacement_by_layer": _ratio(by_layer, scale).mT,
    }


@MEASUREMENTS(
    "spectral-displacement",
    Column(name="spectral_displacement", formula="largest over the layers of ‖w_l − w_l,0‖₂, the spectral norm"),
    Column(
        name="relative_spectral_displacement", formula="largest over the weight matrices of ‖w_l − w_l,0‖₂ / ‖w_l,0‖₂"
    ),
    Column(
        name="spectral_displacement_by_layer",
        formula=f"‖w_l − w_l,0‖₂ of each trained weight, by block Lanczos: {_ORDER}",
        kind="list",
        source="Golub & Van Loan 2013, section 10.4",
    ),
    Column(
        name="relative_spectral_displacement_by_layer",
        formula="‖w_l − w_l,0‖₂ / ‖w_l,0‖₂; infinite for a bias that has moved",
        kind="list",
    ),
    default=Moments.ALWAYS,
    cost=f"{2 * STEPS + 2} products of each displacement with {BLOCK} vectors",
    gradients=lambda settings: 0.8,
)
def spectral_displacement(point: Point) -> Values:
    """Distance from the draw in the spectral norm, which is that of the theorem's neighbourhood of the draw."""
    import torch

    by_layer = spectral_norms(point.moved)
    relative = _ratio(by_layer, torch.stack(point.pair.initial_norms()))
    matrices = torch.tensor([w.ndim == 3 for w in point.pair.initial], device=relative.device)
    return {
        "spectral_displacement": by_layer.amax(0),
        "relative_spectral_displacement": relative[matrices].amax(0),
        "spectral_displacement_by_layer": by_layer.mT,
        "relative_spectral_displacement_by_layer": relative.mT,
    }


def _ratio(moved: Tensor, drawn: Tensor) -> Tensor:
    return (moved / drawn).where(moved != 0, 0.0)


def spectral_norms(stacks: Sequence[Tensor], *, block: int = BLOCK, steps: int = STEPS) -> Tensor:
    """Largest singular value of each slot's matrix (S, a, b), or norm of its vector (S, a), for every stack: (k, S).

    Stacks of one shape are taken together.
    """
    import torch

    found = torch.zeros(len(stacks), len(stacks[0]), dtype=stacks[0].dtype, device=stacks[0].device)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, stack in enumerate(stacks):
        shapes.setdefault(tuple(stack.shape), []).append(index)
    for shape, members in shapes.items():
        stack = torch.cat([stacks[index] for index in members])
        values = norms(stack) if len(shape) == 2 else largest_singular_values(stack, block=block, steps=steps)
        found[members] = values.view(len(members), -1)
    return found


def draw_norms(stacks: Sequence[Tensor]) -> Tensor:
    """Spectral norms of weights as they were drawn, (S, a, b) each, or norms of biases, (S, a): (k, S)."""
    return spectral_norms(stacks, block=DRAW_BLOCK, steps=DRAW_STEPS)


def largest_singular_values(matrices: Tensor, *, block: int, steps: int, by_qr: bool | None = None) -> Tensor:
    """Largest singular value of each matrix (N, a, b) -> (N,), by block Lanczos on D D^T from a fixed start: a
    Rayleigh-Ritz value, so never above the true one but for rounding. Of small matrices, from all of D D^T.

    Bases are made orthonormal `by_qr`, or by products of all matrices at once; left out, as is fast on the device."""
    rows, columns = matrices.shape[1:]
    if min(rows, columns) <= block * (1 + steps):
        projected = matrices if rows <= columns else matrices.mT
    else:
        by_qr = matrices.device.type != "cuda" if by_qr is None else by_qr
        projected = _krylov_rows(matrices, block=block, steps=steps, by_qr=by_qr) @ matrices
    projected = projected.double()
    return eigenvalues(projected @ projected.mT)[:, -1].clamp_min(0).sqrt().to(matrices.dtype)


def _krylov_rows(matrices: Tensor, *, block: int, steps: int, by_qr: bool) -> Tensor:
    """Orthonormal basis, in rows, of the block Krylov space of D D^T: (N, a, b) -> (N, block (1 + steps), a)."""
    import torch

    extended = _extended_by_qr if by_qr else _extended_by_products
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(block, matrices.shape[2], generator=generator, dtype=torch.float64).to(matrices)
    basis = extended(matrices.new_empty(len(matrices), 0, matrices.shape[1]), start @ matrices.mT)
    for _ in range(steps):
        fresh = basis[:, -block:]
        basis = extended(basis, (fresh @ matrices) @ matrices.mT)  # the other way round is ten times slower
    return _orthonormal(basis) if by_qr else basis  # once the rank of D is used up, QR's blocks are of any direction


def _extended_by_qr(basis: Tensor, rows: Tensor) -> Tensor:
    """An orthonormal basis (N, b, a) with k more rows, that span these (N, k, a) too: (N, b + k, a)."""
    import torch

    for _ in range(2):  # once removes, twice is enough for orthogonality to rounding
        rows = rows - (rows @ basis.mT) @ basis
    return torch.cat([basis, _orthonormal(rows)], dim=1)


def _orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of each matrix's rows: (N, k, a) -> (N, k, a)."""
    import torch

    return torch.linalg.qr(rows.mT).Q.mT


def _extended_by_products(basis: Tensor, rows: Tensor) -> Tensor:
    """The same by Gram-Schmidt, of all matrices at once: a GPU factorizes one after another, in 50 µs each. What lies
    in the span already gives rows of 0."""
    import torch

    rows = rows / rows.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    start, size = basis.shape[1], torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    least = torch.finfo(rows.dtype).eps * size
    extended = torch.cat([basis, torch.zeros_like(rows)], dim=1)
    for number in range(rows.shape[1]):
        row, known = rows[:, number : number + 1], extended[:, : start + number]
        for _ in range(2):
            row = row - (row @ known.mT) @ known
        left = torch.linalg.vector_norm(row, dim=2, keepdim=True)
        extended[:, start + number] = (row / left).where(left > least[:, number : number + 1], 0.0)[:, 0]
    return extended
