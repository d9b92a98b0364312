"""Activations against a plain forward pass, NumPy's angles, the map of infinite width, and PyTorch's derivative."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from towers_by_hand import Trial, lane_of, point_of, seeds, weights_of

from suite.data.sphere import Sphere
from suite.experiment import Encoder, KeyEncoder, TrialSettings
from suite.measurement import activations
from suite.measurement.activations import median_angles
from suite.measurement.catalog import measured
from suite.measurement.registry import MEASUREMENTS, MOST_SAMPLES, Values
from suite.training.couplings import Joint, Momentum, Shared
from suite.training.lane import Lane
from suite.training.learning_rates import WidthRule
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent

KINDS: list[dict[str, Any]] = [
    {},
    {"key": KeyEncoder(width=9, depth=3)},
    {"residual": True, "biases": True},
    {"train_ends": True, "biases": True},
    {"train_ends": True, "train_hidden": False, "parametrization": "ntk"},
    {"coupling": Shared(), "activation": "tanh", "train_ends": True},
    {"coupling": Momentum(mu=0.9), "activation": "gelu", "residual": True},
]


def settings_of(samples: int = 9, **kind: Any) -> TrialSettings:
    coupling = kind.pop("coupling", Joint())
    return TrialSettings(
        data=Sphere(samples=samples, input_dim=6),
        encoder=Encoder(**{"width": 14, "depth": 2, "embedding_dim": 3, "parametrization": "standard"} | kind),
        loss=InfoNCE(),
        coupling=coupling,
        optimizer=GradientDescent(learning_rate=WidthRule(c=0.5)),
        seed=3,
        precision="float64",
    )


def read(lane: Lane, name: str) -> Values:
    return measured(point_of(lane), MEASUREMENTS[name])


def layers_of(trial: Trial, view: int, weights: list[torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Input and pre-activation of each layer that is trained or behind a trained one, and of the last."""
    passed = [(h.numpy(), out.numpy()) for h, out in trial.layers(view, weights)]
    return passed if trial.settings.encoder.train_ends else passed[1:]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_flips_are_those_of_a_plain_forward_pass_at_both_weights(kind: dict[str, Any]):
    trials = seeds(settings_of(**kind), 3, 4)
    lane = lane_of(*trials)
    assert not read(lane, "flips")["flipped_share_by_layer"].any()
    for _ in range(40):
        lane.advance(1)
    found = read(lane, "flips")
    for slot, settings in enumerate(trials):
        trial, expected = Trial(settings), []
        for view in (0, 1):
            now, drawn = (layers_of(trial, view, w) for w in (weights_of(lane, slot), trial.start))
            for (_, after), (_, before) in zip(now[:-1], drawn[:-1], strict=True):
                expected.append(np.mean([a * b < 0 for a, b in zip(after.ravel(), before.ravel(), strict=True)]))
        assert found["flipped_share_by_layer"][slot].tolist() == pytest.approx(expected, rel=1e-14)
        assert found["flipped_share"][slot].item() == pytest.approx(np.mean(expected), rel=1e-14)
        assert max(expected) > 0


