"""The pair: two stacked towers and the loss as one function of all trained weights, with its gradients.

Shapes: S slots, n samples, b of them in a batch, d embedding_dim.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from suite.data.pairs import check_views, draw_pairs
from suite.experiment import TrialSettings
from suite.measurement.curvature import hessian_extremes, largest_converged
from suite.measurement.point import norms
from suite.training.losses import draw_negatives
from suite.training.shapes import tower_specs
from suite.training.towers import Pass, TowerSlots, draw_weights


class Pair:
    """S stacked pairs of towers. `weights` are all that is trained: the query's, the key's, the loss's own.

    `parts` says which of them belong to `query`, `key` and `loss`. With one tower, the query tower sees both views.
    """

    def __init__(self, example: TrialSettings, *, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self._loss, self._one_tower = example.loss, example.coupling.one_tower
        specs = tower_specs(example)
        views = [specs[0], replace(specs[-1])] if self._one_tower else specs
        self.towers = [
            TowerSlots(spec, slots=slots, samples=example.data.samples, dtype=dtype, device=device) for spec in views
        ]
        self.scalars = {
            name: torch.zeros(slots, 1, dtype=dtype, device=device).requires_grad_()
            for name in example.loss.parameters()
        }
        self._start: list[list[Pass]] | None = None
        self._sizes: Tensor | None = None
        self._extras: dict[str, Tensor] = {}
        n = example.data.samples
        if "labels" in self._loss.needs:
            self._extras["labels"] = torch.zeros(slots, n, dtype=torch.int64, device=device)
        if "negatives" in self._loss.needs:
            self._extras["negatives"] = torch.eye(n, dtype=torch.bool, device=device).repeat(slots, 1, 1)
        self._index()

    def _index(self) -> None:
        """List the weights and what goes with each."""
        own = self.towers[:1] if self._one_tower else self.towers
        self.weights = [w for tower in own for w in tower.weights] + list(self.scalars.values())
        self.initial = [w for tower in own for w in tower.initial]
        self.factors = [tower.spec.learning_rate_factor for tower in own for _ in tower.weights]
        self.factors += [1.0] * len(self.scalars)
        counts = [len(tower.weights) for tower in own] + [0] * (2 - len(own))
        a, b = counts[0], counts[0] + counts[1]
        self.parts = {"query": slice(0, a), "key": slice(a, b), "loss": slice(b, len(self.weights))}

    def fill(self, slot: int, settings: TrialSettings) -> None:
        """Put a trial at its start into a slot.

        Raises:
            ValueError: its data cannot be drawn, or one tower is to see views of unequal size.
        """
        self._start = self._sizes = None
        pairs = draw_pairs(settings.data, settings.seed)
        check_views(pairs, settings.coupling)
        for tower, inputs in zip(self.towers, (pairs.query, pairs.key), strict=True):
            tower.fill(slot, draw_weights(tower.spec, seed=settings.seed, input_dim=inputs.shape[1]), inputs)
        with torch.no_grad():
            for name, value in settings.loss.parameters().items():
                self.scalars[name][slot] = value
        if "labels" in self._extras:
            assert pairs.labels is not None
            self._extras["labels"][slot] = torch.from_numpy(pairs.labels)
        if "negatives" in self._extras:
            assert settings.loss.num_negatives is not None
            mask = draw_negatives(settings.seed, samples=len(pairs.query), negatives=settings.loss.num_negatives)
            self._extras["negatives"][slot] = torch.from_numpy(mask)

    @property
    def at_start(self) -> list[Tensor]:
        """The weights as they were drawn, the loss's own at their start."""
        starts = self._loss.parameters()
        return [*self.initial, *(torch.full_like(scalar, starts[name]) for name, scalar in self.scalars.items())]

    @torch.no_grad()
    def initial_sizes(self) -> Tensor:
        """Frobenius norm of each of the towers' weights as it was drawn, (weights, S); kept until a slot takes another
        trial."""
        if self._sizes is None:
            self._sizes = torch.stack([norms(initial) for initial in self.initial])
        return self._sizes

    def initial_norms(self) -> list[Tensor]:
        """Spectral norm of each of the towers' weights as it was drawn, (S,) each."""
        own = self.towers[:1] if self._one_tower else self.towers
        return [norm for tower in own for norm in tower.initial_norms()]

    def tensors(self) -> list[Tensor]:
        """Everything that a slot holds, in an order that depends on the shape alone."""
        towers = [tensor for tower in self.towers for tensor in tower.tensors()]
        return [*towers, *self.scalars.values(), *self._extras.values()]

    @torch.no_grad()
    def copy_slot(self, source: Pair, *, start: int, to: int) -> None:
        """Copy slot `start` of a pair of the same shape into slot `to`, in the dtype of this one."""
        self._start = self._sizes = None
        for mine, theirs in zip(self.tensors(), source.tensors(), strict=True):
            mine[to] = theirs[start]
        for tower in self.towers:
            tower.forget_norms(to)

    def passes(self, weights: Sequence[Tensor], most: int) -> list[list[Pass]]:
        """What goes through every layer of each view's tower, for the first `most` samples."""
        return [list(tower.passes(tower.inputs[:, :most], part)) for tower, part in self._views(weights)]

    @torch.no_grad()
    def passes_at_start(self, most: int) -> list[list[Pass]]:
        """The same at the weights of the draw; kept until a slot takes another trial."""
        if self._start is None:
            self._start = self.passes(self.at_start, most)
        return self._start

    def expansions(self, weights: Sequence[Tensor], most: int) -> list[Tensor]:
        """First-order expansion at the draw of each view's embeddings, for the first `most` samples."""
        return [tower.expansion(tower.inputs[:, :most], part) for tower, part in self._views(weights)]

    @property
    def parts_of_views(self) -> list[slice]:
        """Which of the weights each view passes through."""
        return [self.parts["query"], self.parts["query" if self._one_tower else "key"]]

    def _views(self, weights: Sequence[Tensor]) -> Iterator[tuple[TowerSlots, Sequence[Tensor]]]:
        """The tower of each view, and its part of the weights."""
        return ((tower, weights[part]) for tower, part in zip(self.towers, self.parts_of_views, strict=True))

    def embeddings(self, weights: Sequence[Tensor], rows: Tensor | None = None) -> list[Tensor]:
        """Embeddings of both views, each (S, n, d), or (S, b, d) of the samples that `rows` (S, b) picks."""
        return [tower.embed(part, rows) for tower, part in self._views(weights)]

    def loss(self, weights: Sequence[Tensor], rows: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Loss of each slot (S,), and the embeddings it is of."""
        embeddings = self.embeddings(weights, rows)
        return self._loss(*embeddings, **self._inputs_of_loss(weights, rows)), embeddings

    @torch.no_grad()
    def loss_and_signals(
        self, embeddings: Sequence[Tensor], rows: Tensor | None = None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Loss of each slot (S,) at these embeddings of all samples, or of those that `rows` (S, b) picks, and its
        gradient in both views' embeddings and in each of the loss's own scalars (S, 1)."""
        by_hand = self._loss.with_gradient(*embeddings, **self._inputs_of_loss(self.weights, rows))
        if by_hand is not None:
            return by_hand
        leaves = [z.detach().requires_grad_() for z in embeddings]
        with torch.enable_grad():
            loss = self._loss(*leaves, **self._inputs_of_loss(self.weights, rows))
            return loss.detach(), torch.autograd.grad(loss.sum(), [*leaves, *self.scalars.values()])

    def gradients(self, rows: Tensor | None = None) -> list[Tensor]:
        """Gradient of each slot's own loss in every trained weight."""
        return list(torch.autograd.grad(self.loss(self.weights, rows)[0].sum(), self.weights))

    def diagnostics(self, embeddings: list[Tensor]) -> dict[str, Tensor]:
        """What the loss tells of itself at these embeddings, and the share of zero embeddings; columns (S,)."""
        dead = [(z == 0).all(-1).double().mean(-1) for z in embeddings]
        told = self._loss.diagnostics(*embeddings, **self._inputs_of_loss(self.weights, None))
        return {"dead_share_query": dead[0], "dead_share_key": dead[1], **told}

    def _inputs_of_loss(self, weights: Sequence[Tensor], rows: Tensor | None) -> dict[str, Tensor]:
        values = {name: w[:, 0] for name, w in zip(self.scalars, weights[self.parts["loss"]], strict=True)}
        if "labels" in self._extras:
            labels = self._extras["labels"]
            values["labels"] = labels if rows is None else labels.gather(1, rows)
        if "negatives" in self._extras:
            values["negatives"] = self._extras["negatives"]
        return values

    def mapped(self, convert: Callable[[Tensor], Tensor]) -> Pair:
        """A copy in which every tensor is what `convert` makes of it."""
        twin = copy.copy(self)
        twin._start = twin._sizes = None
        twin.towers = [tower.mapped(convert) for tower in self.towers]
        twin.scalars = {n: convert(s.detach()).clone().requires_grad_() for n, s in self.scalars.items()}
        twin._extras = {name: convert(extra) for name, extra in self._extras.items()}
        twin._index()
        return twin

    def alone(self, slot: int) -> Pair:
        """A copy of one slot as a stack of one, for work that concerns a single trial."""
        return self.mapped(lambda tensor: tensor[slot : slot + 1])

    def in_double(self) -> Pair:
        """A copy whose numbers are those of this one, in float64."""
        return self.mapped(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    @torch.enable_grad()
    def hessian_product(self, weights: Sequence[Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Multiplication of each slot's flat vector by its P^1/2 H P^1/2 at these weights, (S, P) -> (S, P), and its
        flat gradient times P^1/2, (S, P)."""
        weights = [w.detach().requires_grad_() for w in weights]
        scales = [factor**0.5 for factor in self.factors]
        gradients = torch.autograd.grad(self.loss(weights)[0].sum(), weights, create_graph=True)
        sizes = [w[0].numel() for w in weights]

        @torch.enable_grad()
        def multiply(vectors: Tensor) -> Tensor:
            split = vectors.split(sizes, dim=1)
            parts = [s * v.reshape(w.shape) for s, v, w in zip(scales, split, weights, strict=True)]
            along = torch.stack([(g * part).sum() for g, part in zip(gradients, parts, strict=True)]).sum()
            products = torch.autograd.grad(along, weights, retain_graph=True)  # grad_outputs would import sympy
            return flat(products)

        def flat(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([s * part.detach().flatten(1) for s, part in zip(scales, parts, strict=True)], dim=1)

        return multiply, flat(gradients)

    def sharpness(self, slot: int) -> float:
        """lambda_max(P^1/2 H P^1/2) of one slot at its present weights, computed outside the stack."""
        alone = self.alone(slot)
        return float(hessian_extremes(alone, alone.weights, enough=largest_converged).largest[0])
