"""Towers of every kind against the formulas written out for one sample, and the twin against explicit Jacobians."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.training import towers
from suite.training.activations import gain
from suite.training.lane import Lane
from suite.training.learning_rates import WidthRule
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent

M, D, P, L, N = 9, 3, 5, 2, 6


def settings_of(parametrization: str = "standard", *, seed: int = 3, c: float = 0.3, **encoder) -> TrialSettings:
    return TrialSettings(
        data=Sphere(samples=N, input_dim=P),
        encoder=Encoder(width=M, depth=L, embedding_dim=D, parametrization=parametrization, **encoder),
        loss=InfoNCE(similarity="dot", temperature=1.5),
        optimizer=GradientDescent(learning_rate=WidthRule(c=c)),
        precision="float64",
        seed=seed,
    )


def lane_of(settings: TrialSettings, slots: int = 1) -> Lane:
    lane = Lane(settings, slots=slots, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))
    for slot in range(slots):
        lane.fill(slot, settings.model_copy(update={"seed": settings.seed + slot}))
    return lane


PHI = {
    "relu": lambda x: x if x > 0 else 0.0,
    "tanh": math.tanh,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
}
MULTIPLIERS = {  # of the input, hidden and output layers
    "allen-zhu": (1, 1, 1),
    "standard": (1, 1, 1),
    "ntk": (1, M**-0.5, M**-0.5),
    "mup": (M**0.5, 1, M**-0.5),
}


def embedding(x: np.ndarray, w: dict[str, np.ndarray], settings: TrialSettings) -> np.ndarray:
    """z of one sample, from the weights by name."""
    encoder = settings.encoder
    a_in, a_hidden, a_out = MULTIPLIERS[encoder.parametrization]
    phi = np.vectorize(PHI[encoder.activation])
    h = phi(a_in * w["first"] @ x + a_in * w.get("first.bias", 0))
    for layer in range(1, L + 1):
        step = a_hidden * w[f"hidden.{layer}"] @ h + a_in * w.get(f"hidden.{layer}.bias", 0)
        h = phi(h + step / math.sqrt(L)) if encoder.residual else phi(step)
    return a_out * w["last"] @ h


def by_name(tower: towers.TowerSlots, seed: int) -> dict[str, np.ndarray]:
    """Trained weights as they are, frozen ones as they were drawn."""
    drawn = towers.draw_weights(tower.spec, seed=seed, input_dim=P).by_name()
    return drawn | {
        name: w[0].detach().numpy().copy() for name, w in zip(tower.spec.trained, tower.weights, strict=True)
    }


KINDS = [
    {"activation": "tanh"},
    {"activation": "gelu"},
    {"residual": True},
    {"train_ends": True},
    {"train_ends": True, "train_hidden": False},
    {"train_ends": True, "biases": True, "residual": True, "activation": "gelu"},
    {"biases": True},
]


@pytest.mark.parametrize("parametrization", list(MULTIPLIERS))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_embeddings_are_those_of_the_formula_after_some_steps(parametrization: str, kind: dict):
    if parametrization == "allen-zhu" and kind.get("activation", "relu") != "relu":
        with pytest.raises(ValueError, match="where it is linear"):
            settings_of(parametrization, **kind)
        return
    settings = settings_of(parametrization, **kind)
    lane = lane_of(settings)
    lane.advance(6)
    from suite.data.pairs import draw_pairs

    pairs = draw_pairs(settings.data, settings.seed)
    for tower, inputs in zip(lane.pair.towers, (pairs.query, pairs.key), strict=True):
        weights = by_name(tower, settings.seed)
        expected = np.array([embedding(x, weights, settings) for x in inputs])
        np.testing.assert_allclose(tower.embed(tower.weights)[0].detach().numpy(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_gradient_of_every_trained_weight_is_that_of_finite_differences(kind: dict):
    settings = settings_of("ntk", **kind)
    lane = lane_of(settings)
    lane.advance(4)
    pair, h = lane.pair, 1e-6
    gradients = pair.gradients()
    names = [name for tower in pair.towers for name in tower.spec.trained]
    for name, weight, gradient in zip(names, pair.weights, gradients, strict=True):
        flat, rng = weight.detach().view(-1), np.random.default_rng(0)
        for index in rng.choice(len(flat), min(5, len(flat)), replace=False):
            values = []
            for sign in (1, -1):
                flat[index] += sign * h
                values.append(pair.loss(pair.weights)[0].item())
                flat[index] -= sign * h
            assert (values[0] - values[1]) / (2 * h) == pytest.approx(gradient.reshape(-1)[index].item(), abs=2e-8), (
                name
            )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_only_what_is_said_to_be_trained_moves(kind: dict):
    settings = settings_of("standard", **kind)
    lane = lane_of(settings)
    start = [by_name(tower, settings.seed) for tower in lane.pair.towers]
    expected = set()
    if kind.get("train_hidden", True):
        expected |= {f"hidden.{layer}" for layer in (1, 2)}
    if kind.get("train_ends"):
        expected |= {"first", "last"}
    lane.advance(8)
    for tower, old in zip(lane.pair.towers, start, strict=True):
        weights = set(tower.spec.trained)
        assert {name for name in weights if not name.endswith("bias")} == expected
        assert {name for name in weights if name.endswith("bias")} == (
            {f"{name}.bias" for name in expected - {"last"}} if kind.get("biases") else set()
        )
        for name, value in by_name(tower, settings.seed).items():
            assert (np.abs(value - old.get(name, 0)).max() > 0) == (name in weights), name


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_the_gain_keeps_the_second_moment(name: str):
    def moment(x: float) -> float:
        return PHI[name](x) ** 2 * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    total = integrate.quad(moment, -12, 0, epsabs=1e-13)[0] + integrate.quad(moment, 0, 12, epsabs=1e-13)[0]
    assert gain(name) == pytest.approx(1 / total, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "lowest", "highest"),
    [
        ({}, 0.85, 1.15),
        ({"residual": True}, 1.5, 4),  # each layer adds a third of its input's square
        ({"activation": "tanh"}, 0.6, 1.1),  # towards its fixed point, which the first layer starts above
        ({"activation": "gelu"}, 0.9, 1.7),
    ],
    ids=str,
)
def test_layers_keep_the_size_of_what_passes(kind: dict, lowest: float, highest: float):
    settings = TrialSettings(
        data=Sphere(samples=16, input_dim=24),
        encoder=Encoder(width=1024, depth=3, embedding_dim=8, parametrization="ntk", **kind),
        loss=InfoNCE(similarity="dot"),
    )
    tower = lane_of(settings).pair.towers[0]
    h, _ = tower.features_and_embeddings(tower.inputs, tower.weights)
    first, last = (x.square().mean().item() for x in (tower.inputs, h))
    assert lowest < last / first < highest


TWINS = [{}, {"residual": True}, {"train_ends": True}, {"activation": "tanh", "train_ends": True, "biases": True}]


@pytest.mark.parametrize("kind", TWINS, ids=str)
def test_the_twin_is_the_expansion_by_explicit_jacobians(kind: dict):
    settings = settings_of("standard", linearized=True, **kind)
    lane = lane_of(settings)
    full = lane_of(settings_of("standard", **kind)).pair.towers
    at_start = [tower.embed(tower.weights) for tower in lane.pair.towers]
    lane.advance(10)
    for tower, network, z0 in zip(lane.pair.towers, full, at_start, strict=True):
        torch.testing.assert_close(z0, network.embed(network.weights), rtol=1e-12, atol=1e-14)
        jacobians = torch.autograd.functional.jacobian(
            lambda *w, network=network: network.embed(w)[0], tuple(network.weights)
        )
        expected = z0[0].detach().clone()
        for jacobian, w, w0 in zip(jacobians, tower.weights, tower.initial, strict=True):
            expected += (jacobian[:, :, 0] * (w - w0)[0].detach()).flatten(2).sum(-1)
        torch.testing.assert_close(tower.embed(tower.weights)[0].detach(), expected, rtol=1e-11, atol=1e-13)
        assert (expected - z0[0]).norm() > 1e-2


def test_the_twin_follows_the_network_for_a_while_and_longer_when_wide():
    gaps = []
    for width in (16, 256):
        curves = []
        for linearized in (False, True):
            settings = TrialSettings(
                data=Sphere(samples=12, input_dim=8),
                encoder=Encoder(width=width, depth=2, embedding_dim=8, linearized=linearized),
                seed=1,
            )
            lane = lane_of(settings, slots=4)
            lane.advance(60)
            curves.append(lane._history[:60, 0].clone())
        gaps.append((curves[0] - curves[1]).abs().mean().item())
    assert gaps[1] < 0.5 * gaps[0]


def test_blocks_of_samples_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch):
    settings = settings_of("ntk", train_ends=True, biases=True)
    whole = lane_of(settings).pair.gradients()
    monkeypatch.setattr(towers, "BLOCK_ELEMENTS", 2 * M)
    lane = lane_of(settings)
    for ours, expected in zip(lane.pair.gradients(), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="leaves nothing to train"):
        settings_of(train_hidden=False)
