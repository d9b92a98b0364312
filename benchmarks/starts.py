"""The suite's own draws as plain arrays, so that every peer begins where the suite does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.pair import Start
from suite.data.pairs import draw_pairs
from suite.loading import load_experiment
from suite.training.losses import InfoNCE
from suite.training.shapes import tower_specs
from suite.training.towers import draw_weights
from suite.trials import Trial, expand


def trials_of(file: Path, **overrides: object) -> list[Trial]:
    """The trials of an experiment, with settings overridden as in `command.setting`."""
    words = [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
    return expand(load_experiment(file, overrides=words)).trials


def start_of(trial: Trial) -> Start:
    """Where the trial begins; it must be a plain one, with ReLU towers between fixed ends and no multipliers."""
    settings = trial.settings
    encoder, rule = settings.encoder, settings.optimizer.learning_rate
    assert (encoder.parametrization, encoder.activation, rule.rule) == ("allen-zhu", "relu", "width")
    assert isinstance(settings.loss, InfoNCE)
    assert settings.loss.similarity == "cosine"
    pairs = draw_pairs(settings.data, settings.seed)
    views, specs = (pairs.query, pairs.key), tower_specs(settings)
    drawn = [draw_weights(s, seed=settings.seed, input_dim=v.shape[1]) for s, v in zip(specs, views, strict=True)]
    factor = specs[0].learning_rate_factor
    return Start(
        trial_id=trial.trial_id,
        shape=(encoder.width, encoder.depth),
        rate=rule.eta(factor=factor, sharpness=lambda: 1.0) * factor,
        factor=factor,
        temperature=settings.loss.temperature,
        features=[_single(np.maximum(v @ w.first.T, 0)) for v, w in zip(views, drawn, strict=True)],
        hidden=[[_single(h) for h in w.hidden] for w in drawn],
        last=[_single(w.last) for w in drawn],
    )


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)
