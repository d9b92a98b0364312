"""A lane's gradients and G against finite differences and against training written out in plain NumPy."""

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from reading import read

from suite.data.pairs import draw_pairs
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.training.lane import Lane, State
from suite.training.learning_rates import ConstantRule, WidthRule
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent
from suite.training.parametrizations import Parametrization
from suite.training.schedules import Constant, InverseSqrt, Schedule

# a and b of the (input, hidden, output) layers, output variance v, and P, as functions of width and embedding_dim
TABLE: dict[str, tuple[tuple, tuple, Callable, Callable]] = {
    "allen-zhu": ((0, 0, 0), (1 / 2, 1 / 2, 0), lambda d: 1 / d, lambda m, d: d / m),
    "standard": ((0, 0, 0), (0, 1 / 2, 1 / 2), lambda d: 1, lambda m, d: 1 / m),
    "ntk": ((0, 1 / 2, 1 / 2), (0, 0, 0), lambda d: 1, lambda m, d: 1),
    "mup": ((-1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 1 / 2), lambda d: 1, lambda m, d: 1),
}
CELLS = [(p, s) for p in TABLE for s in ("dot", "cosine") if (p, s) != ("mup", "cosine")]


class PlainTower:
    """One tower as the formulas say it, sample by sample."""

    def __init__(self, index: int, width: int, depth: int, settings: TrialSettings, inputs: np.ndarray) -> None:
        a, b, output_variance, factor = TABLE[settings.encoder.parametrization]
        d = settings.encoder.embedding_dim
        self.inputs, self.factor = inputs, factor(width, d)
        self.multipliers = [width ** -a[0], *[width ** -a[1]] * depth, width ** -a[2]]
        shapes = [(width, inputs.shape[1]), *[(width, width)] * depth, (d, width)]
        variances = [2, *[2] * depth, output_variance(d)]
        spreads = [b[0], *[b[1]] * depth, b[2]]
        self.weights = []
        for layer, (shape, variance, spread) in enumerate(zip(shapes, variances, spreads, strict=True)):
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([settings.seed, 1 + index, layer])))
            self.weights.append(rng.standard_normal(shape) * np.sqrt(variance) / width**spread)
        self.hidden = range(1, depth + 1)

    def activations(self, x: np.ndarray) -> list[np.ndarray]:
        """x, h_0, ..., h_L, z."""
        values = [x]
        for multiplier, w in zip(self.multipliers, self.weights, strict=True):
            values.append(multiplier * w @ values[-1])
            if len(values) <= len(self.weights):
                values[-1] = np.maximum(values[-1], 0)
        return values

    def embeddings(self) -> np.ndarray:
        return np.array([self.activations(x)[-1] for x in self.inputs])

    def gradients(self, z_gradients: np.ndarray) -> list[np.ndarray]:
        """Of the hidden weights, by backpropagation of dL/dz (n, d)."""
        totals = [np.zeros_like(w) for w in self.weights]
        for x, signal in zip(self.inputs, z_gradients, strict=True):
            values = self.activations(x)
            for layer in reversed(range(len(self.weights))):
                totals[layer] += self.multipliers[layer] * np.outer(signal, values[layer])
                signal = self.multipliers[layer] * self.weights[layer].T @ signal * (values[layer] > 0)
        return [totals[layer] for layer in self.hidden]


def plain_loss(q: np.ndarray, k: np.ndarray, loss: InfoNCE) -> tuple[float, np.ndarray, np.ndarray]:
    """InfoNCE with its gradients in q and k (n, d)."""
    if loss.similarity == "cosine":
        q_norms, k_norms = np.linalg.norm(q, axis=1, keepdims=True), np.linalg.norm(k, axis=1, keepdims=True)
        q, k = q / q_norms, k / k_norms
    n, total, logit_gradient = len(q), 0.0, np.zeros((len(q), len(q)))
    logits = q @ k.T / loss.temperature
    directions = (logits, logits.T) if loss.symmetric else (logits,)
    for number, scores in enumerate(directions):
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        total -= np.log(np.diag(shares)).mean() / len(directions)
        part = (shares - np.eye(n)) / n / len(directions)
        logit_gradient += part if number == 0 else part.T
    q_gradient, k_gradient = logit_gradient @ k / loss.temperature, logit_gradient.T @ q / loss.temperature
    if loss.similarity == "cosine":
        q_gradient = (q_gradient - q * (q * q_gradient).sum(axis=1, keepdims=True)) / q_norms
        k_gradient = (k_gradient - k * (k * k_gradient).sum(axis=1, keepdims=True)) / k_norms
    return total, q_gradient, k_gradient


