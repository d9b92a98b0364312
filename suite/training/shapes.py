"""Shapes of towers: their layers, and which of them are trained. Imports no torch, so that a plan needs none.

Shapes: p input_dim, m width, L depth, d embedding_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.data.pairs import draw_pairs
from suite.experiment import TrialSettings
from suite.training.activations import Activation
from suite.training.parametrizations import Parametrization, learning_rate_factor

TOWERS = ("query", "key")


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """Shape and parametrization of one tower; `index` picks its random stream, so equal ones give equal draws."""

    index: int
    width: int
    depth: int
    embedding_dim: int
    parametrization: Parametrization
    activation: Activation = "relu"
    residual: bool = False
    biases: bool = False
    train_ends: bool = False
    train_hidden: bool = True
    linearized: bool = False
    input_dim: int | None = None
    """Needed only where the first layer is trained."""

    @property
    def learning_rate_factor(self) -> float:
        """P of the trained layers."""
        return learning_rate_factor(self.parametrization, width=self.width, embedding_dim=self.embedding_dim)

    @property
    def layers(self) -> list[Layer]:
        """All layers from the input to the embedding, the first one only where it is trained."""
        m, ends = self.width, self.train_ends
        first = [Layer("first", (m, self.input_dim or 0), True, self.biases)] if ends else []
        names = [f"hidden.{number}" for number in range(1, self.depth + 1)]
        hidden = [Layer(name, (m, m), self.train_hidden, self.biases and self.train_hidden) for name in names]
        return [*first, *hidden, Layer("last", (self.embedding_dim, m), ends, False)]

    @property
    def trained(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained weights by name, in the order of the layers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            if layer.trained:
                shapes[layer.name] = layer.shape
            if layer.has_bias:
                shapes[f"{layer.name}.bias"] = (layer.shape[0],)
        return shapes


@dataclass(frozen=True)
class Layer:
    """One weight matrix (outputs, inputs), and whether a trained bias goes with it."""

    name: str
    shape: tuple[int, int]
    trained: bool
    has_bias: bool


def tower_specs(settings: TrialSettings) -> list[TowerSpec]:
    """Shapes of the query and the key tower; only the query's, if the coupling has one tower."""
    encoder, coupling = settings.encoder, settings.coupling
    dims: Sequence[int | None] = (None, None)
    if encoder.train_ends:
        pairs = draw_pairs(settings.data, settings.seed)
        dims = (pairs.query.shape[1], pairs.key.shape[1])
    specs = [
        TowerSpec(
            index=0 if coupling.one_draw else index,
            width=encoder.towers()[name].width,
            depth=encoder.towers()[name].depth,
            embedding_dim=encoder.embedding_dim,
            parametrization=encoder.parametrization,
            activation=encoder.activation,
            residual=encoder.residual,
            biases=encoder.biases,
            train_ends=encoder.train_ends,
            train_hidden=encoder.train_hidden,
            linearized=encoder.linearized,
            input_dim=dims[index],
        )
        for index, name in enumerate(TOWERS)
    ]
    return specs[:1] if coupling.one_tower else specs
