"""Towers: networks of equal shape stacked over the slots of a lane.

Shapes: S slots, n samples, p input_dim, m width, L depth, d embedding_dim. A tower is h_0 = phi(A x), then L hidden
layers h_l = phi(W_l h_{l-1}), or phi(h_{l-1} + W_l h_{l-1} / sqrt(L)) if residual, and z = B h_L. Where A is not
trained, the features h_0 are computed once per trial.
Source of the setting: Allen-Zhu, Li, Song 2019 (arXiv 1811.03962, section 2).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from suite.measurement.displacement import draw_norms
from suite.training.activations import activate, slope
from suite.training.parametrizations import LayerScale, layer_scales
from suite.training.shapes import Layer, TowerSpec

BLOCK_ELEMENTS = 2**26
"""Activations of one layer kept for the gradient; of more samples, they are computed again block by block."""


@dataclass(frozen=True)
class Pass:
    """What goes through one layer, for every sample: its input (S, n, inputs), its output W h with multiplier and bias,
    and the pre-activation, which is the output with what a residual layer adds to it (both (S, n, outputs))."""

    layer: Layer
    input: Tensor
    output: Tensor
    pre_activation: Tensor


@dataclass(frozen=True)
class TowerWeights:
    """One trial's tower at its draw, float64: first (m, p), hidden L times (m, m), last (d, m)."""

    first: np.ndarray
    hidden: list[np.ndarray]
    last: np.ndarray

    def by_name(self) -> dict[str, np.ndarray]:
        """The weights by the names of their layers."""
        hidden = {f"hidden.{number}": w for number, w in enumerate(self.hidden, start=1)}
        return {"first": self.first, **hidden, "last": self.last}


def draw_weights(spec: TowerSpec, *, seed: int, input_dim: int) -> TowerWeights:
    """Initial weights, from (seed, tower, layer) alone: no draw depends on lane, slot, node or order."""
    scales = _scales(spec)

    def normal(layer: int, shape: tuple[int, int], std: float) -> np.ndarray:
        stream = np.random.SeedSequence([seed, 1 + spec.index, layer])
        return std * np.random.Generator(np.random.PCG64(stream)).standard_normal(shape)

    m, d = spec.width, spec.embedding_dim
    return TowerWeights(
        first=normal(0, (m, input_dim), scales[0].init_std),
        hidden=[normal(layer, (m, m), scales[1].init_std) for layer in range(1, spec.depth + 1)],
        last=normal(spec.depth + 1, (d, m), scales[2].init_std),
    )


def _scales(spec: TowerSpec) -> tuple[LayerScale, ...]:
    return layer_scales(
        spec.parametrization,
        width=spec.width,
        embedding_dim=spec.embedding_dim,
        activation=spec.activation,
        residual=spec.residual,
    )


