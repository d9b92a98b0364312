"""A lane's tensors: trials of one shape trained side by side in the slots of stacked arrays.

Shapes: S slots, n samples, m width, L depth, d embedding_dim, K steps of a chunk. A lane always computes S slots,
idle ones masked. No trial's numbers depend on its neighbours, on its slot or on how its steps were cut into chunks,
to the bit, for the same S, hardware, thread count and library versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suite.experiment import Budget, TrialSettings
from suite.measurement.certificate import Levels
from suite.measurement.point import Point, norms
from suite.measurement.stationarity import Chunk, Stationarity
from suite.training.backprop import Backprop, move
from suite.training.batches import batch_rows
from suite.training.couplings import TowerName
from suite.training.pair import Pair
from suite.training.repeated import Repeated

LONGEST_CHUNK = 64
"""Steps between two looks of the host, at most: a trial that ends waits so long for its slot to be refilled."""

State = dict[str, np.ndarray]
"""Everything a trial needs to continue: trained weights, the optimizer's buffers, running statistics, step and eta."""


class Lane:
    """S slots of stacked pairs. `fill` a slot, `advance` all of them K steps, `point` at where they are."""

    def __init__(
        self,
        example: TrialSettings,
        *,
        slots: int,
        budget: Budget,
        stop_below: float,
        stop_share: float = math.inf,
        device: torch.device,
    ) -> None:
        self.num_slots, self._budget, self._device, self._example = slots, budget, device, example
        self._dtype: torch.dtype = getattr(torch, example.precision)
        self._coupling, self._optimizer = example.coupling, example.optimizer
        self._num_samples, self._stop_below, self._stop_share = example.data.samples, stop_below, stop_share
        self.pair = Pair(example, slots=slots, dtype=self._dtype, device=device)
        self._follows_gradient = self._coupling.along_gradient and self._optimizer.is_plain
        self._factors_row = torch.tensor(self.pair.factors, dtype=self._dtype, device=device)
        self._backprop = Backprop(self.pair)
        self._evaluated = False
        work = Lane._descend_and_evaluate if self._follows_gradient else Lane._move_and_evaluate
        self._step_and_evaluate = Repeated(work, device=device)
        batch, further = self._optimizer.batch, self._coupling.evaluations > 1
        self._backprop_of_step = Backprop(self.pair, batch=batch) if batch or further else self._backprop
        self._allocate(slots, example.epsilons)

    def _allocate(self, slots: int, epsilons: tuple[float, ...]) -> None:
        def zeros(kind: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(*shape, slots, dtype=kind, device=self._device)

        self.stationarity = Stationarity(slots=slots, epsilons=epsilons, dtype=self._dtype, device=self._device)
        weights = self.pair.weights
        self._buffers = [[torch.zeros_like(w) for _ in range(self._optimizer.num_buffers)] for w in weights]
        self.active = zeros(torch.bool)  # holds a trial that has not ended
        self.step = zeros(torch.int64)
        self.eta = zeros(self._dtype)
        self._exact_eta = [0.0] * slots  # before it was rounded to the lane's precision
        self.settings: list[TrialSettings | None] = [None] * slots
        self._moving = zeros(torch.bool)  # the gradient at hand is its own: the next update applies
        self._counted = zeros(torch.bool)  # the next evaluation is a new step, not one counted before a restart
        self._last_step = zeros(torch.int64)
        self._update_norm_sq = zeros(self._dtype)
        self._largest = zeros(self._dtype)  # scaled G so far
        self._first_step = zeros(torch.int64)  # of the batches at hand
        batch = self._optimizer.batch or 0
        self._batches = torch.zeros(slots, LONGEST_CHUNK, batch, dtype=torch.int64, device=self._device)
        self._now, self._valid_now = zeros(self._dtype, 3), zeros(torch.bool)  # of the last evaluation
        self._loss_now, self._scaled_now, self._promised_now = self._now
        self._history, self._valid = zeros(self._dtype, LONGEST_CHUNK, 3), zeros(torch.bool, LONGEST_CHUNK)

    def fill(self, slot: int, settings: TrialSettings, state: State | None = None) -> tuple[float, int, int]:
        """Put a trial into a slot, at its start or at `state`; returns its eta, its step and its last step.

        Raises:
            ValueError: its data cannot be drawn, or its learning-rate rule gives no rate.
        """
        self.pair.fill(slot, settings)
        self._backprop.forget(slot)
        for buffer in self._all_buffers():
            buffer[slot] = 0
        if state is None:
            eta, step = self._eta_of(slot, settings), 0
            self.stationarity.reset(slot)
            self._update_norm_sq[slot], self._largest[slot] = torch.nan, 0.0
        else:
            eta, step = float(state["eta"]), int(state["step"])
            self._restore(slot, state)
        self.eta[slot], self.step[slot], self._exact_eta[slot], self.settings[slot] = eta, step, eta, settings
        last_step = self._budget.last_step(eta, settings.optimizer.schedule)
        self._last_step[slot] = last_step
        self.active[slot], self._moving[slot], self._counted[slot] = True, False, state is None
        return eta, step, last_step

    @torch.no_grad()
    def repeat(self, slot: int) -> None:
        """Copy the trial of this slot, at its start, into all others: a full lane at the price of one draw."""
        for stack in [*self.pair.tensors(), self.eta, self._last_step, self.active, self._counted]:
            stack.copy_(stack[slot].clone().expand_as(stack))
        self.settings = [self.settings[slot]] * self.num_slots

    def _all_buffers(self) -> list[Tensor]:
        return [buffer for buffers in self._buffers for buffer in buffers]

    def _stacks(self) -> dict[str, Tensor]:
        """Every tensor of which a trial needs its slot to continue, beside the running statistics."""
        weights = {f"weight.{i}": w for i, w in enumerate(self.pair.weights)}
        buffers = {f"buffer.{i}": b for i, b in enumerate(self._all_buffers())}
        return {**weights, **buffers, "update_norm_sq": self._update_norm_sq}

    def accepts(self, state: State) -> bool:
        """Whether a trial can go on from this state: an earlier version may have kept other things."""
        shapes = {name: tuple(stack.shape[1:]) for name, stack in self._stacks().items()}
        known = {name: state[name].shape for name in shapes if name in state}
        return shapes == known and {*Stationarity.FIELDS, "eta", "step"} <= set(state)

    @torch.no_grad()
    def _restore(self, slot: int, state: State) -> None:
        for name, stack in self._stacks().items():
            stack[slot] = torch.from_numpy(np.asarray(state[name]))
        self._largest[slot] = float(state["running_max"])
        names = Stationarity.FIELDS
        self.stationarity.load(slot, {name: torch.from_numpy(np.asarray(state[name])) for name in names})

    def state(self, slot: int) -> State:
        """A copy of the slot's trial on the host, enough to continue it to the bit."""
        stacks = {name: stack[slot].detach().cpu().numpy().copy() for name, stack in self._stacks().items()}
        running = {name: value.numpy() for name, value in self.stationarity.state(slot).items()}
        eta = np.asarray(self._exact_eta[slot], dtype=np.float64)
        return {**stacks, **running, "eta": eta, "step": np.asarray(self.step[slot].item())}

    def free(self, slot: int) -> None:
        """Leave a slot idle: it is computed and masked."""
        self.active[slot] = self._moving[slot] = False
        self.settings[slot] = None

    def advance(self, length: int) -> None:
        """`length` evaluations of every slot with the updates between them, without a look from the host.

        A slot that was moving moves first; one just filled is evaluated first. A trial that ends stays at its point.
        """
        start = self.step + self._moving
        self._draw_batches(length)
        for k in range(length):
            if self._follows_gradient or self._evaluated:
                self._step_and_evaluate(self)
            else:
                self._evaluate(None)
                self._evaluated = True
            self._history[k], self._valid[k] = self._now, self._valid_now
        loss, scaled, promised = self._history[:length].unbind(1)
        rows = Chunk(loss=loss, scaled_grad_norm_sq=scaled, promised=promised, valid=self._valid[:length])
        self.stationarity.fold(rows, start=start)

    def _draw_batches(self, length: int) -> None:
        """Batches of all the steps that any slot can take in this chunk: (S, steps, b)."""
        if self._optimizer.batch is None:
            return
        self._first_step.copy_(self.step)
        seeds = [0 if settings is None else settings.seed for settings in self.settings]
        drawn = [
            batch_rows(seed, samples=self._num_samples, batch=self._optimizer.batch, steps=range(at, at + length))
            for seed, at in zip(seeds, self.step.tolist(), strict=True)
        ]
        self._batches[:, :length] = torch.from_numpy(np.stack(drawn)).to(self._device)

    def _rows(self) -> Tensor | None:
        """The samples of the step that each slot takes next, (S, b); None for all."""
        if self._optimizer.batch is None:
            return None
        index = (self.step - self._first_step)[:, None, None]
        return self._batches.gather(1, index.expand(-1, -1, self._batches.shape[-1]))[:, 0]

    @torch.no_grad()
    def _descend_and_evaluate(self) -> None:
        """A step along the gradient at hand of every slot that has not ended, and what is there. Before a lane's first
        evaluation nothing moves, and gradients are 0."""
        rates = self.rate * self._moving
        torch.mul(rates, self._scaled_now, out=self._promised_now)
        self.step += self._moving
        self._evaluate(rates)

    def _move_and_evaluate(self) -> None:
        """The same with any coupling and optimizer, after a lane's first evaluation."""
        eta = self.rate
        before = [w.detach().clone() for w in self.pair.weights]
        self._coupling.step(_Step(self, rates=eta * self._moving))
        promised, norm_sq = self._first_order(before, eta)
        self._promised_now.copy_(promised)
        self._update_norm_sq.copy_(norm_sq.where(self._moving, self._update_norm_sq))
        self.step += self._moving
        self._evaluate(None)

    @torch.no_grad()
    def _evaluate(self, rates: Tensor | None) -> None:
        """Loss, gradient and G of every slot at its point, or one step of these rates (S,) further on; ends trials that
        are done."""
        loss, self._embeddings_now = self._backprop(rates)
        self._loss_now.copy_(loss)
        scaled = self._scaled_now.copy_(self._factors_row @ self._backprop.norms_sq)
        torch.logical_and(self.active, self._counted, out=self._valid_now)
        self._counted.fill_(True)
        both = loss + scaled
        finite = both - both == 0
        self.active &= finite & (scaled > self._level(scaled)) & (self.step < self._last_step)
        self._moving.copy_(self.active)

    def _level(self, scaled: Tensor) -> Tensor | float:
        """At or below which scaled G each slot's trial stops: (S,)."""
        if math.isinf(self._stop_share):
            return self._stop_below
        torch.maximum(self._largest, scaled, out=self._largest)
        return (self._largest * self._stop_share).clamp_max_(self._stop_below)

    @torch.no_grad()
    def _first_order(self, before: list[Tensor], eta: Tensor) -> tuple[Tensor, Tensor]:
        """The decrease of the loss that the gradient promised for the step just taken, and the step's squared norm
        per unit of eta, scaled like G: equal to eta G and G if the step was along the gradient."""
        promised, norm_sq = torch.zeros_like(eta), torch.zeros_like(eta)
        for old, new, gradient, factor in zip(
            before, self.pair.weights, self._backprop.gradients, self.pair.factors, strict=True
        ):
            step = old - new
            promised += (step * gradient).flatten(1).sum(1)
            norm_sq += norms(step).square() / factor
        return promised, norm_sq / eta.square()

    def empty_pair(self) -> Pair:
        """A pair of as many slots, to which points can be copied."""
        return Pair(self._example, slots=self.num_slots, dtype=self._dtype, device=self._device)

    def point(self, levels: Levels) -> Point:
        """Where every slot is, for measurements."""
        blank: list[Mapping[str, Any] | None] = [None] * self.num_slots
        return Point(
            pair=self.pair,
            loss=self._loss_now,
            gradients=self._backprop.gradients,
            norms_sq=self._backprop.norms_sq,
            embeddings=self._embeddings_now,
            eta=self.rate,
            settings=self.settings,
            running=self.stationarity,
            update_norm_sq=self._update_norm_sq,
            known=blank,
            levels=levels,
        )

    @property
    def rate(self) -> Tensor:
        """Rate of the next step of each slot, as the schedule has it: (S,)."""
        schedule = self._optimizer.schedule
        if schedule.is_constant:
            return self.eta
        return (self.eta * schedule.factor(self.step.double())).to(self._dtype)

    def _eta_of(self, slot: int, settings: TrialSettings) -> float:
        factor = self.pair.towers[0].spec.learning_rate_factor
        return settings.optimizer.learning_rate.eta(factor=factor, sharpness=partial(self.pair.sharpness, slot))


class _Step:
    """One step of a lane, as a coupling makes it."""

    def __init__(self, lane: Lane, *, rates: Tensor) -> None:
        self._lane, self.rates = lane, rates
        self._rows, self._gradients = lane._rows(), lane._backprop.gradients
        if self._rows is not None:
            self.refresh()

    @torch.no_grad()
    def descend(self, *towers: TowerName) -> None:
        """Move these towers by the optimizer, and with the query tower what the loss itself trains."""
        lane, pair = self._lane, self._lane.pair
        parts = [pair.parts[tower] for tower in towers] + ([pair.parts["loss"]] if "query" in towers else [])
        for index in (i for part in parts for i in range(part.start, part.stop)):
            weight = pair.weights[index]
            ones = [1] * (weight.ndim - 1)
            direction = lane._optimizer.direction(
                self._gradients[index],
                lane._buffers[index],
                moving=lane._moving.view(-1, *ones),
                step=lane.step.view(-1, *ones),
            )
            move(weight, direction, self.rates, pair.factors[index])

    def refresh(self) -> None:
        """Take the gradients anew, of the same samples."""
        self._lane._backprop_of_step(rows=self._rows)
        self._gradients = self._lane._backprop_of_step.gradients

    @torch.no_grad()
    def average(self, kept: float) -> None:
        """Move the key tower to kept * key + (1 - kept) * query."""
        pair, moving = self._lane.pair, self._lane._moving
        query, key = (pair.weights[pair.parts[tower]] for tower in ("query", "key"))
        for source, target in zip(query, key, strict=True):
            share = (1 - kept) * moving.to(target.dtype).view(-1, *[1] * (target.ndim - 1))
            target.copy_(torch.lerp(target, source, share))
