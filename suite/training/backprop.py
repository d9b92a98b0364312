"""Backprop: loss and gradient of every slot, layer by layer, in tensors that are made once.

Autograd would make each gradient anew, and memory fresh from the system costs more than the product that fills it.
Here a weight also moves just before the product that reads it, and a gradient's norm is taken just after the product
that made it, while both are in a cache. Left to autograd are losses without slopes by hand, and towers of which no
single set of activations can be kept: linearized ones, and those of very many samples.

Shapes: S slots, n samples, d embedding_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suite.measurement.point import norms
from suite.training.activations import activate, slope
from suite.training.pair import Pair
from suite.training.shapes import Layer
from suite.training.towers import BLOCK_ELEMENTS, TowerSlots

UNCUT_ELEMENTS, ROWS_OF_BLOCK = 2**18, 128
"""Numbers of a stack of gradients that is made at once, and rows of each block of a larger one."""


class Backprop:
    """Loss and gradients at the weights of a pair, in the order of `pair.weights`: `gradients` (S, ...) each, and their
    squared Frobenius norms `norms_sq` (weights, S). Both hold the last evaluation's, of all samples or of `batch`."""

    def __init__(self, pair: Pair, *, batch: int | None = None) -> None:
        self._pair = pair
        self.gradients = [torch.zeros_like(w, requires_grad=False) for w in pair.weights]
        example = pair.towers[0].inputs
        self.norms_sq = torch.zeros(len(pair.weights), len(example), dtype=example.dtype, device=example.device)
        self._branches: list[_Branch] = []
        if not any(_is_left_to_autograd(tower) for tower in pair.towers):
            parts = pair.parts_of_views
            for index, (tower, part) in enumerate(zip(pair.towers, parts, strict=True)):
                gradients, norms_sq = self.gradients[part], self.norms_sq[part]
                adds = part in parts[:index]
                self._branches.append(_Branch(tower, pair.weights[part], gradients, norms_sq, batch, adds=adds))

    def forget(self, slot: int) -> None:
        """Let the slot's trial, if it diverged, leave nothing to its successor: 0 times its gradient is no number."""
        for gradient in self.gradients:
            gradient[slot] = 0

    @torch.no_grad()
    def __call__(self, rates: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Move every weight by -rates P times its present gradient, if there are rates (S,), and evaluate there: loss
        (S,) and embeddings of both views (S, n, d), or (S, b, d) of the samples that `rows` (S, b) picks."""
        if rates is not None:
            self._move_what_no_branch_moves(rates)
        if not self._branches:
            return self._by_autograd(rows)
        pair = self._pair
        embeddings = [branch.forward(rates, rows) for branch in self._branches]
        loss, (query, key, *scalars) = pair.loss_and_signals(embeddings, rows)
        for branch, signal in zip(self._branches, (query, key), strict=True):
            branch.backward(signal)
        self._keep(scalars, pair.parts["loss"])
        return loss, embeddings

    def _by_autograd(self, rows: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        pair = self._pair
        with torch.enable_grad():
            loss, embeddings = pair.loss(pair.weights, rows)
            gradients = torch.autograd.grad(loss.sum(), pair.weights)
        self._keep(gradients, slice(None))
        return loss.detach(), [z.detach() for z in embeddings]

    def _keep(self, gradients: Sequence[Tensor], part: slice) -> None:
        for mine, new, norm_sq in zip(self.gradients[part], gradients, self.norms_sq[part], strict=True):
            mine.copy_(new)
            norm_sq.copy_(square_sums(new))

    def _move_what_no_branch_moves(self, rates: Tensor) -> None:
        pair = self._pair
        part = pair.parts["loss"] if self._branches else slice(None)
        for weight, gradient, factor in zip(pair.weights[part], self.gradients[part], pair.factors[part], strict=True):
            move(weight, gradient, rates, factor)


def move(weight: Tensor, direction: Tensor, rates: Tensor, factor: float) -> None:
    """weight -= rates factor direction, of each slot: (S, ...)."""
    weight.addcmul_(direction, rates.view(-1, *[1] * (weight.ndim - 1)), value=-factor)


def _is_left_to_autograd(tower: TowerSlots) -> bool:
    slots, n, _ = tower.inputs.shape
    return tower.spec.linearized or slots * n * tower.spec.width > BLOCK_ELEMENTS


class _Branch:
    """One view's way through its tower. Where one tower sees both views, the second view's branch `adds` its gradients
    to the first one's, and moves nothing."""

    def __init__(
        self,
        tower: TowerSlots,
        weights: list[Tensor],
        gradients: list[Tensor],
        norms_sq: Tensor,
        batch: int | None,
        *,
        adds: bool,
    ) -> None:
        self._tower, self._adds = tower, adds
        names = list(tower.spec.trained)
        self._weights = tower.known(weights)
        self._gradients = dict(zip(names, gradients, strict=True))
        self._norms_sq = dict(zip(names, norms_sq, strict=True))
        slots, n, _ = tower.inputs.shape

        def buffer(features: int) -> Tensor:
            return torch.empty(slots, batch or n, features, dtype=tower.inputs.dtype, device=tower.inputs.device)

        self._outputs = {layer.name: buffer(layer.shape[0]) for layer in tower.spec.layers}
        self._signals = [buffer(tower.spec.width) for _ in range(2)]
        self._inputs: dict[str, Tensor] = {}
        layers = tower.spec.layers
        self._lowest = next((i for i, layer in enumerate(layers) if layer.trained or layer.has_bias), len(layers))

    def forward(self, rates: Tensor | None, rows: Tensor | None) -> Tensor:
        """Embeddings of all samples or of these, after every weight has moved."""
        spec, h = self._tower.spec, self._tower.inputs_of(rows)
        for layer in spec.layers:
            self._inputs[layer.name] = h
            out, bias = self._outputs[layer.name], f"{layer.name}.bias"
            multiplier, bias_multiplier = self._tower.multipliers(layer)
            if rates is not None:
                self._move(layer.name, rates)
                self._move(bias, rates)
            product(h, self._weights[layer.name].mT, out, multiplier)
            if layer.has_bias:
                out.add_(self._weights[bias][:, None], alpha=bias_multiplier)
            if layer.name == "last":
                return out
            if spec.residual and layer.name != "first":
                out.div_(spec.depth**0.5).add_(h)
            h = torch.relu_(out) if spec.activation == "relu" else activate(spec.activation, out)
        raise AssertionError("a tower has a last layer")

    def _move(self, name: str, rates: Tensor) -> None:
        if name in self._gradients and not self._adds:
            move(self._weights[name], self._gradients[name], rates, self._tower.spec.learning_rate_factor)

    def backward(self, signal: Tensor) -> None:
        """All gradients and their norms, from dL/dz (S, n, d)."""
        spec = self._tower.spec
        for index, layer in reversed(list(enumerate(spec.layers))):
            if layer.name != "last":
                self._through_activation(layer, signal)
            skips = spec.residual and layer.name not in ("first", "last")
            scale = spec.depth**-0.5 if skips else 1.0
            self._gradient(layer, signal, scale)
            if index == self._lowest or index == 0:
                return
            below = self._signals[index % 2]
            product(signal, self._weights[layer.name], below, scale * self._tower.multipliers(layer)[0])
            signal = below.add_(signal) if skips else below

    def _through_activation(self, layer: Layer, signal: Tensor) -> None:
        """dL/dh of a layer into dL / d pre-activation, in place."""
        out = self._outputs[layer.name]
        if self._tower.spec.activation == "relu":  # its output is 0 where its slope is
            torch.ops.aten.threshold_backward.grad_input(signal, out, 0.0, grad_input=signal)
        else:
            signal.mul_(slope(self._tower.spec.activation, out))

    def _gradient(self, layer: Layer, signal: Tensor, scale: float) -> None:
        multiplier, bias_multiplier = self._tower.multipliers(layer)
        if layer.trained:
            gradient, total = self._gradients[layer.name], self._norms_sq[layer.name]
            for number, rows in enumerate(_blocks(gradient)):
                part = gradient[:, rows]
                product(signal[..., rows].mT, self._inputs[layer.name], part, scale * multiplier, adds=self._adds)
                total.copy_(square_sums(part)) if number == 0 else total.add_(square_sums(part))
        if layer.has_bias:
            name = f"{layer.name}.bias"
            gradient, sums = self._gradients[name], signal.sum(1).mul_(scale * bias_multiplier)
            gradient.add_(sums) if self._adds else gradient.copy_(sums)
            self._norms_sq[name].copy_(square_sums(gradient))


def _blocks(gradient: Tensor) -> list[slice]:
    """Rows to make at once, so that a gradient's norm is taken while it is in a cache: all, but of very large ones."""
    rows = gradient.shape[1]
    step = rows if gradient.numel() <= UNCUT_ELEMENTS else ROWS_OF_BLOCK
    return [slice(first, min(rows, first + step)) for first in range(0, rows, step)]


def square_sums(stack: Tensor) -> Tensor:
    """Squared Frobenius norm of each slot's part: (S, ...) -> (S,). Of a single slot as a dot product, which takes half
    the time."""
    if len(stack) == 1 and stack.is_contiguous():
        flat = stack.view(-1)
        return torch.dot(flat, flat)[None]
    return norms(stack).square()


def product(a: Tensor, b: Tensor, out: Tensor, multiplier: float, *, adds: bool = False) -> None:
    """out = multiplier a b, or out += multiplier a b, of each slot."""
    if adds:
        out.baddbmm_(a, b, alpha=multiplier)
    elif multiplier == 1:
        torch.bmm(a, b, out=out)
    else:
        out.baddbmm_(a, b, beta=0, alpha=multiplier)
