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
            SquareSums(new, norm_sq)()

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
        self._tower = tower
        names = list(tower.spec.trained)
        made = dict(zip(names, zip(gradients, norms_sq, strict=True), strict=True))
        slots, n, _ = tower.inputs.shape

        def buffer(features: int) -> Tensor:
            return torch.empty(slots, batch or n, features, dtype=tower.inputs.dtype, device=tower.inputs.device)

        self._layers = [
            _Work(layer, tower, tower.known(weights), made, buffer(layer.shape[0]), adds=adds)
            for layer in tower.spec.layers
        ]
        signals = [buffer(tower.spec.width) for _ in range(2)]
        behind = False
        for number, work in enumerate(self._layers):  # what is below no trained weight needs no signal
            work.below = signals[number % 2] if behind else None
            behind |= work.is_trained

    def forward(self, rates: Tensor | None, rows: Tensor | None) -> Tensor:
        """Embeddings of all samples or of these, after every weight has moved."""
        h = self._tower.inputs_of(rows)
        for work in self._layers:
            h = work.forward(h, rates)
        return h

    def backward(self, signal: Tensor) -> None:
        """All gradients and their norms, from dL/dz (S, n, d)."""
        for work in reversed(self._layers):
            signal = work.backward(signal)
            if work.below is None:
                return


class _Work:
    """One layer of a branch with its tensors, of which views are made once too: each costs a microsecond."""

    below: Tensor | None = None
    """Where dL/dh of the layer's input goes; None if nothing before it is trained."""

    def __init__(
        self,
        layer: Layer,
        tower: TowerSlots,
        weights: dict[str, Tensor],
        made: dict[str, tuple[Tensor, Tensor]],
        out: Tensor,
        *,
        adds: bool,
    ) -> None:
        spec, bias = tower.spec, f"{layer.name}.bias"
        self._out, self._adds, self._factor = out, adds, spec.learning_rate_factor
        self._weight, self._transposed = weights[layer.name], weights[layer.name].mT
        self._bias = weights.get(bias)
        nothing: tuple[Tensor | None, Tensor | None] = (None, None)
        self._gradient, self._norm_sq = made.get(layer.name, nothing)
        self._bias_gradient, self._bias_norm_sq = made.get(bias, nothing)
        self._multiplier, self._bias_multiplier = tower.multipliers(layer)
        self._activation = None if layer.name == "last" else spec.activation
        self._root = spec.depth**0.5 if spec.residual and layer.name not in ("first", "last") else None
        self._scale = 1 / self._root if self._root else 1.0
        self._parts: list[tuple[slice, Tensor, SquareSums]] = []
        if self._gradient is not None and self._norm_sq is not None:
            for rows in _blocks(self._gradient):
                part = self._gradient[:, rows]
                self._parts.append((rows, part, SquareSums(part, self._norm_sq, adds=rows.start > 0)))
        if self._bias_gradient is not None and self._bias_norm_sq is not None:
            self._sum_bias_squares = SquareSums(self._bias_gradient, self._bias_norm_sq)

    @property
    def is_trained(self) -> bool:
        """Whether it has a gradient of its own."""
        return self._gradient is not None or self._bias_gradient is not None

    def forward(self, h: Tensor, rates: Tensor | None) -> Tensor:
        """The layer's output after its activation, from its input."""
        self._input, out = h, self._out
        if rates is not None and not self._adds:
            self._move(rates)
        product(h, self._transposed, out, self._multiplier)
        if self._bias is not None:
            out.add_(self._bias[:, None], alpha=self._bias_multiplier)
        if self._root:
            out.div_(self._root).add_(h)
        if self._activation is None:
            return out
        return torch.relu_(out) if self._activation == "relu" else activate(self._activation, out)

    def _move(self, rates: Tensor) -> None:
        if self._gradient is not None:
            move(self._weight, self._gradient, rates, self._factor)
        if self._bias is not None and self._bias_gradient is not None:
            move(self._bias, self._bias_gradient, rates, self._factor)

    def backward(self, signal: Tensor) -> Tensor:
        """dL/dh of the layer's input from that of its output, with its gradients on the way; `signal` is used up."""
        if self._activation == "relu":  # the output is 0 where its slope is
            torch.ops.aten.threshold_backward.grad_input(signal, self._out, 0.0, grad_input=signal)
        elif self._activation is not None:
            signal.mul_(slope(self._activation, self._out))
        self._take_gradients(signal)
        if self.below is None:
            return signal
        product(signal, self._weight, self.below, self._scale * self._multiplier)
        return self.below.add_(signal) if self._root else self.below

    def _take_gradients(self, signal: Tensor) -> None:
        """From dL / d pre-activation."""
        for rows, part, sum_squares in self._parts:
            product(signal[..., rows].mT, self._input, part, self._scale * self._multiplier, adds=self._adds)
            sum_squares()
        if self._bias_gradient is not None:
            sums = signal.sum(1).mul_(self._scale * self._bias_multiplier)
            self._bias_gradient.add_(sums) if self._adds else self._bias_gradient.copy_(sums)
            self._sum_bias_squares()


def _blocks(gradient: Tensor) -> list[slice]:
    """Rows to make at once, so that a gradient's norm is taken while it is in a processor's cache: all, but of very
    large ones. A GPU needs large products more."""
    rows = gradient.shape[1]
    is_cut = gradient.numel() > UNCUT_ELEMENTS and gradient.device.type == "cpu"
    step = ROWS_OF_BLOCK if is_cut else rows
    return [slice(first, min(rows, first + step)) for first in range(0, rows, step)]


class SquareSums:
    """A call puts the squared Frobenius norm of each slot's part of a stack (S, a, ...) into `out` (S,), or adds it."""

    def __init__(self, stack: Tensor, out: Tensor, *, adds: bool = False) -> None:
        self._stack, self._out, self._adds = stack, out, adds
        self._is_flat, self._is_single = stack.is_contiguous(), len(stack) == 1
        self._is_on_gpu = stack.device.type == "cuda"
        if self._is_flat:
            self._row = stack.view(len(stack), 1, -1)
            self._column, self._number = self._row.mT, out.view(-1, 1, 1)

    def __call__(self) -> None:
        """As products of rows with themselves, which are fastest on a processor: of a single slot as a dot product."""
        if self._is_on_gpu and not self._adds:
            torch.linalg.vector_norm(self._stack, dim=tuple(range(1, self._stack.ndim)), out=self._out)
            self._out.square_()
            return
        if self._is_flat and not self._adds and not self._is_single:
            torch.bmm(self._row, self._column, out=self._number)
            return
        if self._is_flat and self._is_single:
            flat = self._row[0, 0]
            sums = torch.dot(flat, flat)[None]
        else:
            sums = norms(self._stack).square()
        self._out.add_(sums) if self._adds else self._out.copy_(sums)


def product(a: Tensor, b: Tensor, out: Tensor, multiplier: float, *, adds: bool = False) -> None:
    """out = multiplier a b, or out += multiplier a b, of each slot."""
    if adds:
        out.baddbmm_(a, b, alpha=multiplier)
    elif multiplier == 1:
        torch.bmm(a, b, out=out)
    else:
        out.baddbmm_(a, b, beta=0, alpha=multiplier)