def test_a_linearized_tower_has_no_flips():
    lane = lane_of(*seeds(settings_of(linearized=True), 3, 4), steps=40)
    assert read(lane, "flips")["flipped_share_by_layer"].shape == (2, 4)
    assert not any(column.any() for column in read(lane, "flips").values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_angles_are_medians_of_numpy_s_over_all_pairs(kind: dict[str, Any]):
    trials = seeds(settings_of(**kind), 3, 4)
    lane = lane_of(*trials, steps=10)
    found = read(lane, "angles")["median_angle_by_layer"]
    for slot, settings in enumerate(trials):
        trial, expected = Trial(settings), []
        for view in (0, 1):
            for h, _ in trial.layers(view, weights_of(lane, slot))[1:]:
                cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b) or 1) for a, b in combinations(h.numpy(), 2)]
                angles = sorted(np.arccos(np.clip(cosines, -1, 1)))
                lower, upper = angles[(len(angles) - 1) // 2], angles[len(angles) // 2]
                assert lower == upper or len(angles) % 2 == 0
                expected.append(upper)
        assert found[slot].tolist() == pytest.approx(expected, rel=1e-9)


def test_a_dead_row_is_at_a_right_angle_to_all_and_rounding_takes_no_cosine_beyond_one():
    h = torch.tensor([[[0.0, 0, 0], [0.0, 0, 0], [0.0, 0, 0], [1.0, 2, 3]]], dtype=torch.float64)
    assert median_angles(h).item() == pytest.approx(np.pi / 2)
    same = torch.full((1, 5, 3), 0.1, dtype=torch.float32)
    assert median_angles(same).item() == pytest.approx(0, abs=1e-3)


def test_angles_are_those_of_the_first_samples(monkeypatch: pytest.MonkeyPatch):
    lane = lane_of(settings_of())
    monkeypatch.setattr(activations, "MOST_PAIRED", 4)
    few = read(lane, "angles")["median_angle_by_layer"][0, 0].item()
    h = Trial(settings_of()).layers(0, weights_of(lane, 0))[1][0][:4]
    angles = sorted(float(torch.arccos(torch.cosine_similarity(a, b, dim=0))) for a, b in combinations(h, 2))
    assert few == pytest.approx(angles[3], rel=1e-9)


@pytest.mark.parametrize("parametrization", ["allen-zhu", "ntk"])
def test_wide_relu_layers_map_the_median_angle_as_infinite_width_does(parametrization: str):
    settings = TrialSettings(
        data=Sphere(samples=32, input_dim=8),
        encoder=Encoder(width=2048, depth=3, parametrization=parametrization, key=KeyEncoder(width=4, depth=1)),
        seed=3,
    )
    found = read(lane_of(settings), "angles")["median_angle_by_layer"][0, :4].numpy()
    expected = (np.sin(found[:-1]) + (np.pi - found[:-1]) * np.cos(found[:-1])) / np.pi
    np.testing.assert_allclose(found[1:], np.arccos(expected), rtol=0.05)
    assert (np.diff(found) < 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "plain")
def test_the_linearization_error_is_that_of_pytorch_s_jvp(kind: dict[str, Any]):
    trials = seeds(settings_of(**kind), 3, 4)
    lane = lane_of(*trials)
    assert not any(column.any() for column in read(lane, "linearization").values())
    for _ in range(30):
        lane.advance(1)
    found = read(lane, "linearization")
    for slot, settings in enumerate(trials):
        trial, weights = Trial(settings), weights_of(lane, slot)
        for view, name in enumerate(("query", "key")):
            z, start, expanded = trial.z(view, weights), trial.z(view, trial.start), trial.expanded(view, weights)
            expected = np.linalg.norm(z - expanded) / np.linalg.norm(z - start)
            assert expected > 1e-6
            assert found[f"linearization_error_{name}"][slot].item() == pytest.approx(expected, rel=1e-8)


def test_a_linearized_tower_is_its_own_expansion():
    settings = settings_of(linearized=True)
    lane = lane_of(settings, steps=30)
    trial, weights = Trial(settings), weights_of(lane, 0)
    for view, z in enumerate(lane.pair.embeddings(lane.pair.weights)):
        torch.testing.assert_close(z[0], trial.expanded(view, weights))
        assert not torch.allclose(z[0], trial.z(view, weights))
    assert not any(column.any() for column in read(lane, "linearization").values())


def test_more_samples_than_are_kept_are_cut_to_the_first():
    lane = lane_of(settings_of(samples=MOST_SAMPLES + 76, width=6), steps=3)
    point = point_of(lane)
    trial, weights = Trial(lane.settings[0]), weights_of(lane, 0)
    assert {layer.output.shape[1] for view in point.passes for layer in view} == {MOST_SAMPLES}
    now, drawn = (trial.layers(0, w)[1][1][:MOST_SAMPLES].numpy() for w in (weights, trial.start))
    expected = np.mean((now > 0) != (drawn > 0))
    assert read(lane, "flips")["flipped_share_by_layer"][0, 0].item() == pytest.approx(expected, rel=1e-12)
    z, start, expanded = (
        part[:MOST_SAMPLES] for part in (trial.z(0, weights), trial.z(0, trial.start), trial.expanded(0, weights))
    )
    error = np.linalg.norm(z - expanded) / np.linalg.norm(z - start)
    assert read(lane, "linearization")["linearization_error_query"].item() == pytest.approx(error, rel=1e-8)


def test_a_trial_that_is_not_finite_leaves_the_others_their_numbers():
    lane = lane_of(*seeds(settings_of(), 3, 4, 5), steps=5)
    calm = {name: read(lane, name) for name in ("flips", "angles", "linearization")}
    with torch.no_grad():
        for weight in lane.pair.weights:
            weight[1] = torch.nan
    for name, columns in calm.items():
        for column, values in read(lane, name).items():
            assert torch.equal(values[[0, 2]], columns[column][[0, 2]]), column
    assert read(lane, "linearization")["linearization_error_key"][1].isnan()
    assert read(lane, "angles")["median_angle_by_layer"][1].isnan().tolist() == [False, True, True] * 2
