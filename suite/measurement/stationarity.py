"""Stationarity of every trial at every step, kept on the device: the host reads it at records only.

Shapes: K steps of a chunk, S slots, E thresholds. G is the scaled squared gradient norm, the first-order decrease of
the loss per unit of eta t. Definitions: docs/science.md, "What is measured".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suite.measurement.moments import Moments
from suite.measurement.registry import FREE, MEASUREMENTS, Column, Values

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from suite.measurement.point import Point

NEVER = -1
"""Stands for a step that has not come yet."""


PASSAGE_COLUMNS = (
    Column(name="epsilon", formula="ε, the threshold"),
    Column(name="relative", formula="whether the threshold is ε max_{s≤t} G_s, else ε itself", kind="bool"),
    Column(name="at_init", formula="G_0 ≤ ε already; left out of fits", kind="bool"),
    Column(name="reached", formula="whether G ≤ ε at some step", kind="bool"),
    Column(name="steps_to_stationarity", formula="T(ε), the first step with G ≤ ε, exact", unit="steps", kind="whole"),
    Column(name="time_to_stationarity", formula="Σ_{t<T} eta_t; eta T at a constant rate", unit="eta · steps"),
    Column(
        name="stay_steps",
        formula="T_stay, one step after the last with G > ε; empty for ε below ten times `stop_below`",
        unit="steps",
        kind="whole",
    ),
    Column(name="unstable", formula="T_stay > 2 T; empty where T_stay is", kind="bool"),
)
"""Columns of passages.parquet beside the trial's id: one row per trial and threshold."""

TRIAL_COLUMNS = (
    Column(name="unstable", formula="`unstable` of the lowest absolute threshold for which it is known", kind="bool"),
    Column(name="descent_regime", formula="finished, and violating_share ≤ 0.01", kind="bool"),
)
"""Columns of trials.parquet that follow from all its steps."""


@dataclass(frozen=True)
class Chunk:
    """What K consecutive steps wrote for each slot; all (K, S).

    `promised` is the decrease of the loss that the gradient promised, to first order, for the step that led to a row:
    eta G for plain descent. `valid` marks steps a trial really evaluated.
    """

    loss: Tensor
    scaled_grad_norm_sq: Tensor
    promised: Tensor
    valid: Tensor


