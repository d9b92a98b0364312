"""Couplings: which tower moves, in which order, from which gradient."""

import numpy as np
import pytest
import torch
from reading import read

from suite.data.sphere import Sphere
from suite.data.views import GaussianNoise
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.training.couplings import COUPLINGS, Alternating, Coupling, Frozen, Joint, Momentum, Shared, StopGradient
from suite.training.lane import Lane
from suite.training.learning_rates import WidthRule
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent

ETA, FACTOR = 0.3, 3 / 10  # P = d / m


def settings_of(coupling: Coupling, *, c: float = ETA, noise: float = 0.3, symmetric: bool = False) -> TrialSettings:
    return TrialSettings(
        data=Sphere(samples=7, input_dim=5, views=GaussianNoise(std=noise)),
        encoder=Encoder(width=10, depth=2, embedding_dim=3),
        loss=InfoNCE(symmetric=symmetric),
        coupling=coupling,
        optimizer=GradientDescent(learning_rate=WidthRule(c=c)),
        precision="float64",
        seed=2,
    )


def lane_of(settings: TrialSettings) -> Lane:
    lane = Lane(settings, slots=1, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))
    lane.fill(0, settings)
    return lane


def weights(lane: Lane) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Copies of the query's and the key's trained weights."""
    towers = [[w.detach().clone() for w in tower.weights] for tower in lane.pair.towers]
    return towers[0], towers[1]


def gradient_at(
    settings: TrialSettings, query: list[torch.Tensor], key: list[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of the loss of two separate towers at these weights, by autograd on the settings' loss alone."""
    towers = lane_of(settings).pair.towers
    at = [[w.clone().requires_grad_() for w in part] for part in (query, key)]
    embeddings = [tower.embed(part) for tower, part in zip(towers, at, strict=True)]
    found = torch.autograd.grad(settings.loss(*embeddings).sum(), [*at[0], *at[1]])
    return list(found[: len(query)]), list(found[len(query) :])


def moved(start: list[torch.Tensor], along: list[torch.Tensor], c: float = ETA) -> list[torch.Tensor]:
    return [w - c * FACTOR * g for w, g in zip(start, along, strict=True)]


