"""A lane's tensors: trials of one shape trained side by side in the slots of stacked arrays.

Shapes: S slots, n samples, m width, L depth, d embedding_dim, K steps of a chunk. A lane always computes S slots,
idle ones masked. No trial's numbers depend on its neighbours, on its slot or on how its steps were cut into chunks,
to the bit, for the same S, hardware, thread count and library versions.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from suite.data.pairs import draw_pairs
from suite.experiment import Budget, TrialSettings
from suite.measurement.curvature import largest_eigenvalue
from suite.measurement.stationarity import Chunk, Stationarity
from suite.training.towers import TOWERS, TowerSlots, TowerSpec, draw_weights

LONGEST_CHUNK = 64
"""Steps between two looks of the host, at most: a trial that ends waits so long for its slot to be refilled."""

State = dict[str, np.ndarray]
"""Everything a trial needs to continue: hidden weights, running statistics, step and eta."""


def tower_specs(settings: TrialSettings) -> list[TowerSpec]:
    """Shapes of the query and the key tower."""
    shapes = settings.encoder.towers()
    return [
        TowerSpec(
            index=index,
            width=shapes[name].width,
            depth=shapes[name].depth,
            embedding_dim=settings.encoder.embedding_dim,
            parametrization=settings.encoder.parametrization,
        )
        for index, name in enumerate(TOWERS)
    ]


class Lane:
    """S slots of stacked towers. `fill` a slot, `advance` all of them K steps, `read` what they are at."""

    def __init__(
        self, example: TrialSettings, *, slots: int, budget: Budget, stop_below: float, device: torch.device
    ) -> None:
        self.num_slots, self._budget, self._device = slots, budget, device
        self._dtype: torch.dtype = getattr(torch, example.precision)
        self._loss, self._optimizer = example.loss, example.optimizer
        self._stop_below = stop_below
        self.towers = [
            TowerSlots(spec, slots=slots, samples=example.data.samples, dtype=self._dtype, device=device)
            for spec in tower_specs(example)
        ]
        self._weights = [w for tower in self.towers for w in tower.hidden]
        self._factors = [tower.spec.learning_rate_factor for tower in self.towers for _ in tower.hidden]
        self._factors_row = torch.tensor(self._factors, dtype=self._dtype, device=device)
        self._gradients: list[Tensor] = []
        self._allocate(slots, example.epsilons)

    def _allocate(self, slots: int, epsilons: tuple[float, ...]) -> None:
        def zeros(kind: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(*shape, slots, dtype=kind, device=self._device)

        self.stationarity = Stationarity(slots=slots, epsilons=epsilons, dtype=self._dtype, device=self._device)
        self.active = zeros(torch.bool)  # holds a trial that has not ended
        self.step = zeros(torch.int64)
        self.eta = zeros(self._dtype)
        self._exact_eta = [0.0] * slots  # before it was rounded to the lane's precision
        self._moving = zeros(torch.bool)  # the gradient at hand is its own: the next update applies
        self._counted = zeros(torch.bool)  # the next evaluation is a new step, not one counted before a restart
        self._last_step = zeros(torch.int64)
        self._layer_norms_sq = zeros(self._dtype, len(self._weights))
        self._history = Chunk(
            loss=zeros(self._dtype, LONGEST_CHUNK),
            grad_norm_sq=zeros(self._dtype, LONGEST_CHUNK),
            scaled_grad_norm_sq=zeros(self._dtype, LONGEST_CHUNK),
            valid=zeros(torch.bool, LONGEST_CHUNK),
        )

    def fill(self, slot: int, settings: TrialSettings, state: State | None = None) -> tuple[float, int, int]:
        """Put a trial into a slot, at its start or at `state`; returns its eta, its step and its last step.

        Raises:
            ValueError: its data cannot be drawn, or its learning-rate rule gives no rate.
        """
        pairs = draw_pairs(settings.data, settings.seed)
        for tower, inputs in zip(self.towers, (pairs.query, pairs.key), strict=True):
            tower.fill(slot, draw_weights(tower.spec, seed=settings.seed, input_dim=inputs.shape[1]), inputs)
        if state is None:
            eta, step = self._eta_of(slot, settings), 0
            self.stationarity.reset(slot)
        else:
            eta, step = float(state["eta"]), int(state["step"])
            self._restore(slot, state)
        self.eta[slot], self.step[slot], self._exact_eta[slot] = eta, step, eta
        self._last_step[slot] = self._budget.last_step(eta)
        self.active[slot], self._moving[slot], self._counted[slot] = True, False, state is None
        return eta, step, self._budget.last_step(eta)

    @torch.no_grad()
    def _restore(self, slot: int, state: State) -> None:
        for index, weight in enumerate(self._weights):
            weight[slot] = torch.from_numpy(state[f"weight.{index}"])
        names = Stationarity.FIELDS
        self.stationarity.load(slot, {name: torch.from_numpy(np.asarray(state[name])) for name in names})

    def state(self, slot: int) -> State:
        """A copy of the slot's trial on the host, enough to continue it to the bit."""
        weights = {f"weight.{i}": w[slot].detach().cpu().numpy().copy() for i, w in enumerate(self._weights)}
        running = {name: value.numpy() for name, value in self.stationarity.state(slot).items()}
        eta = np.asarray(self._exact_eta[slot], dtype=np.float64)
        return {**weights, **running, "eta": eta, "step": np.asarray(self.step[slot].item())}

    def free(self, slot: int) -> None:
        """Leave a slot idle: it is computed and masked."""
        self.active[slot] = self._moving[slot] = False

    def advance(self, length: int) -> None:
        """`length` evaluations of every slot with the updates between them, without a look from the host.

        A slot that was moving moves first; one just filled is evaluated first. A trial that ends stays at its point.
        """
        start = self.step + self._moving
        for k in range(length):
            if self._gradients:
                self._update()
            self._evaluate(k)
        names = ("loss", "grad_norm_sq", "scaled_grad_norm_sq", "valid")
        rows = Chunk(**{name: getattr(self._history, name)[:length] for name in names})
        self.stationarity.fold(rows, start=start, eta=self.eta)

    def _evaluate(self, k: int) -> None:
        """Loss, gradient and G of every slot at its point, into row k of the history; ends trials that are done."""
        loss = self._loss(*(tower.embed(tower.hidden) for tower in self.towers))
        self._gradients = list(torch.autograd.grad(loss.sum(), self._weights))
        with torch.no_grad():
            norms = torch.stack([torch.linalg.vector_norm(g, dim=(1, 2)) for g in self._gradients])
            self._layer_norms_sq = norms.square()
            scaled = self._factors_row @ self._layer_norms_sq
            row = self._history
            row.loss[k] = loss.detach()
            row.grad_norm_sq[k] = self._layer_norms_sq.sum(0)
            row.scaled_grad_norm_sq[k] = scaled
            torch.logical_and(self.active, self._counted, out=row.valid[k])
            self._counted.fill_(True)
            finite = loss.isfinite() & scaled.isfinite()
            self.active &= finite & (scaled > self._stop_below) & (self.step < self._last_step)
            self._moving.copy_(self.active)
            self._loss_now, self._scaled_now = row.loss[k], row.scaled_grad_norm_sq[k]
            self._norm_sq_now = row.grad_norm_sq[k]

    @torch.no_grad()
    def _update(self) -> None:
        """Move every slot that has not ended: all layers of both towers at once, from the same gradient."""
        rates = self.eta * self._moving
        self._optimizer.update(self._weights, self._gradients, rates=rates, factors=self._factors)
        self.step += self._moving

    @torch.no_grad()
    def read(self) -> dict[str, Tensor]:
        """What is measured of every slot at its present point: columns of (S,), and (S, layers) where `_by_layer`."""
        running = self.stationarity
        moved = [
            torch.linalg.vector_norm(w - w0, dim=(1, 2))
            for tower in self.towers
            for w, w0 in zip(tower.hidden, tower.initial, strict=True)
        ]
        drawn = [torch.linalg.vector_norm(w0, dim=(1, 2)) for tower in self.towers for w0 in tower.initial]
        displacement, scale = torch.stack(moved).norm(dim=0), torch.stack(drawn).norm(dim=0)
        depth = len(self.towers[0].hidden)
        transitions = (running.num_evaluations - 1).clamp_min(1)
        columns = {
            "loss": self._loss_now,
            "grad_norm_sq": self._norm_sq_now,
            "scaled_grad_norm_sq": self._scaled_now,
            "running_min_scaled_grad_norm_sq": running.running_min,
            "running_mean_scaled_grad_norm_sq": running.total / running.num_evaluations,
            "running_max_scaled_grad_norm_sq": running.running_max,
            "violating_share": running.num_violations.double() / transitions,
            "checkable_share": running.num_checkable.double() / transitions,
            "displacement": displacement,
            "relative_displacement": displacement / scale,
            "grad_norm_sq_query": self._layer_norms_sq[:depth].sum(0),
            "grad_norm_sq_key": self._layer_norms_sq[depth:].sum(0),
            "grad_norm_sq_by_layer": self._layer_norms_sq.mT,
        }
        return {name: column.double().cpu() for name, column in columns.items()}

    def _eta_of(self, slot: int, settings: TrialSettings) -> float:
        factor = self.towers[0].spec.learning_rate_factor
        return settings.optimizer.learning_rate.eta(factor=factor, sharpness=partial(self._sharpness, slot))

    def _sharpness(self, slot: int) -> float:
        """lambda_max(P^1/2 H P^1/2) of one slot at its present weights, computed outside the stack."""
        towers = [tower.alone(slot) for tower in self.towers]
        weights = [w for tower in towers for w in tower.hidden]
        scales = [factor**0.5 for factor in self._factors]
        loss = self._loss(*(tower.embed(tower.hidden) for tower in towers)).sum()
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        sizes = [w.numel() for w in weights]

        def multiply(vector: Tensor) -> Tensor:
            parts = [s * v.view_as(w) for s, v, w in zip(scales, vector.split(sizes), weights, strict=True)]
            products = torch.autograd.grad(gradients, weights, grad_outputs=parts, retain_graph=True)
            return torch.cat([s * p.flatten() for s, p in zip(scales, products, strict=True)])

        return largest_eigenvalue(multiply, sum(sizes), dtype=self._dtype, device=self._device)
