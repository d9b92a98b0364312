"""Curvature: extreme eigenvalues of P^1/2 H P^1/2 by Lanczos on Hessian-vector products, all slots at once.

H is the Hessian of the loss in all trained weights; for ReLU, that of the current activation region.
Shapes: S slots, P trained parameters, K Lanczos steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Column, Values

if TYPE_CHECKING:
    from torch import Tensor

    from suite.measurement.point import Point
    from suite.training.pair import Pair

MOST_STEPS = 120
"""Lanczos steps, at most."""
MOST_BASIS_ELEMENTS = 2**28
"""Numbers in the Lanczos vectors of a stack, at most: larger networks get fewer steps, and the residuals tell."""
MOST_LOGITS = 2**26
"""Similarities of a stack whose Hessian is taken at once: its products keep several numbers for each."""
TOLERANCE = 1e-5
"""Both ends are converged when their residuals are below this share of the spectral radius."""
EXHAUSTED = 1e-12
"""A Krylov space is exhausted where what a product adds to it is below this share of the largest entry so far,
or of the machine's precision."""
RANDOM_SHARE = 0.01
"""Of a random direction in the start of Lanczos, beside the gradient's."""
CHECK_EVERY = 2
"""Lanczos steps between two looks at the Ritz values."""
GRADIENTS_PER_PRODUCT = 3.0
"""A Hessian-vector product costs about as much as so many gradients."""


@dataclass(frozen=True)
class Extremes:
    """Ritz values at both ends of the spectrum with their residual norms; (S,) each.

    Within a residual of each Ritz value lies an eigenvalue; the Ritz values lie inside the spectrum.
    """

    largest: np.ndarray
    smallest: np.ndarray
    largest_residual: np.ndarray
    smallest_residual: np.ndarray

    @property
    def radius(self) -> np.ndarray:
        """Largest absolute Ritz value."""
        return np.maximum(np.abs(self.largest), np.abs(self.smallest))

    @property
    def numbers(self) -> np.ndarray:
        """All of them, (4, S)."""
        return np.stack([self.largest, self.smallest, self.largest_residual, self.smallest_residual])

    def with_residuals_of_rounding(self, eps: float) -> Extremes:
        """The same with residuals no smaller than what rounding leaves of them."""
        least = eps * self.radius
        residuals = (np.maximum(residual, least) for residual in (self.largest_residual, self.smallest_residual))
        return Extremes(self.largest, self.smallest, *residuals)

    def where(self, chosen: np.ndarray, others: Extremes) -> Extremes:
        """These for the chosen slots, those of `others` for the rest."""
        return Extremes(*np.where(chosen, self.numbers, others.numbers))


Enough = Callable[[Extremes], np.ndarray]
"""Which slots (S,) need no more steps."""


def both_converged(found: Extremes) -> np.ndarray:
    """Residuals at both ends within TOLERANCE of the spectral radius."""
    return np.maximum(found.largest_residual, found.smallest_residual) <= TOLERANCE * found.radius


def largest_converged(found: Extremes) -> np.ndarray:
    """The residual of the largest within 1e-6 of its value."""
    return found.largest_residual <= 1e-6 * np.abs(found.largest)