class TowerSlots:
    """One tower of every trial in a lane. `inputs` are (S, n, p), or the features (S, n, m) if the first layer is
    frozen; `weights` the trained ones, each (S, *shape), in the order of `spec.trained`; `initial` is their draw."""

    def __init__(self, spec: TowerSpec, *, slots: int, samples: int, dtype: torch.dtype, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=device)

        self.spec = spec
        self.inputs = zeros(samples, (spec.input_dim or 0) if spec.train_ends else spec.width)
        self.weights = [zeros(*shape).requires_grad_() for shape in spec.trained.values()]
        self.initial = [zeros(*shape) for shape in spec.trained.values()]
        self._initial_norms = [zeros() for _ in self.initial]
        self._norms_due = set(range(slots))
        self._frozen = {layer.name: zeros(*layer.shape) for layer in spec.layers if not layer.trained}
        first, hidden, last = (scale.multiplier for scale in _scales(spec))
        self._multiplier = {layer.name: hidden for layer in spec.layers} | {"first": first, "last": last}
        self._bias_multiplier = first
        *self._before_last, self._last = spec.layers

    @torch.no_grad()
    def fill(self, slot: int, draw: TowerWeights, inputs: np.ndarray) -> None:
        """Put a trial's tower at its draw into one slot; inputs (n, p), all cast from float64 once."""
        known = {name: torch.from_numpy(w) for name, w in draw.by_name().items()}
        if not self.spec.train_ends:
            scaled = torch.from_numpy(self._multiplier["first"] * (inputs @ draw.first.T))
            self.inputs[slot] = activate(self.spec.activation, scaled)
        else:
            self.inputs[slot] = torch.from_numpy(inputs)
        for name, stack in self._frozen.items():
            stack[slot] = known[name]
        for name, weight, initial in zip(self.spec.trained, self.weights, self.initial, strict=True):
            initial[slot] = known.get(name, 0)  # biases start at 0
            weight[slot] = initial[slot]
        self.forget_norms(slot)

    def forget_norms(self, slot: int) -> None:
        """The slot has another draw than before."""
        self._norms_due.add(slot)

    def initial_norms(self) -> list[Tensor]:
        """Spectral norm of each trained weight as it was drawn, (S,) each; taken once per trial, when first asked."""
        due = sorted(self._norms_due)
        if due and self.inputs.device.type == "cuda":  # all slots in the time of one
            for norm, found in zip(self._initial_norms, draw_norms(self.initial), strict=True):
                norm[due] = found[due]
        else:
            for slot in due:
                for norm, initial in zip(self._initial_norms, self.initial, strict=True):
                    norm[slot] = draw_norms([initial[slot : slot + 1]])[0, 0]
        self._norms_due.clear()
        return self._initial_norms

    def mapped(self, convert: Callable[[Tensor], Tensor]) -> TowerSlots:
        """A copy in which every tensor is what `convert` makes of it."""
        twin = copy.copy(self)
        twin.inputs = convert(self.inputs)
        twin.weights = [convert(w.detach()).clone().requires_grad_() for w in self.weights]
        twin.initial = [convert(w) for w in self.initial]
        twin._initial_norms = [convert(norm) for norm in self._initial_norms]
        twin._norms_due = set(range(len(twin.inputs)))
        twin._frozen = {name: convert(w) for name, w in self._frozen.items()}
        return twin

    def alone(self, slot: int) -> TowerSlots:
        """A copy of one slot as a stack of one, for work that concerns a single trial."""
        return self.mapped(lambda tensor: tensor[slot : slot + 1])

    def embed(self, weights: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """Embeddings z (S, n, d) with these weights; `rows` (S, b) picks samples of each slot: (S, b, d)."""
        inputs = self.inputs_of(rows)
        block = max(1, BLOCK_ELEMENTS // (len(inputs) * self.spec.width))
        if inputs.shape[1] <= block:
            return self._embed(inputs, *weights)
        again = partial(checkpoint, self._embed, use_reentrant=False, preserve_rng_state=False)
        parts = [again(x, *weights) for x in inputs.split(block, dim=1)]
        return torch.cat(parts, dim=1)

    def inputs_of(self, rows: Tensor | None) -> Tensor:
        """Inputs of all samples, (S, n, p or m), or of those that `rows` (S, b) picks."""
        if rows is None:
            return self.inputs
        return self.inputs.gather(1, rows[..., None].expand(-1, -1, self.inputs.shape[-1]))

    def _embed(self, inputs: Tensor, *weights: Tensor) -> Tensor:
        if not self.spec.linearized:
            return self.features_and_embeddings(inputs, weights)[1]
        return self.expansion(inputs, weights)

    def expansion(self, inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """First-order expansion of z at the draw: the network and its derivative along w - w_0, layer by layer."""
        steps = [w - w0 for w, w0 in zip(weights, self.initial, strict=True)]
        spec, drawn = self.spec, self._frozen | dict(zip(self.spec.trained, self.initial, strict=True))
        change = dict(zip(spec.trained, steps, strict=True))
        h, dh = inputs, torch.zeros_like(inputs)
        for layer in self._before_last:
            at, along = self._layer(layer, h, drawn), self._derivative(layer, h, dh, drawn, change)
            if spec.residual and layer.name != "first":
                at, along = h + at / spec.depth**0.5, dh + along / spec.depth**0.5
            h, dh = activate(spec.activation, at), slope(spec.activation, at) * along
        return self._layer(self._last, h, drawn) + self._derivative(self._last, h, dh, drawn, change)

    def _derivative(
        self, layer: Layer, h: Tensor, dh: Tensor, drawn: dict[str, Tensor], change: dict[str, Tensor]
    ) -> Tensor:
        """Change of a layer's output, to first order, when its input h and its weights change by dh and `change`."""
        product = dh @ drawn[layer.name].mT
        if layer.name in change:
            product = product + h @ change[layer.name].mT
        out = _scaled(product, self._multiplier[layer.name])
        bias = change.get(f"{layer.name}.bias")
        return out if bias is None else out + _scaled(bias, self._bias_multiplier)[:, None]

    def _layer(self, layer: Layer, h: Tensor, known: dict[str, Tensor]) -> Tensor:
        """A layer's output before the skip and the activation."""
        out = _scaled(h @ known[layer.name].mT, self._multiplier[layer.name])
        if layer.has_bias:
            out = out + _scaled(known[f"{layer.name}.bias"], self._bias_multiplier)[:, None]
        return out

    def passes(self, inputs: Tensor, weights: Sequence[Tensor]) -> Iterator[Pass]:
        """What goes through each layer of the network itself, one after another, also where the tower is linearized;
        the last output is the embedding."""
        spec, known = self.spec, self.known(weights)
        h = inputs
        for layer in self._before_last:
            out = self._layer(layer, h, known)
            skips = spec.residual and layer.name != "first"
            pre_activation = h + out / spec.depth**0.5 if skips else out
            yield Pass(layer, h, out, pre_activation)
            h = activate(spec.activation, pre_activation)
        z = self._layer(self._last, h, known)
        yield Pass(self._last, h, z, z)

    def deltas(
        self, passes: Sequence[Pass], weights: Sequence[Tensor], outputs: slice = slice(None)
    ) -> Iterator[tuple[Pass, Tensor]]:
        """How each layer's output moves these k coordinates of the embedding, dz / d output (S, n, k, outputs of the
        layer), from the last layer to the first; `passes` are of the same weights."""
        spec, known = self.spec, self.known(weights)
        *before_last, above = passes
        slots, n, d = above.output.shape
        identity = torch.eye(d, dtype=above.output.dtype, device=above.output.device)
        delta = identity[outputs].expand(slots, n, -1, -1)
        yield above, delta
        around: Tensor | float = 0.0  # what the layer above passes down beside its matrix
        for this in reversed(before_last):
            through = delta.flatten(1, 2) @ known[above.layer.name]
            down = _scaled(through, self._multiplier[above.layer.name]).unflatten(1, (n, -1)) + around
            at_pre_activation = down * slope(spec.activation, this.pre_activation)[:, :, None]
            skips = spec.residual and this.layer.name != "first"
            delta = at_pre_activation / spec.depth**0.5 if skips else at_pre_activation
            yield this, delta
            above, around = this, at_pre_activation if skips else 0.0

    def known(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """These trained weights and the frozen ones, by the names of their layers."""
        return self._frozen | dict(zip(self.spec.trained, weights, strict=True))

    def multipliers(self, layer: Layer) -> tuple[float, float]:
        """By what a layer's output takes its trained matrix and its trained bias."""
        return self._multiplier[layer.name], self._bias_multiplier

    def features_and_embeddings(self, inputs: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """h_L (S, n, m) and z (S, n, d) of the network itself, also where the tower is linearized."""
        last = deque(self.passes(inputs, weights), maxlen=1)[0]  # earlier ones are not kept
        return last.input, last.output

    def tensors(self) -> list[Tensor]:
        """Everything that a slot holds, in an order that depends on the shape alone."""
        return [self.inputs, *self.weights, *self.initial, *self._frozen.values()]


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
