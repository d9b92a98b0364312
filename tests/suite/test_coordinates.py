"""Coordinate check: how the first-order change by one step scales with width, as derived in docs/science.md."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from suite.data.digits import Digits
from suite.experiment import Encoder, TrialSettings
from suite.training.losses import InfoNCE
from suite.training.pair import Pair

WIDTHS = (128, 512, 2048)
SEEDS, SLOTS = 64, 8
SIMILARITY, TEMPERATURE = "dot", 4.0  # d/2, so that logits of size d do not saturate the softmax

# of the displacement of w, the features h_L and the logits, in both towers together
EXPONENTS = {
    "allen-zhu": (-0.5, -0.5, 0.0),
    "standard": (-0.5, 0.0, 0.0),
    "ntk": (0.0, 0.0, 0.0),
    "mup": (-0.5, 0.0, -1.0),
}


def settings_of(parametrization: str, width: int, *, train_ends: bool) -> TrialSettings:
    return TrialSettings(
        data=Digits(samples=8),
        encoder=Encoder(width=width, depth=1, embedding_dim=8, parametrization=parametrization, train_ends=train_ends),
        loss=InfoNCE(similarity=SIMILARITY, temperature=0.5 if parametrization == "allen-zhu" else TEMPERATURE),
    )


def changes(settings: TrialSettings, seeds: Iterable[int]) -> np.ndarray:
    """Size of the three changes per unit of eta, (3, seeds): a derivative along -P grad, not a finite step."""
    device = torch.device("cpu")
    pair = Pair(settings, slots=SLOTS, dtype=torch.float32, device=device)
    waiting, found = list(seeds), []
    for first in range(0, len(waiting), SLOTS):
        for slot, seed in enumerate(waiting[first : first + SLOTS]):
            pair.fill(slot, settings.model_copy(update={"seed": seed}))
        steps = tuple(-factor * g for factor, g in zip(pair.factors, pair.gradients(), strict=True))

        def features_and_logits(*weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            parts = [weights[pair.parts[name]] for name in ("query", "key")]
            both = zip(pair.towers, parts, strict=True)
            (h, z), (h_key, z_key) = (tower.features_and_embeddings(tower.inputs, part) for tower, part in both)
            return h, h_key, z @ z_key.mT

        _, (dh, dh_key, ds) = torch.autograd.functional.jvp(features_and_logits, tuple(pair.weights), steps)
        displacement = sum(step.flatten(1).square().sum(1) for step in steps).sqrt()
        features = (dh.square().sum((1, 2)) + dh_key.square().sum((1, 2))).sqrt()
        found.append(torch.stack([displacement, features, ds.square().mean((1, 2)).sqrt()]).numpy())
    return np.concatenate(found, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("train_ends", [False, True])
@pytest.mark.parametrize("parametrization", list(EXPONENTS))
def test_changes_scale_with_width_as_derived(parametrization: str, train_ends: bool):
    logs = [
        np.log(changes(settings_of(parametrization, width, train_ends=train_ends), range(SEEDS))).mean(1)
        for width in WIDTHS
    ]
    slopes = np.polyfit(np.log(WIDTHS), np.array(logs), 1)[0]
    np.testing.assert_allclose(slopes, EXPONENTS[parametrization], atol=0.1)
