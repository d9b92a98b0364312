"""Gradients in weight and output space against finite differences and sums, and running columns against a scan."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from losses_by_hand import VARIANTS, by_hand, label
from towers_by_hand import Trial, lane_of, point_of, seeds, weights_of

from suite.data.digits import Digits
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.measurement.catalog import measured, parse_measure
from suite.measurement.registry import MEASUREMENTS, Values
from suite.training.couplings import Alternating, Coupling, Joint, Momentum, Shared
from suite.training.lane import Lane
from suite.training.learning_rates import WidthRule
from suite.training.loop import Job, Loop
from suite.training.losses import InfoNCE, Loss, Sigmoid
from suite.training.optimizers import Adam, GradientDescent, Optimizer
from suite.training.schedules import InverseSqrt

KINDS: list[dict[str, Any]] = [
    {},
    {"parametrization": "allen-zhu", "key": KeyEncoder(width=5, depth=3)},
    {"train_ends": True, "biases": True, "residual": True},
    {"loss": Sigmoid(trainable=True), "linearized": True},
    {"coupling": Shared(), "parametrization": "ntk", "train_ends": True},
    {"loss": Sigmoid(trainable=True), "coupling": Shared(), "biases": True},
]


def settings_of(
    loss: Loss | None = None,
    coupling: Coupling | None = None,
    optimizer: Optimizer | None = None,
    *,
    per_decade: int = 16,
    **encoder: Any,
) -> TrialSettings:
    loss = loss or InfoNCE()
    return TrialSettings(
        data=Digits(samples=5) if "labels" in loss.needs else Sphere(samples=5, input_dim=4),
        encoder=Encoder(**{"width": 8, "depth": 2, "embedding_dim": 3, "parametrization": "standard"} | encoder),
        loss=loss,
        coupling=coupling or Joint(),
        optimizer=optimizer or GradientDescent(),
        seed=3,
        precision="float64",
        records_per_decade=per_decade,
    )


def read(lane: Lane, name: str) -> Values:
    return measured(point_of(lane), MEASUREMENTS[name])


@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda c: c.name)
@pytest.mark.parametrize("loss", VARIANTS, ids=label)
def test_g_z_is_that_of_finite_differences_in_the_embeddings(loss: Loss, coupling: Coupling):
    trials = seeds(settings_of(loss, coupling), 3, 4)
    lane = lane_of(*trials, steps=3)
    found, gradient = read(lane, "output-gradient"), read(lane, "gradient")
    slot, trial = 1, Trial(trials[1])
    embedded = [z[slot].detach() for z in lane.pair.embeddings(lane.pair.weights)]
    extra: dict[str, Any] = {name: trial.extras[name][0].tolist() for name in loss.needs}
    extra |= {name: scalar[slot, 0].item() for name, scalar in lane.pair.scalars.items()}
    total, h = 0.0, 1e-5
    for view, z in enumerate(embedded):
        for index in np.ndindex(*z.shape):
            ends = []
            for by in (h, -h):
                moved = [other.clone() for other in embedded]
                moved[view][index] += by
                ends.append(by_hand(loss, *moved, **extra))
            total += ((ends[0] - ends[1]) / (2 * h)) ** 2
    assert total > 1e-10
    assert found["output_grad_norm_sq"][slot].item() == pytest.approx(total, rel=1e-6)
    ratio = gradient["scaled_grad_norm_sq"][slot].item() / 2 / total
    assert found["grad_ratio"][slot].item() == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_layers_and_towers_add_up_to_the_gradient_of_the_formulas(kind: dict[str, Any]):
    trials = seeds(settings_of(**kind), 3, 4)
    lane = lane_of(*trials, steps=4)
    found, ratio = read(lane, "gradient"), read(lane, "output-gradient")
    for slot, settings in enumerate(trials):
        trial, at = Trial(settings), {name: column[slot].tolist() for name, column in found.items()}
        weights = weights_of(lane, slot)
        squares = [float((g**2).sum()) for g in trial.gradients(weights)]
        scaled = [p * g for p, g in zip(trial.factors, squares, strict=True)]
        count = [len(names) for names in trial.trained] + [0]
        parts = {"query": slice(0, count[0]), "key": slice(count[0], count[0] + count[1])}
        assert at["loss"] == pytest.approx(trial.loss(weights).item(), rel=1e-12)
        assert at["grad_norm_sq_by_layer"] == pytest.approx(squares, rel=1e-9)
        assert at["scaled_grad_norm_sq_by_layer"] == pytest.approx(scaled, rel=1e-9)
        assert at["grad_norm_sq"] == pytest.approx(sum(squares), rel=1e-9)
        assert at["scaled_grad_norm_sq"] == pytest.approx(sum(scaled), rel=1e-9)
        for tower, part in parts.items():
            assert at[f"grad_norm_sq_{tower}"] == pytest.approx(sum(squares[part]), rel=1e-9)
            assert at[f"scaled_grad_norm_sq_{tower}"] == pytest.approx(sum(scaled[part]), rel=1e-9)
        depths = [tower.depth for tower in settings.encoder.towers().values()]
        expected = sum(scaled) / np.mean(depths) / ratio["output_grad_norm_sq"][slot].item()
        assert ratio["grad_ratio"][slot].item() == pytest.approx(expected, rel=1e-9)
        assert np.isnan(at["scaled_update_norm_sq"])


@pytest.mark.parametrize(
    ("coupling", "optimizer"),
    [(Momentum(mu=0.9), GradientDescent()), (Alternating(), GradientDescent()), (Joint(), Adam())],
    ids=["momentum", "alternating", "adam"],
)
def test_the_update_s_norm_is_that_of_the_step_that_led_here(coupling: Coupling, optimizer: Optimizer):
    trials = seeds(settings_of(coupling=coupling, optimizer=optimizer, train_ends=True), 3, 4)
    lane = lane_of(*trials)
    assert read(lane, "gradient")["scaled_update_norm_sq"].isnan().all()
    for _ in range(3):
        before = [weights_of(lane, slot) for slot in (0, 1)]
        lane.advance(1)
        found = read(lane, "gradient")["scaled_update_norm_sq"]
        for slot, settings in enumerate(trials):
            steps = [new - old for new, old in zip(weights_of(lane, slot), before[slot], strict=True)]
            expected = sum(float((d**2).sum()) / p for d, p in zip(steps, Trial(settings).factors, strict=False))
            assert found[slot].item() == pytest.approx(expected / 0.2**2, rel=1e-9)


def records_of(trials: list[TrialSettings], *, steps: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Records by trial and step, of trials that queue for two slots."""
    jobs = [Job(trial_id=str(settings.seed), settings=settings) for settings in trials]
    loop = Loop(jobs, slots=2, budget=Budget(steps=steps), stop_below=0, measure=parse_measure("none"))
    while not loop.done:
        loop.run_chunk()
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for record in loop.take()[1]:
        rows.setdefault(record["trial_id"], {})[record["step"]] = record
    return rows


