"""How embeddings lie, in double loops and NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from towers_by_hand import lane_of, point_of, seeds

from suite.data.sphere import Sphere
from suite.experiment import Encoder, TrialSettings
from suite.measurement.catalog import measured
from suite.measurement.embeddings import rankme, uniformity
from suite.measurement.registry import MEASUREMENTS, MOST_SAMPLES, Values
from suite.training.couplings import Joint, Shared

SETTINGS = TrialSettings(
    data=Sphere(samples=7, input_dim=5), encoder=Encoder(width=12, depth=1, embedding_dim=4), precision="float64"
)


def values_of(query: np.ndarray, key: np.ndarray) -> Values:
    """What is measured of these embeddings (S, n, d), whatever network they are of."""
    point = point_of(lane_of(*seeds(SETTINGS, *range(len(query)))))
    return measured(
        replace(point, embeddings=[torch.from_numpy(query), torch.from_numpy(key)]), MEASUREMENTS["embeddings"]
    )


def unit(z: np.ndarray) -> np.ndarray:
    return np.array([row / np.linalg.norm(row) if np.linalg.norm(row) else row for row in z])


def uniformity_by_hand(u: np.ndarray, most: int = MOST_SAMPLES) -> float:
    u = u[:most]
    pairs = [math.exp(-2 * sum((a - b) ** 2)) for i, a in enumerate(u) for b in u[i + 1 :]]
    return math.log(math.fsum(pairs) / len(pairs))


def rankme_by_hand(z: np.ndarray) -> float:
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def by_hand(query: np.ndarray, key: np.ndarray) -> dict[str, float | list[float]]:
    """One slot's, from (n, d) each."""
    views = {"query": query, "key": key}
    units = {name: unit(z) for name, z in views.items()}
    gaps = [sum((a - b) ** 2) for a, b in zip(units["query"], units["key"], strict=True)]
    values: dict[str, float | list[float]] = {"alignment": float(np.mean(gaps)), "embedding_std_by_dimension": []}
    deviations = []
    for name, z in views.items():
        deviation = [math.sqrt(np.mean((column - column.mean()) ** 2)) for column in units[name].T]
        deviations += deviation
        values |= {
            f"uniformity_{name}": uniformity_by_hand(units[name]),
            f"rankme_{name}": rankme_by_hand(z),
            f"spread_{name}": 1 - sum(units[name].mean(0) ** 2),
            f"embedding_norm_{name}": float(np.mean([math.sqrt(sum(row**2)) for row in z])),
            f"embedding_std_{name}": float(np.mean(deviation)),
        }
    return values | {"embedding_std_by_dimension": deviations}


def assert_by_hand(found: Values, query: np.ndarray, key: np.ndarray, rel: float = 1e-9) -> None:
    for slot in range(len(query)):
        expected = by_hand(query[slot], key[slot])
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name][slot].tolist() == pytest.approx(value, rel=rel, abs=1e-12), name


@profile(deadline=None, max_examples=60)
@given(
    slots=st.integers(1, 3),
    samples=st.integers(2, 9),
    dim=st.integers(1, 12),
    size=st.sampled_from([1e-6, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_every_column_is_its_formula(slots: int, samples: int, dim: int, size: float, seed: int):
    query, key = size * np.random.default_rng(seed).normal(size=(2, slots, samples, dim))
    assert_by_hand(values_of(query, key), query, key)


@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda c: c.name)
def test_they_are_those_of_the_trial_s_own_embeddings(coupling: Joint | Shared):
    lane = lane_of(*seeds(SETTINGS.model_copy(update={"coupling": coupling}), 3, 4), steps=20)
    query, key = (z.detach().numpy() for z in lane.pair.embeddings(lane.pair.weights))
    assert_by_hand(measured(point_of(lane), MEASUREMENTS["embeddings"]), query, key)


def test_orthonormal_and_equal_embeddings_have_known_values():
    frame, equal = np.eye(4)[None], np.ones((1, 4, 4))
    found = values_of(frame, equal)
    at = {name: column[0].tolist() for name, column in found.items()}
    assert at["rankme_query"] == pytest.approx(4, rel=1e-5)
    assert at["rankme_key"] == pytest.approx(1, rel=1e-4)
    assert at["uniformity_query"] == pytest.approx(-4)
    assert at["uniformity_key"] == pytest.approx(0, abs=1e-12)
    assert at["spread_query"] == pytest.approx(3 / 4)
    assert at["spread_key"] == pytest.approx(0, abs=1e-12)
    assert at["alignment"] == pytest.approx(1)
    assert at["embedding_norm_key"] == 2


def test_dead_embeddings_give_values_and_all_dead_ones_have_no_rank():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 3, 7, 4))
    query[0, 2:5] = 0
    query[1] = 0
    key[1, :6] = 0
    found = values_of(query, key)
    for slot in (0, 2):
        one = {name: column[[slot]] for name, column in found.items()}
        assert_by_hand(one, query[[slot]], key[[slot]])
    assert found["rankme_query"].isnan().tolist() == [False, True, False]
    assert found["uniformity_query"][1] == 0
    assert found["embedding_norm_query"][1] == found["embedding_std_query"][1] == 0
    assert found["spread_query"][1] == 1
    assert all(column.isfinite().all() for name, column in found.items() if name != "rankme_query")


def test_embeddings_that_are_not_finite_leave_the_others_their_numbers():
    query, key = np.random.default_rng(1).normal(size=(2, 3, 7, 4))
    calm = values_of(query, key)
    for value in (np.nan, np.inf):
        query[1, 2, 3] = value
        for name, column in values_of(query, key).items():
            assert torch.equal(column[[0, 2]], calm[name][[0, 2]]), name


def test_of_many_samples_uniformity_takes_the_first():
    query, key = np.random.default_rng(2).normal(size=(2, 1, MOST_SAMPLES + 50, 3))
    found = values_of(query, key)
    first = unit(query[0])[:MOST_SAMPLES]
    gaps = ((first[:, None] - first[None]) ** 2).sum(-1)[np.triu_indices(MOST_SAMPLES, 1)]
    assert found["uniformity_query"].item() == pytest.approx(math.log(np.exp(-2 * gaps).mean()), rel=1e-10)
    assert found["rankme_key"].item() == pytest.approx(rankme_by_hand(key[0]), rel=1e-9)
    expected = np.mean(((unit(query[0]) - unit(key[0])) ** 2).sum(1))
    assert found["alignment"].item() == pytest.approx(expected, rel=1e-12)


def test_single_precision_keeps_digits():
    query = np.random.default_rng(3).normal(size=(2, 64, 8)).astype(np.float32)
    z = torch.from_numpy(query)
    for slot in (0, 1):
        assert rankme(z)[slot].item() == pytest.approx(rankme_by_hand(query[slot].astype(float)), rel=1e-6)
        u = unit(query[slot].astype(float))
        found = uniformity(torch.from_numpy(u.astype(np.float32))[None]).item()
        assert found == pytest.approx(uniformity_by_hand(u), rel=1e-5)
