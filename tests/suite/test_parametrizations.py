"""Parametrizations: the same system under frozen ends, and a scaled G at the start that width does not change."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from reading import read

from suite.data.digits import Digits
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.training.lane import Lane
from suite.training.learning_rates import WidthRule
from suite.training.losses import InfoNCE, Sigmoid
from suite.training.optimizers import GradientDescent
from suite.training.parametrizations import Parametrization

WIDTHS = (64, 256, 1024)
SEEDS = 64
SLOTS = 8


def lane_of(settings: TrialSettings, slots: int) -> Lane:
    return Lane(settings, slots=slots, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))


def at_start(settings: TrialSettings, seeds: Iterable[int]) -> np.ndarray:
    """Scaled G before the first step, one value per seed."""
    values, waiting = [], list(seeds)
    lane = lane_of(settings, SLOTS)
    for first in range(0, len(waiting), SLOTS):
        for slot, seed in enumerate(waiting[first : first + SLOTS]):
            lane.fill(slot, settings.model_copy(update={"seed": seed}))
        lane.advance(1)
        values.append(read(lane)["scaled_grad_norm_sq"].numpy())
    return np.concatenate(values)


@pytest.mark.parametrize(
    ("parametrization", "similarity", "temperature", "slope"),
    [
        ("allen-zhu", "cosine", 0.5, 0),
        ("allen-zhu", "dot", 0.5, 0),
        ("standard", "dot", 4.0, 0),  # d/2: at 0.5 the logits, of size d, saturate the softmax
        ("ntk", "dot", 4.0, 0),
        ("mup", "dot", 0.5, -1),
    ],
)
def test_scaled_g_at_the_start_depends_on_width_as_the_parametrization_says(
    parametrization: Parametrization, similarity: str, temperature: float, slope: float
):
    logs = []
    for width in WIDTHS:
        settings = TrialSettings(
            data=Digits(samples=16),
            encoder=Encoder(width=width, depth=1, embedding_dim=8, parametrization=parametrization),
            loss=InfoNCE(similarity=similarity, temperature=temperature),
        )
        logs.append(np.log(at_start(settings, range(SEEDS))).mean())
    assert np.polyfit(np.log(WIDTHS), logs, 1)[0] == pytest.approx(slope, abs=0.1)


def losses(settings: TrialSettings, steps: int) -> list[float]:
    lane = lane_of(settings, 1)
    lane.fill(0, settings)
    values = []
    for _ in range(steps):
        lane.advance(1)
        values.append(read(lane)["loss"].item())
    return values


@pytest.mark.parametrize("width", [24, 100])
@pytest.mark.parametrize(
    ("parametrization", "similarity"),
    [("allen-zhu", "cosine"), ("ntk", "cosine"), ("allen-zhu", "dot"), ("ntk", "dot"), ("mup", "dot")],
)
def test_with_frozen_ends_all_are_the_same_system(parametrization: Parametrization, similarity: str, width: int):
    """Up to the scale of z, which dot can undo by the temperature, and to the rate at which W itself moves."""
    d, c = 6, 0.3
    z_norm_sq = {"allen-zhu": 1, "ntk": d, "mup": d / width}[parametrization]  # d for standard
    factor = {"allen-zhu": d, "ntk": 1, "mup": width}[parametrization]  # of eta P m^-2a against standard's

    def settings(name: Parametrization, temperature: float, rate: float) -> TrialSettings:
        return TrialSettings(
            data=Digits(samples=12),
            encoder=Encoder(width=width, depth=2, embedding_dim=d, parametrization=name),
            loss=InfoNCE(similarity=similarity, temperature=temperature),
            optimizer=GradientDescent(learning_rate=WidthRule(c=rate)),
            precision="float64",
        )

    scale = z_norm_sq / d if similarity == "dot" else 1.0
    ours = losses(settings(parametrization, 3.0 * scale, c / factor), 40)
    standard = losses(settings("standard", 3.0, c), 40)
    assert standard[0] - standard[-1] > 0.01
    np.testing.assert_allclose(ours, standard, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trainable", [False, True])
def test_scalars_that_the_loss_trains_make_them_several_systems(trainable: bool):
    """Beside the towers they move at eta itself, so no common rate makes up for another factor P."""
    curves = []
    for parametrization, rate in (("allen-zhu", 0.1), ("ntk", 0.6)):
        settings = TrialSettings(
            data=Digits(samples=12),
            encoder=Encoder(width=24, depth=2, embedding_dim=6, parametrization=parametrization),
            loss=Sigmoid(scale=2, bias=-1, trainable=trainable),
            optimizer=GradientDescent(learning_rate=WidthRule(c=rate)),
            precision="float64",
        )
        curves.append(losses(settings, 40))
    assert (np.abs(np.subtract(*curves)).max() > 1e-3) == trainable
    assert (np.abs(np.subtract(*curves)).max() < 1e-10) == (not trainable)


def test_under_mup_two_widths_share_one_rate():
    """So no rate makes a pair of unequal widths that of standard, at the temperature of equal logits."""

    def curve(parametrization: Parametrization, temperature: float, rate: float) -> list[float]:
        settings = TrialSettings(
            data=Digits(samples=12),
            encoder=Encoder(
                width=16, depth=1, embedding_dim=6, parametrization=parametrization, key=KeyEncoder(width=64)
            ),
            loss=InfoNCE(similarity="dot", temperature=temperature),
            optimizer=GradientDescent(learning_rate=WidthRule(c=rate)),
            precision="float64",
        )
        return losses(settings, 40)

    ours = curve("mup", 3.0 / 32, 0.01)
    for factor in (16, 32, 64):
        standard = curve("standard", 3.0, 0.01 * factor)
        assert standard[0] == pytest.approx(ours[0], rel=1e-12)
        assert np.abs(np.subtract(ours, standard)).max() > 1e-3


def test_the_table_of_squared_norms_at_the_start():
    d, width = 8, 512
    for parametrization, expected in {"allen-zhu": 1, "standard": d, "ntk": d, "mup": d / width}.items():
        settings = TrialSettings(
            data=Digits(samples=64),
            encoder=Encoder(width=width, depth=2, embedding_dim=d, parametrization=parametrization),
            loss=InfoNCE(similarity="dot"),
        )
        lane = lane_of(settings, 1)
        norms = []
        for seed in range(8):
            lane.fill(0, settings.model_copy(update={"seed": seed}))
            norms += [t.embed(t.weights).square().sum(-1).mean().item() for t in lane.pair.towers]
        assert np.mean(norms) == pytest.approx(expected, rel=0.15), parametrization
