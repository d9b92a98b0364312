"""Parametrizations: the same system under frozen ends, and a scaled G at the start that width does not change."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from suite.data.digits import Digits
from suite.experiment import Budget, Encoder, TrialSettings
from suite.training.lane import Lane
from suite.training.losses import InfoNCE
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
        values.append(lane.read()["scaled_grad_norm_sq"].numpy())
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