def extremes(
    multiply: Callable[[Tensor], Tensor], start: Tensor, *, enough: Enough = both_converged, steps: int = MOST_STEPS
) -> Extremes:
    """Extreme eigenvalues of S symmetric operators at once, by Lanczos with full reorthogonalisation.

    `multiply` maps (S, P) to the products (S, P); `start` is (S, P). A slot's numbers are those of the first look at
    which it was `enough` for the second time running, so they do not depend on its neighbours; once is too early where
    the start has hardly any part in the outermost eigenvector, for its neighbour then seems to be the end.
    Source: Golub & Van Loan 2013, section 10.1.
    """
    import torch

    slots, size = start.shape
    steps = min(steps, size, max(2, MOST_BASIS_ELEMENTS // (slots * size)))
    basis = start.new_empty(slots, min(steps, 8), size)
    diagonal, off_diagonal = (torch.zeros(steps, slots, dtype=start.dtype, device=start.device) for _ in range(2))
    vector = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    found: Extremes | None = None
    scale = torch.zeros(slots, dtype=start.dtype, device=start.device)
    done, before = np.zeros(slots, dtype=bool), np.zeros(slots, dtype=bool)
    for k in range(steps):
        if k == basis.shape[1]:
            basis = torch.cat([basis, torch.empty_like(basis)], dim=1)
        basis[:, k] = vector
        product = multiply(vector)
        diagonal[k] = (vector * product).sum(1)
        product = product - diagonal[k][:, None] * vector
        if k:
            product = product - off_diagonal[k - 1][:, None] * basis[:, k - 1]
        known = basis[:, : k + 1]
        product = _without(known, product)
        norm = torch.linalg.vector_norm(product, dim=1)
        scale = torch.maximum(scale, torch.maximum(diagonal[k].abs(), norm))
        small = norm < 1e-3 * scale
        if small.any():  # where the Krylov space is nearly exhausted, once leaves mostly rounding
            product = _without(known, product).where(small[:, None], product)
            norm = torch.linalg.vector_norm(product, dim=1)
        goes_on = norm > max(EXHAUSTED, torch.finfo(start.dtype).eps) * scale
        off_diagonal[k] = norm.where(goes_on, 0.0)
        vector = (product / norm[:, None]).where(goes_on[:, None], 0.0)
        if (k + 1) % CHECK_EVERY and k + 1 < steps:
            continue
        now = _ritz(diagonal[: k + 1], off_diagonal[: k + 1])
        found = now if found is None else found.where(done, now)
        now_enough = enough(found)
        done, before = done | (before & now_enough), now_enough
        if done.all():
            break
    assert found is not None
    return found.with_residuals_of_rounding(torch.finfo(start.dtype).eps)


def _without(basis: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (S, P) less their parts along the rows of a basis (S, k, P)."""
    shares = vectors[:, None] @ basis.mT  # rows times matrices: the other way round is ten times slower
    return vectors - (shares @ basis)[:, 0]


def _ritz(diagonal: Tensor, off_diagonal: Tensor) -> Extremes:
    """Extremes of the tridiagonal matrices (k, S), each up to where its Krylov space is exhausted."""
    a, b = (part.double().cpu().numpy().T for part in (diagonal, off_diagonal))
    return Extremes(*np.array([_ends(*row) for row in zip(a, b, strict=True)]).reshape(-1, 4).T)


def _ends(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return (np.nan,) * 4
    scale = max(np.abs(a).max(), b.max())
    exhausted = np.flatnonzero(b <= EXHAUSTED * scale)
    k = int(exhausted[0]) + 1 if len(exhausted) else len(a)
    values, vectors = np.linalg.eigh(np.diag(a[:k]) + np.diag(b[: k - 1], -1))  # reads the lower triangle
    top, bottom = (float(b[k - 1] * abs(vectors[-1, index])) for index in (-1, 0))
    return float(values[-1]), float(values[0]), top, bottom


def hessian_extremes(
    pair: Pair,
    weights: list[Tensor],
    *,
    enough: Enough = both_converged,
    steps: int = MOST_STEPS,
    wanted: np.ndarray | None = None,
) -> Extremes:
    """Extremes of P^1/2 H P^1/2 for the `wanted` slots (S,) of a pair, all unless told, at these weights.

    Lanczos starts along the gradient, with a little of a random direction: a random one alone lies almost wholly where
    a Hessian with many eigenvalues near 0 is flat, and a small negative eigenvalue is found late. Where the stack has
    more than MOST_LOGITS similarities, a few slots are taken at a time; where one slot has, the numbers are NaN.
    """
    slots, n = pair.towers[0].inputs.shape[:2]
    wanted = np.ones(slots, dtype=bool) if wanted is None else wanted
    together = MOST_LOGITS // n**2
    numbers = np.full((4, slots), np.nan)
    for first in range(0, slots if together else 0, together or 1):
        some = slice(first, first + together)
        if wanted[some].any():
            few = pair if together >= slots else pair.mapped(itemgetter(some))
            found = _extremes_together(few, [w[some] for w in weights], _for_some(wanted[some], enough), steps)
            numbers[:, some] = found.numbers
    return Extremes(*np.where(wanted, numbers, np.nan))


def _for_some(wanted: np.ndarray, enough: Enough) -> Enough:
    return lambda found: ~wanted | enough(found)


def _extremes_together(pair: Pair, weights: list[Tensor], enough: Enough, steps: int) -> Extremes:
    import torch

    multiply, gradient = pair.hessian_product(weights)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(gradient.shape[1], generator=generator, dtype=torch.float64).to(gradient)
    length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    along = torch.where(length > 0, gradient / length, 0.0)
    start = along + RANDOM_SHARE * direction / torch.linalg.vector_norm(direction)
    return extremes(multiply, start, enough=enough, steps=steps)


@MEASUREMENTS(
    "curvature",
    Column(name="lambda_max", formula="largest eigenvalue of P^½ H P^½, H the Hessian of the loss", unit="1 / eta"),
    Column(name="lambda_min", formula="its smallest eigenvalue", unit="1 / eta"),
    Column(name="lambda_max_residual", formula="residual norm of the largest Ritz pair", unit="1 / eta"),
    Column(name="lambda_min_residual", formula="residual norm of the smallest Ritz pair", unit="1 / eta"),
    Column(
        name="edge_of_stability",
        formula="eta · lambda_max / 2; above 1, plain gradient descent is unstable",
        source="Cohen et al. 2021, arXiv 2103.00065",
    ),
    default=Moments.NEVER,
    cost=f"up to {MOST_STEPS} Hessian-vector products, of about {GRADIENTS_PER_PRODUCT:.0f} gradients each",
    gradients=lambda settings: MOST_STEPS * GRADIENTS_PER_PRODUCT / 2,
    waits=True,
)
def curvature(point: Point) -> Values:
    """Extreme curvature of the loss in the metric in which it is descended, where a layer moves at the rate eta P: by
    Lanczos with full reorthogonalisation (Golub & Van Loan 2013, section 10.1). An eigenvalue lies within the residual
    of what is given."""
    values = columns_of(hessian_extremes(point.pair, point.pair.weights))
    return values | {"edge_of_stability": point.eta.double().cpu() * values["lambda_max"] / 2}


def columns_of(found: Extremes) -> Values:
    """The columns of these extremes."""
    import torch

    named = {
        "lambda_max": found.largest,
        "lambda_min": found.smallest,
        "lambda_max_residual": found.largest_residual,
        "lambda_min_residual": found.smallest_residual,
    }
    return {name: torch.from_numpy(value) for name, value in named.items()}
