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


def draw_norm(weight: Tensor) -> Tensor:
    """Spectral norm of one weight as it was drawn, or norm of a bias."""
    return spectral_norms([weight[None]], block=DRAW_BLOCK, steps=DRAW_STEPS)[0, 0]


def largest_singular_values(matrices: Tensor, *, block: int, steps: int) -> Tensor:
    """Largest singular value of each matrix (N, a, b) -> (N,), by block Lanczos on D D^T from a fixed start: a
    Rayleigh-Ritz value, so never above the true one but for rounding. Of small matrices, from all of D D^T."""
    rows, columns = matrices.shape[1:]
    if min(rows, columns) <= block * (1 + steps):
        projected = matrices if rows <= columns else matrices.mT
    else:
        projected = _krylov_rows(matrices, block=block, steps=steps) @ matrices
    projected = projected.double()
    return eigenvalues(projected @ projected.mT)[:, -1].clamp_min(0).sqrt().to(matrices.dtype)


def _krylov_rows(matrices: Tensor, *, block: int, steps: int) -> Tensor:
    """Orthonormal basis, in rows, of the block Krylov space of D D^T: (N, a, b) -> (N, block (1 + steps), a)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(block, matrices.shape[2], generator=generator, dtype=torch.float64).to(matrices)
    fresh = basis = _orthonormal_rows(start @ matrices.mT)
    for _ in range(steps):
        image = (fresh @ matrices) @ matrices.mT  # rows times matrices: the other way round is ten times slower
        for _ in range(2):  # once removes, twice is enough for orthogonality to rounding
            image = image - (image @ basis.mT) @ basis
        fresh = _orthonormal_rows(image)
        basis = torch.cat([basis, fresh], dim=1)
    return _orthonormal_rows(basis)  # once the rank of D is used up, blocks are of any direction


def _orthonormal_rows(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of each matrix's rows: (N, k, a) -> (N, k, a)."""
    import torch

    return torch.linalg.qr(rows.mT).Q.mT