class Stationarity:
    """Running statistics of G, per slot. `state(slot)` and `load(slot, state)` carry a trial across processes."""

    FIELDS = (
        "running_min",
        "running_max",
        "total",
        "num_evaluations",
        "first_loss",
        "first_scaled",
        "previous_loss",
        "total_promised",
        "num_violations",
        "num_checkable",
        "first_below",
        "last_above",
        "first_below_relative",
        "last_above_relative",
    )

    def __init__(self, *, slots: int, epsilons: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> None:
        import torch

        def full(value: float, kind: torch.dtype, *shape: int) -> Tensor:
            return torch.full((slots, *shape), value, dtype=kind, device=device)

        num = len(epsilons)
        self._tolerance = 8 * torch.finfo(dtype).eps
        self._epsilons = torch.tensor(epsilons, dtype=dtype, device=device)
        self.running_min = full(torch.inf, dtype)
        self.running_max = full(-torch.inf, dtype)
        self.total = full(0, torch.float64)
        self.num_evaluations = full(0, torch.int64)
        self.first_loss = full(torch.nan, dtype)
        self.first_scaled = full(torch.nan, dtype)
        self.previous_loss = full(torch.nan, dtype)
        self.total_promised = full(0, torch.float64)
        self.num_violations = full(0, torch.int64)
        self.num_checkable = full(0, torch.int64)
        self.first_below = full(NEVER, torch.int64, num)
        self.last_above = full(NEVER, torch.int64, num)
        self.first_below_relative = full(NEVER, torch.int64, num)
        self.last_above_relative = full(NEVER, torch.int64, num)
        self._blank = {name: getattr(self, name)[:1].clone() for name in self.FIELDS}

    def reset(self, slot: int) -> None:
        """Forget the slot's trial."""
        self.load(slot, {name: value[0] for name, value in self._blank.items()})

    def load(self, slot: int, state: dict[str, Tensor]) -> None:
        """Continue a trial from what `state` gave."""
        for name in self.FIELDS:
            getattr(self, name)[slot] = state[name].to(self.total.device)

    def state(self, slot: int) -> dict[str, Tensor]:
        """A copy of the slot's statistics on the CPU."""
        return {name: getattr(self, name)[slot].cpu().clone() for name in self.FIELDS}

    def fold(self, chunk: Chunk, *, start: Tensor) -> None:
        """Take in K steps; row k of slot s is the trial's step start[s] + k.

        The result does not depend on how steps are cut into chunks, to the bit.
        """
        import torch

        valid = chunk.valid & chunk.scaled_grad_norm_sq.isfinite() & chunk.loss.isfinite()
        scaled, loss = chunk.scaled_grad_norm_sq, chunk.loss
        starting = valid[0] & (self.num_evaluations == 0)
        self._check_descent(loss, chunk.promised, valid)
        maxima = torch.cat([self.running_max[None], scaled.where(valid, -torch.inf)]).cummax(0).values
        self._note_passages(scaled, maxima[1:], valid, start)
        self.running_max = maxima[-1]
        self.running_min = torch.minimum(self.running_min, scaled.where(valid, torch.inf).amin(0))
        self.first_loss = loss[0].where(starting, self.first_loss)
        self.first_scaled = scaled[0].where(starting, self.first_scaled)
        self.num_evaluations += valid.sum(0)
        led_to = valid.clone()
        led_to[0] &= ~starting
        for row in scaled.double().where(valid, 0):  # one by one: a blocked sum would depend on the cutting
            self.total += row
        for row in chunk.promised.double().where(led_to, 0):
            self.total_promised += row

    def _check_descent(self, loss: Tensor, promised: Tensor, valid: Tensor) -> None:
        import torch

        before = torch.cat([self.previous_loss[None], loss[:-1]])
        slack = self._tolerance * before.abs()
        self.num_violations += (valid & (before - loss < promised / 2 - slack)).sum(0)
        self.num_checkable += (valid & (promised / 2 > slack)).sum(0)
        last = (valid.sum(0) - 1 + (~valid[0] & valid.any(0))).clamp_min(0)[None]
        self.previous_loss = loss.gather(0, last)[0].where(valid.any(0), self.previous_loss)

    def _note_passages(self, scaled: Tensor, maxima: Tensor, valid: Tensor, start: Tensor) -> None:
        for threshold, first, last in (
            (self._epsilons, self.first_below, self.last_above),
            (maxima[..., None] * self._epsilons, self.first_below_relative, self.last_above_relative),
        ):
            below = scaled[..., None] <= threshold
            inside = below & valid[..., None]
            outside = ~below & valid[..., None]
            passed = inside.any(0) & (first == NEVER)
            first.copy_((start[:, None] + inside.int().argmax(0)).where(passed, first))
            final = len(scaled) - 1 - outside.flip(0).int().argmax(0)
            last.copy_((start[:, None] + final).where(outside.any(0), last))


@MEASUREMENTS(
    "trajectory",
    Column(name="running_min_scaled_grad_norm_sq", formula="min_{s≤t} G_s"),
    Column(name="running_mean_scaled_grad_norm_sq", formula="mean_{s≤t} G_s"),
    Column(name="running_max_scaled_grad_norm_sq", formula="max_{s≤t} G_s"),
    Column(
        name="violating_share",
        formula="share of the steps so far with L_t − L_{t+1} < ⟨∇L_t, w_t − w_{t+1}⟩/2 − 8 ε |L_t|, ε the machine's",
    ),
    Column(name="checkable_share", formula="share of the steps so far with ⟨∇L_t, w_t − w_{t+1}⟩/2 > 8 ε |L_t|"),
    Column(
        name="slack",
        formula="Σ_s ⟨∇L_s, w_s − w_{s+1}⟩ / (2 (L_0 − L_t)); at most 1 where no step violated; empty where L_t ≥ L_0",
    ),
    default=Moments.ALWAYS,
    cost=FREE,
)
def trajectory(point: Point) -> Values:
    """Statistics over all steps up to the record, not only the recorded ones."""
    running = point.running
    transitions = (running.num_evaluations - 1).clamp_min(1)
    drop = running.first_loss.double() - point.loss.double()
    return {
        "running_min_scaled_grad_norm_sq": running.running_min,
        "running_mean_scaled_grad_norm_sq": running.total / running.num_evaluations,
        "running_max_scaled_grad_norm_sq": running.running_max,
        "violating_share": running.num_violations.double() / transitions,
        "checkable_share": running.num_checkable.double() / transitions,
        "slack": (running.total_promised / (2 * drop)).where(drop > 0, float("nan")),
    }
