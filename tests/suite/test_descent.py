"""The descent check on real trials: it fires where the rate is too large for the curvature met, and only there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from losses_by_hand import label

from suite.data.digits import Digits
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.training.activations import Activation
from suite.training.learning_rates import LearningRate, SharpnessRule, WidthRule
from suite.training.loop import Job, Loop
from suite.training.losses import DCL, InfoNCE, Loss, NTXent, Sigmoid, Spectral, SupCon
from suite.training.optimizers import GradientDescent

LOSSES_TRIED = [Spectral(), InfoNCE(similarity="dot"), InfoNCE(), NTXent(), DCL(), Sigmoid(), SupCon()]


def settings_of(
    seed: int,
    loss: Loss,
    rule: LearningRate,
    *,
    activation: Activation = "relu",
    precision: str = "float64",
    records_per_decade: int = 16,
) -> TrialSettings:
    smooth = activation != "relu"
    return TrialSettings(
        data=Digits(samples=8) if "labels" in loss.needs else Sphere(samples=8, input_dim=6),
        encoder=Encoder(
            width=16,
            depth=2,
            embedding_dim=4,
            activation=activation,
            parametrization="ntk" if smooth else "allen-zhu",
        ),
        loss=loss,
        optimizer=GradientDescent(learning_rate=rule),
        seed=seed,
        precision=precision,
        records_per_decade=records_per_decade,
    )


@dataclass
class Path:
    """One trial: its row, its records, and the sharpness at each of them, if asked for."""

    row: dict[str, Any]
    records: list[dict[str, Any]]
    sharpness: list[float]

    @property
    def largest(self) -> float:
        """Of eta times sharpness: below 1, every step on a quadratic model lowers the loss by half the promise."""
        return self.row["learning_rate"] * max(self.sharpness)


def paths(trials: list[TrialSettings], *, steps: int, sharp: bool = False) -> list[Path]:
    """Trained side by side."""
    jobs = [Job(trial_id=str(index), settings=trial) for index, trial in enumerate(trials)]
    loop = Loop(jobs, slots=len(jobs), budget=Budget(steps=steps), stop_below=0)
    sharpness: list[list[float]] = [[] for _ in jobs]
    while not loop.done:
        loop.run_chunk()
        for slot, values in enumerate(sharpness if sharp else []):
            values.append(loop.lane.pair.sharpness(slot))
    outcomes, records = loop.take()
    rows = {outcome.trial_id: outcome.row for outcome in outcomes}
    return [
        Path(rows[job.trial_id], [row for row in records if row["trial_id"] == job.trial_id], values)
        for job, values in zip(jobs, sharpness, strict=True)
    ]


@pytest.mark.parametrize("loss", [Spectral(), InfoNCE(), DCL()], ids=label)
def test_a_rate_above_the_largest_stable_one_violates(loss: Loss):
    """eta = 3 / sharpness at the start, and the path stays where eta exceeds 1 / sharpness, mostly 2 / sharpness."""
    for path in paths([settings_of(seed, loss, SharpnessRule(fraction=1.5)) for seed in range(3)], steps=100):
        assert path.row["ended_by"] == "diverged" or path.row["violating_share"] > 0.3
        assert path.row["checkable_share"] > 0.9


def test_a_rate_far_above_diverges_or_violates():
    for path in paths([settings_of(seed, Spectral(), SharpnessRule(fraction=10)) for seed in range(3)], steps=100):
        assert path.row["ended_by"] == "diverged" or path.row["violating_share"] > 0.3


@pytest.mark.parametrize(
    ("loss", "activation"),
    [*((loss, "tanh") for loss in LOSSES_TRIED), (Spectral(), "gelu"), (InfoNCE(), "gelu")],
    ids=lambda value: label(value) if isinstance(value, Loss) else value,
)
def test_a_rate_below_the_inverse_curvature_of_the_whole_path_never_violates(loss: Loss, activation: Activation):
    """Smooth activations: with ReLU, the gradient jumps where a unit switches, which no Hessian of a point shows."""
    trials = [
        settings_of(seed, loss, SharpnessRule(fraction=0.05), activation=activation, records_per_decade=1000)
        for seed in range(3)
    ]
    met = paths(trials, steps=25, sharp=True)
    within = [path for path in met if path.largest < 1]
    assert len(within) >= 2
    for path in within:
        assert len(path.sharpness) == len(path.records) == 26  # at every step
        assert path.row["violating_share"] == 0
        assert path.row["checkable_share"] == 1
        assert 0 < path.row["slack"] <= 1
        losses = [record["loss"] for record in path.records]
        assert (np.diff(losses) < 0).all()


@pytest.mark.parametrize("loss", LOSSES_TRIED, ids=label)
def test_slack_is_at_most_one_wherever_no_step_violates(loss: Loss):
    """At any rate and with any curvature: the sum of what each step says."""
    rules = [WidthRule(c=0.02), SharpnessRule(fraction=0.02), SharpnessRule(fraction=0.1), SharpnessRule(fraction=0.6)]
    met = paths([settings_of(seed, loss, rule) for rule in rules for seed in range(3)], steps=60)
    calm = [path.row for path in met if path.row["violating_share"] == 0]
    assert len(calm) >= 3
    for row in calm:
        assert row["slack"] is not None
        assert row["slack"] <= 1 + 1e-9


def checkable(path: Path, *, until: int) -> int:
    """Steps up to this record on which the check could fire."""
    record = next(record for record in path.records if record["step"] == until)
    return round(record["checkable_share"] * until)


def test_in_single_precision_a_step_at_rounding_level_is_neither_checkable_nor_violating():
    """Paths that converge to the infimum -4: in double precision the same steps are checked, and violate nothing."""
    rule, steps = WidthRule(c=0.2), 1500
    single, double = (
        paths([settings_of(seed, Spectral(), rule, activation="tanh", precision=p) for seed in range(3)], steps=steps)
        for p in ("float32", "float64")
    )
    for path, exact in zip(single, double, strict=True):
        assert path.row["loss"] == pytest.approx(-4, abs=1e-3)
        assert path.row["learning_rate"] * path.row["scaled_grad_norm_sq"] / 2 < 8 * np.finfo(np.float32).eps * 4
        assert path.row["checkable_share"] < 0.95
        assert checkable(path, until=steps) == checkable(path, until=path.records[-2]["step"])  # none of late
        assert path.row["violating_share"] == 0
        assert exact.row["checkable_share"] == 1
        assert exact.row["violating_share"] == 0


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_where_the_loss_is_rounding_alone_nothing_is_counted(precision: str):
    (path,) = paths([settings_of(0, Spectral(), WidthRule(c=0.2), precision=precision)], steps=1500)
    assert path.row["loss"] == pytest.approx(-4, abs=1e-5)
    assert path.row["scaled_grad_norm_sq"] < 1e-10
    assert path.row["checkable_share"] < 0.7
    assert path.row["violating_share"] == 0
