"""Width parametrizations of a tower: W = m^-a w, w ~ N(0, gain v m^-2b), learning-rate factor P.

Source: Allen-Zhu, Li, Song 2019 (arXiv 1811.03962, section 2) for `allen-zhu`; Jacot et al. 2018 for `ntk`;
Yang & Hu 2021 (arXiv 2011.14522, table 1) for `mup` and `standard`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from suite.training.activations import Activation, gain

Parametrization = Literal["allen-zhu", "standard", "ntk", "mup"]


@dataclass(frozen=True, kw_only=True)
class Exponents:
    """Powers of width for the (input, hidden, output) layers, and what goes with them."""

    a: tuple[float, float, float]
    """The weight is width^-a times the trained variable."""
    b: tuple[float, float, float]
    """The trained variable starts with standard deviation proportional to width^-b."""
    learning_rate_width: float
    """P is proportional to width to this power."""
    embedding_dim_scaled: bool = False
    """allen-zhu only: output variance carries 1/d, and P carries d."""


PARAMETRIZATIONS: dict[Parametrization, Exponents] = {
    "allen-zhu": Exponents(a=(0, 0, 0), b=(0.5, 0.5, 0), learning_rate_width=-1, embedding_dim_scaled=True),
    "standard": Exponents(a=(0, 0, 0), b=(0, 0.5, 0.5), learning_rate_width=-1),
    "ntk": Exponents(a=(0, 0.5, 0.5), b=(0, 0, 0), learning_rate_width=0),
    "mup": Exponents(a=(-0.5, 0, 0.5), b=(0.5, 0.5, 0.5), learning_rate_width=0),
}


@dataclass(frozen=True, kw_only=True)
class LayerScale:
    """How one layer is drawn and used at a given width."""

    multiplier: float
    """The layer applies multiplier * w."""
    init_std: float
    """Standard deviation of w at the start."""


def layer_scales(
    parametrization: Parametrization,
    *,
    width: int,
    embedding_dim: int,
    activation: Activation = "relu",
    residual: bool = False,
) -> tuple[LayerScale, ...]:
    """Scales of the input, hidden and output layers.

    The gain is the activation's where one follows, 1 at the output and on a residual branch.
    """
    exponents = PARAMETRIZATIONS[parametrization]
    output_variance = 1 / embedding_dim if exponents.embedding_dim_scaled else 1.0
    variances = (gain(activation), 1.0 if residual else gain(activation), output_variance)
    return tuple(
        LayerScale(multiplier=width**-a, init_std=variance**0.5 * width**-b)
        for a, b, variance in zip(exponents.a, exponents.b, variances, strict=True)
    )


def learning_rate_factor(parametrization: Parametrization, *, width: int, embedding_dim: int) -> float:
    """P, by which eta is multiplied: d/m, 1/m, 1 and 1 for allen-zhu, standard, ntk and mup."""
    exponents = PARAMETRIZATIONS[parametrization]
    return (embedding_dim if exponents.embedding_dim_scaled else 1) * float(width) ** exponents.learning_rate_width