def assert_equal(ours: list[torch.Tensor], expected: list[torch.Tensor], atol: float = 1e-14) -> None:
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def assert_apart(ours: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert all((a - b).norm() > 1e-6 for a, b in zip(ours, other, strict=True))


def test_joint_moves_both_from_the_same_point():
    settings = settings_of(Joint())
    lane = lane_of(settings)
    query, key = weights(lane)
    lane.advance(2)
    along_query, along_key = gradient_at(settings, query, key)
    assert_equal(weights(lane)[0], moved(query, along_query))
    assert_equal(weights(lane)[1], moved(key, along_key))
    assert_apart(query, key)


def test_alternating_moves_the_query_and_then_the_key_at_the_new_query():
    settings = settings_of(Alternating())
    lane = lane_of(settings)
    query, key = weights(lane)
    lane.advance(2)
    new_query = moved(query, gradient_at(settings, query, key)[0])
    new_key = moved(key, gradient_at(settings, new_query, key)[1])
    assert_equal(weights(lane)[0], new_query)
    assert_equal(weights(lane)[1], new_key)
    assert_apart(new_key, moved(key, gradient_at(settings, query, key)[1]))


def test_frozen_never_moves_the_key():
    settings = settings_of(Frozen())
    lane = lane_of(settings)
    query, key = weights(lane)
    lane.advance(2)
    assert_equal(weights(lane)[0], moved(query, gradient_at(settings, query, key)[0]))
    lane.advance(30)
    assert_equal(weights(lane)[1], key, atol=0)
    assert_apart(query, key)


@pytest.mark.parametrize("coupling", [StopGradient(), Momentum(mu=0.9), Shared()])
def test_couplings_of_one_draw_start_from_equal_towers(coupling):
    lane = lane_of(settings_of(coupling))
    query, key = lane.pair.towers
    assert_equal([*query.weights, *query._frozen.values()], [*key.weights, *key._frozen.values()], atol=0)


def test_stop_gradient_copies_the_query_which_moves_along_its_own_branch():
    settings = settings_of(StopGradient())
    lane = lane_of(settings)
    query, _ = weights(lane)
    lane.advance(2)
    expected = moved(query, gradient_at(settings, query, query)[0])
    assert_equal(weights(lane)[0], expected)
    assert_equal(weights(lane)[1], expected)
    lane.advance(20)
    assert_equal(*weights(lane), atol=0)


def test_momentum_averages_the_key_after_the_query_has_moved():
    settings = settings_of(Momentum(mu=0.8))
    lane = lane_of(settings)
    query, key = weights(lane)
    for _ in range(3):
        lane.advance(1 if lane._evaluated else 2)
        query = moved(query, gradient_at(settings, query, key)[0])
        key = [0.8 * v + 0.2 * w for v, w in zip(key, query, strict=True)]
        assert_equal(weights(lane)[0], query)
        assert_equal(weights(lane)[1], key)


def test_momentum_without_memory_is_stop_gradient():
    one, other = lane_of(settings_of(Momentum(mu=0.0))), lane_of(settings_of(StopGradient()))
    for lane in (one, other):
        lane.advance(40)
    for name in ("loss", "scaled_grad_norm_sq", "scaled_update_norm_sq"):
        assert torch.equal(read(one)[name], read(other)[name])
    assert_equal(weights(one)[0], weights(other)[0], atol=0)


def test_shared_moves_one_tower_along_the_sum_of_both_branches():
    settings = settings_of(Shared())
    lane = lane_of(settings)
    query, _ = weights(lane)
    lane.advance(2)
    branches = gradient_at(settings, query, query)
    total = [a + b for a, b in zip(*branches, strict=True)]
    assert_equal([w.detach() for w in lane.pair.weights], moved(query, total))
    assert lane.pair.parts["key"] == slice(2, 2)


def test_g_of_a_shared_tower_is_that_of_the_summed_gradient():
    settings = settings_of(Shared())
    lane = lane_of(settings)
    query, _ = weights(lane)
    lane.advance(1)
    branches = gradient_at(settings, query, query)
    expected = FACTOR * sum(float((a + b).square().sum()) for a, b in zip(*branches, strict=True))
    assert read(lane)["scaled_grad_norm_sq"].item() == pytest.approx(expected, rel=1e-12)
    assert read(lane)["grad_norm_sq_key"].item() == 0


def test_with_equal_views_and_a_symmetric_loss_shared_is_stop_gradient_at_twice_the_rate():
    shared = lane_of(settings_of(Shared(), noise=0, symmetric=True))
    stopped = lane_of(settings_of(StopGradient(), c=2 * ETA, noise=0, symmetric=True))
    for lane in (shared, stopped):
        lane.advance(30)
    assert_equal(weights(shared)[0], weights(stopped)[0], atol=1e-11)
    assert read(shared)["displacement"].item() > 0.1


@pytest.mark.parametrize("coupling", [Alternating(), Momentum(mu=0.7), StopGradient(), Frozen()])
def test_the_promise_and_the_norm_of_a_step_are_those_of_the_weights_that_moved(coupling):
    settings = settings_of(coupling)
    lane = lane_of(settings)
    before = weights(lane)
    along = gradient_at(settings, *before)
    lane.advance(2)
    steps = [a - b for old, new in zip(before, weights(lane), strict=True) for a, b in zip(old, new, strict=True)]
    promise = sum(float((s * g).sum()) for s, g in zip(steps, [*along[0], *along[1]], strict=True))
    norm_sq = sum(float(s.square().sum()) for s in steps) / FACTOR / ETA**2
    assert lane._history[1, 2].item() == pytest.approx(promise, rel=1e-10)
    assert read(lane)["scaled_update_norm_sq"].item() == pytest.approx(norm_sq, rel=1e-10)


def test_the_update_norm_of_a_frozen_key_is_the_querys_share_of_g():
    lane = lane_of(settings_of(Frozen()))
    lane.advance(1)
    share = FACTOR * read(lane)["grad_norm_sq_query"].item()
    assert torch.isnan(read(lane)["scaled_update_norm_sq"]).all()
    lane.advance(1)
    assert read(lane)["scaled_update_norm_sq"].item() == pytest.approx(share, rel=1e-10)


@pytest.mark.parametrize("name", [n for n in COUPLINGS if COUPLINGS[n].one_draw])
def test_a_copy_of_another_shape_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="cannot have another width or depth"):
        TrialSettings(encoder=Encoder(key=KeyEncoder(depth=1)), coupling=COUPLINGS[name]())


def test_one_network_for_views_of_unequal_size_is_refused_with_both_sizes(tmp_path):
    from suite.data.npz import Npz

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "pairs.npz", query=rng.normal(size=(8, 5)), key=rng.normal(size=(8, 4)))
    data = Npz(path=str(tmp_path / "pairs.npz"), samples=7)
    with pytest.raises(ValueError, match="they have 5 and 4 features"):
        lane_of(settings_of(Shared()).model_copy(update={"data": data}))
