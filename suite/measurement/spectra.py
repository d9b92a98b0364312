"""Spectra of small symmetric matrices, one per slot, of which some may not be finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def eigenvalues(matrices: Tensor) -> Tensor:
    """Ascending eigenvalues of symmetric matrices (N, k, k) -> (N, k), float64; NaN where an entry is not finite.

    LAPACK refuses a whole stack for one such matrix.
    """
    import torch

    finite = matrices.isfinite().flatten(1).all(1)
    values = torch.linalg.eigvalsh(matrices.double().where(finite[:, None, None], 0.0))
    return values.where(finite[:, None], torch.nan)
