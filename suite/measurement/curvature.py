"""Curvature: extreme eigenvalues by Lanczos on Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def largest_eigenvalue(
    multiply: Callable[[Tensor], Tensor], size: int, *, dtype: torch.dtype, device: torch.device, iterations: int = 60
) -> float:
    """Largest eigenvalue of a symmetric operator of `size` by Lanczos with full reorthogonalisation.

    `multiply` maps a vector (size,) to the product. Ends early when the residual of the top Ritz pair falls below
    1e-6 of its value. Source: Golub & Van Loan 2013, section 10.1.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(size, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        product = multiply(basis[-1])
        diagonal.append(float(basis[-1] @ product))
        for _ in range(2):
            for previous in basis:
                product = product - (previous @ product) * previous
        beta = float(product.norm())
        tridiagonal = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        residual = beta * abs(vectors[-1, -1])
        scale = np.abs(values).max()
        if len(basis) == min(iterations, size) or residual <= 1e-6 * abs(values[-1]) or beta <= 1e-10 * scale:
            return float(values[-1])
        off_diagonal.append(beta)
        basis.append(product / beta)