def plain_training(settings: TrialSettings, *, eta: float, steps: int) -> tuple[list[dict], list[PlainTower]]:
    """Loss, G, scaled G and G by layer at steps 0 to `steps`, and the towers at the last of them."""
    pairs, shapes = draw_pairs(settings.data, settings.seed), settings.encoder.towers()
    towers = [
        PlainTower(index, shapes[name].width, shapes[name].depth, settings, inputs)
        for index, (name, inputs) in enumerate((("query", pairs.query), ("key", pairs.key)))
    ]
    history = []
    for step in range(steps + 1):
        value, *z_gradients = plain_loss(*(tower.embeddings() for tower in towers), settings.loss)
        gradients = [tower.gradients(g) for tower, g in zip(towers, z_gradients, strict=True)]
        by_layer = [[(g**2).sum() for g in layers] for layers in gradients]
        scaled = sum(tower.factor * sum(norms) for tower, norms in zip(towers, by_layer, strict=True))
        history.append(
            {
                "loss": value,
                "grad_norm_sq": sum(sum(norms) for norms in by_layer),
                "grad_norm_sq_query": sum(by_layer[0]),
                "grad_norm_sq_key": sum(by_layer[1]),
                "scaled_grad_norm_sq": scaled,
                "grad_norm_sq_by_layer": [*by_layer[0], *by_layer[1]],
            }
        )
        if step < steps:
            for tower, layers in zip(towers, gradients, strict=True):
                for layer, gradient in zip(tower.hidden, layers, strict=True):
                    tower.weights[layer] = tower.weights[layer] - eta * tower.factor * gradient
    return history, towers


def settings_of(
    parametrization: Parametrization, similarity: str, *, symmetric: bool = False, seed: int = 3, **optimizer: object
) -> TrialSettings:
    """Two towers of different width and depth on eight points of the sphere, in float64."""
    return TrialSettings(
        data=Sphere(samples=8, input_dim=5),
        encoder=Encoder(
            width=16, depth=2, embedding_dim=3, parametrization=parametrization, key=KeyEncoder(width=12, depth=3)
        ),
        loss=InfoNCE(similarity=similarity, temperature=0.7, symmetric=symmetric),
        optimizer=GradientDescent(**optimizer),
        seed=seed,
        precision="float64",
    )


def lane_of(settings: TrialSettings, *, slots: int) -> Lane:
    return Lane(settings, slots=slots, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("parametrization", "similarity"), CELLS)
def test_a_lane_trains_like_the_formulas_written_out_in_numpy(
    parametrization: Parametrization, similarity: str, symmetric: bool
):
    trials = [settings_of(parametrization, similarity, symmetric=symmetric, seed=seed) for seed in (3, 4)]
    expected = [plain_training(settings, eta=0.2, steps=12) for settings in trials]
    lane = lane_of(trials[0], slots=2)
    for slot, settings in enumerate(trials):
        assert lane.fill(slot, settings)[0] == 0.2
    for step in range(13):
        lane.advance(1)
        columns = read(lane)
        for slot, (history, _) in enumerate(expected):
            for name, value in history[step].items():
                assert columns[name][slot].tolist() == pytest.approx(value, rel=1e-9), (name, step)
    for slot, (_, towers) in enumerate(expected):
        trained = [w for tower in towers for w in tower.weights[1:-1]]
        state = lane.state(slot)
        for index, weight in enumerate(trained):
            np.testing.assert_allclose(state[f"weight.{index}"], weight, rtol=1e-9, atol=1e-12)


def weights_of(state: State) -> list[np.ndarray]:
    return [state[name] for name in sorted(state) if name.startswith("weight.")]


def losses_at(settings: TrialSettings, points: list[State]) -> np.ndarray:
    """Loss of the same trial at many weights: one slot each."""
    lane = lane_of(settings, slots=len(points))
    for slot, point in enumerate(points):
        lane.fill(slot, settings, point)
    lane.advance(1)
    return read(lane)["loss"].numpy()


def shifted(state: State, name: str, index: tuple[int, ...], by: float) -> State:
    weight = state[name].copy()
    weight[index] += by
    return {**state, name: weight}


def finite_differences(settings: TrialSettings, state: State, h: float = 1e-6) -> list[np.ndarray]:
    """Central differences of the loss in every trained weight of both towers."""
    gradients = []
    for name in sorted(name for name in state if name.startswith("weight.")):
        indices = list(np.ndindex(state[name].shape))
        up = losses_at(settings, [shifted(state, name, index, h) for index in indices])
        down = losses_at(settings, [shifted(state, name, index, -h) for index in indices])
        gradients.append(((up - down) / (2 * h)).reshape(state[name].shape))
    return gradients


@pytest.mark.parametrize(("parametrization", "similarity"), CELLS)
def test_the_step_and_scaled_g_are_those_of_finite_differences(parametrization: Parametrization, similarity: str):
    settings = settings_of(parametrization, similarity)
    lane = lane_of(settings, slots=1)
    eta, *_ = lane.fill(0, settings)
    before = lane.state(0)
    lane.advance(1)
    gradients = finite_differences(settings, before)
    width_factor = TABLE[parametrization][3]
    factors = [width_factor(16, 3)] * 2 + [width_factor(12, 3)] * 3
    norms = [(g**2).sum() for g in gradients]
    columns = read(lane)
    assert columns["grad_norm_sq_by_layer"][0].tolist() == pytest.approx(norms, rel=1e-6)
    assert columns["grad_norm_sq"].item() == pytest.approx(sum(norms), rel=1e-6)
    assert columns["scaled_grad_norm_sq"].item() == pytest.approx(np.dot(factors, norms), rel=1e-6)
    lane.advance(1)
    for old, new, gradient, factor in zip(
        weights_of(before), weights_of(lane.state(0)), gradients, factors, strict=True
    ):
        np.testing.assert_allclose(old - new, eta * factor * gradient, rtol=1e-5, atol=1e-9)