OPTIMIZERS = {
    "plain": GradientDescent(learning_rate=WidthRule(c=0.002)),
    "at-the-edge": GradientDescent(learning_rate=WidthRule(c=3.0)),
    "schedule": GradientDescent(learning_rate=WidthRule(c=2.0), schedule=InverseSqrt(steps=20)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_running_columns_are_those_of_a_run_that_records_every_step(optimizer: str):
    """Also between the records: those of a sparse run say what happened at steps which it did not record."""
    rule, steps = OPTIMIZERS[optimizer], 250
    dense = records_of(seeds(settings_of(optimizer=rule, per_decade=1000), 3, 4, 5), steps=steps)
    sparse = records_of(seeds(settings_of(optimizer=rule, per_decade=4), 3, 4, 5), steps=steps)
    unit, violated = np.finfo(float).eps, 0
    for name, every in dense.items():
        assert list(every) == list(range(steps + 1))
        assert len(sparse[name]) < 15
        g = [every[step]["scaled_grad_norm_sq"] for step in range(steps + 1)]
        loss = [every[step]["loss"] for step in range(steps + 1)]
        rates = [rule.learning_rate.c * (1 if optimizer != "schedule" else (1 + t / 20) ** -0.5) for t in range(steps)]
        promised = [rate * value for rate, value in zip(rates, g, strict=False)]
        drops = [a - b for a, b in itertools.pairwise(loss)]
        slacks = [8 * unit * abs(value) for value in loss]
        violating = [d < p / 2 - s for d, p, s in zip(drops, promised, slacks, strict=False)]
        checkable = [p / 2 > s for p, s in zip(promised, slacks, strict=False)]
        violated += sum(violating)
        for rows in (every, sparse[name]):
            for step, row in rows.items():
                so_far = g[: step + 1]
                assert row["running_min_scaled_grad_norm_sq"] == min(so_far)
                assert row["running_max_scaled_grad_norm_sq"] == max(so_far)
                assert row["running_mean_scaled_grad_norm_sq"] == pytest.approx(np.mean(so_far), rel=1e-12)
                assert row["relative_grad_norm_sq"] == pytest.approx(g[step] / max(so_far), rel=1e-14)
                assert row["violating_share"] == pytest.approx(sum(violating[:step]) / max(step, 1), rel=1e-12)
                assert row["checkable_share"] == pytest.approx(sum(checkable[:step]) / max(step, 1), rel=1e-12)
                if loss[step] < loss[0]:
                    slack = sum(promised[:step]) / (2 * (loss[0] - loss[step]))
                    assert row["slack"] == pytest.approx(slack, rel=1e-9)
                    assert slack <= 1 or any(violating[:step])
                else:
                    assert "slack" not in row
    assert (violated > 0) == (optimizer != "plain")


def test_the_loss_itself_has_a_part_of_the_gradient_beside_the_towers():
    found = read(lane_of(settings_of(Sigmoid(trainable=True))), "gradient")
    at = {name: column[0] for name, column in found.items()}
    own = at["grad_norm_sq_by_layer"][-2:].sum()
    assert own > 0
    torch.testing.assert_close(at["grad_norm_sq"], at["grad_norm_sq_query"] + at["grad_norm_sq_key"] + own)


def test_dead_samples_are_counted_by_view():
    for seed in range(30):
        settings = settings_of(width=2).model_copy(update={"seed": seed})
        found = read(lane_of(settings), "loss-diagnostics")
        trial = Trial(settings)
        for view, name in enumerate(("query", "key")):
            expected = np.mean([not row.any() for row in trial.z(view, trial.start).numpy()])
            assert found[f"dead_share_{name}"].item() == expected
