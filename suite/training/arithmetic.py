"""What a trial costs in parameters, floating-point operations and memory, from its shape alone."""

from __future__ import annotations

import math

from suite.experiment import TrialSettings
from suite.training.losses import BLOCK_ELEMENTS
from suite.training.shapes import TowerSpec, tower_specs


def num_parameters(settings: TrialSettings) -> int:
    """Trained parameters of one trial, those of the loss included."""
    towers = sum(math.prod(shape) for spec in tower_specs(settings) for shape in spec.trained.values())
    return towers + len(settings.loss.parameters())


def flops_per_step(settings: TrialSettings) -> float:
    """Floating-point operations of one step of one trial, matrix products only, each counted once.

    A step takes the full batch's gradient, and where the optimizer or the coupling wants one, that of a batch or a
    second one.
    """
    n, batch = settings.data.samples, settings.optimizer.batch
    further = settings.coupling.evaluations - 1 if batch is None else settings.coupling.evaluations
    return _flops_per_gradient(settings, n) + further * _flops_per_gradient(settings, batch or n)


def _flops_per_gradient(settings: TrialSettings, n: int) -> float:
    views = 2 * tower_specs(settings) if settings.coupling.one_tower else tower_specs(settings)
    return sum(_tower_flops(spec, n) for spec in views) + 6 * n**2 * settings.encoder.embedding_dim


def _tower_flops(spec: TowerSpec, n: int) -> float:
    """One product forward per layer, one for the gradient of each trained weight, and one for the gradient of each
    input that depends on a trained weight; a linearized tower carries a tangent beside everything."""
    products, behind_trained = 0.0, False
    for layer in spec.layers:
        products += 2 * n * math.prod(layer.shape) * (1 + layer.trained + behind_trained)
        behind_trained |= layer.trained
    return products * (2 if spec.linearized else 1)


def slot_bytes(settings: TrialSettings, *, itemsize: int) -> int:
    """Memory of one slot: weights, their draw, gradient and buffers; activations and similarities kept for it; and a
    place in the room where its end waits to be measured, also in double precision."""
    n = settings.data.samples
    specs = tower_specs(settings)
    trained = sum(math.prod(shape) for spec in specs for shape in spec.trained.values())
    frozen = sum(math.prod(layer.shape) for spec in specs for layer in spec.layers if not layer.trained)
    weights = (3 + settings.optimizer.num_buffers) * trained + frozen + 3 * (2 * trained + frozen)
    activations = sum(n * spec.width * (1 + 4 * spec.depth) * (2 if spec.linearized else 1) for spec in specs)
    return itemsize * (weights + activations + 6 * min(n**2, BLOCK_ELEMENTS))