def test_displacement_is_the_distance_of_the_hidden_weights_from_their_draw():
    settings = settings_of("allen-zhu", "cosine")
    lane = lane_of(settings, slots=1)
    lane.fill(0, settings)
    start = weights_of(lane.state(0))
    lane.advance(20)
    moved = sum(((new - old) ** 2).sum() for new, old in zip(weights_of(lane.state(0)), start, strict=True)) ** 0.5
    drawn = sum((old**2).sum() for old in start) ** 0.5
    columns = read(lane)
    assert moved > 0
    assert columns["displacement"].item() == pytest.approx(moved, rel=1e-12)
    assert columns["relative_displacement"].item() == pytest.approx(moved / drawn, rel=1e-12)


def test_the_constant_rule_moves_the_query_tower_at_its_value_and_the_key_tower_in_proportion():
    value = 0.01
    settings = settings_of("allen-zhu", "cosine", learning_rate=ConstantRule(value=value))
    lane = lane_of(settings, slots=1)
    eta, *_ = lane.fill(0, settings)
    assert eta * 3 / 16 == pytest.approx(value, rel=1e-12)
    history, towers = plain_training(settings, eta=value * 16 / 3, steps=5)
    lane.advance(6)
    assert read(lane)["loss"].item() == pytest.approx(history[5]["loss"], rel=1e-12)
    np.testing.assert_allclose(weights_of(lane.state(0))[2], towers[1].weights[1], rtol=1e-10)


def test_the_width_rule_gives_c_itself():
    assert WidthRule(c=0.3).eta(factor=17.0, sharpness=lambda: 1.0) == 0.3


def on(device: str, **changes: object) -> Lane:
    settings = settings_of("standard", "cosine", **changes)
    stops = {"stop_below": 1e-9, "stop_share": 1e-3}
    lane = Lane(settings, slots=2, budget=Budget(steps=1000), device=torch.device(device), **stops)
    for slot in range(2):
        lane.fill(slot, settings)
    return lane


@pytest.mark.parametrize("schedule", [Constant(), InverseSqrt(warm_up=3)], ids=lambda s: s.name)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_step_is_looked_at_from_the_host(schedule: Schedule, momentum: float):
    """On the meta device tensors have no values: to read one there is an error, as it would be a wait on a GPU."""
    lane = on("meta", schedule=schedule, momentum=momentum)
    lane.advance(1)
    lane.advance(3)
    with pytest.raises(RuntimeError, match="meta"):
        lane.active.tolist()


def places(lane: Lane) -> dict[str, int]:
    """Where every tensor is that a step of plain descent reads or writes."""
    known = [*lane.pair.tensors(), *lane._backprop.gradients, lane._backprop.norms_sq, lane._now, lane._valid_now]
    known += [
        lane._largest,
        lane.eta,
        lane.step,
        lane.active,
        lane._moving,
        lane._counted,
        lane._last_step,
        *lane._embeddings_now,
    ]
    return {str(index): tensor.data_ptr() for index, tensor in enumerate(known)}


def test_what_a_step_works_on_stays_in_its_place_when_slots_are_refilled():
    """So that steps captured as a graph on a GPU go on with the trials that are in the slots by then."""
    lane = on("cpu")
    lane.advance(2)
    before = places(lane)
    lane.free(0)
    lane.advance(1)
    lane.fill(0, settings_of("standard", "cosine", seed=9), None)
    lane.advance(5)
    assert places(lane) == before


def test_weights_move_at_eta_times_the_factor_of_the_parametrization_where_eta_is_what_a_trial_is_said_to_have():
    """The convention that the prediction lr-width relies on: rates of weights are `learning_rate` times P."""
    encoder = Encoder(width=32, depth=1, embedding_dim=4, parametrization="allen-zhu")
    settings = TrialSettings(encoder=encoder, optimizer=GradientDescent(learning_rate=WidthRule(c=0.7)))
    lane = Lane(settings, slots=1, budget=Budget(steps=2), stop_below=0, device=torch.device("cpu"))
    eta, *_ = lane.fill(0, settings)
    lane.advance(1)
    before = [weight.detach().clone() for weight in lane.pair.weights]
    gradients = [gradient.clone() for gradient in lane._backprop.gradients]
    lane.advance(1)
    assert eta == 0.7
    for weight, old, gradient in zip(lane.pair.weights, before, gradients, strict=True):
        torch.testing.assert_close(weight.detach(), old - 0.7 * 4 / 32 * gradient)


def test_a_lane_leaves_its_memory_when_it_is_no_longer_used():
    """Not when Python next looks for circles of references: a GPU's memory does not make it look."""
    lane = on("cpu")
    lane.advance(2)
    gone = weakref.ref(lane)
    gc.disable()
    try:
        del lane
        assert gone() is None
    finally:
        gc.enable()
