"""Data sources: what they give, and what they say of data that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.datasets import load_digits

from suite.data.digits import Digits, _digits
from suite.data.npz import Npz
from suite.data.pairs import draw_pairs
from suite.data.sphere import Sphere
from suite.data.views import GaussianNoise, Halves

RNG = np.random.default_rng(0)


def npz(folder: Path, *, samples: int = 4, **arrays: np.ndarray) -> Npz:
    """A source on a file of these arrays."""
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return Npz(path=str(path), samples=samples)


def test_images_and_labels_are_those_of_scikit_learn():
    images, labels = _digits()
    np.testing.assert_array_equal(images, load_digits().images)
    np.testing.assert_array_equal(labels, load_digits().target)


def test_digits_halves_are_the_left_and_right_of_one_image_centred_and_of_unit_norm():
    pairs = draw_pairs(Digits(samples=200), 3)
    images = load_digits().images
    raw = draw_pairs(Digits(samples=200, center=False), 3)
    halves = [half.reshape(len(images), -1) for half in (images[:, :, :4], images[:, :, 4:])]
    left, right = (half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves)
    for query, key in zip(raw.query, raw.key, strict=True):
        gaps = np.abs(left - query).max(axis=1) + np.abs(right - key).max(axis=1)
        assert gaps.min() < 1e-12
    for view in (pairs.query, pairs.key):
        assert view.shape == (200, 32)
        np.testing.assert_allclose(np.linalg.norm(view, axis=1), 1, rtol=1e-12)
    assert np.abs(pairs.query.mean(0)).max() < 0.2 < np.abs(raw.query.mean(0)).max()


def test_centring_subtracts_each_views_mean_over_the_samples(tmp_path):
    query, key = RNG.normal(5, 1, (4, 3)), RNG.normal(-2, 1, (4, 2))
    source = npz(tmp_path, query=query, key=key).model_copy(update={"center": True})
    pairs = draw_pairs(source, 0)
    centred = query - query.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    gaps = np.abs(pairs.query[:, None] - centred[None]).max(-1)
    assert sorted(gaps.argmin(1)) == [0, 1, 2, 3]
    assert gaps.min(1).max() < 1e-12


@given(seed=st.integers(0, 2**32), samples=st.integers(2, 60))
@settings(deadline=None, max_examples=25)
def test_a_larger_sample_of_digits_contains_the_smaller_one(seed, samples):
    small = draw_pairs(Digits(samples=samples, center=False), seed)
    large = draw_pairs(Digits(samples=samples + 20, center=False), seed)
    np.testing.assert_array_equal(large.query[:samples], small.query)
    np.testing.assert_array_equal(large.key[:samples], small.key)


def test_sphere_points_are_uniform_and_noise_has_the_norm_asked_for():
    pairs = draw_pairs(Sphere(samples=4000, input_dim=8, views=GaussianNoise(std=0.1)), 0)
    np.testing.assert_allclose(pairs.query.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(pairs.query.T @ pairs.query / 4000, np.eye(8) / 8, atol=0.02)
    distances = np.linalg.norm(pairs.key - pairs.query, axis=1)
    assert np.sqrt(np.mean(distances**2)) == pytest.approx(0.1, rel=0.1)


def test_no_noise_makes_equal_views():
    pairs = draw_pairs(Sphere(samples=5, views=GaussianNoise(std=0)), 0)
    np.testing.assert_array_equal(pairs.query, pairs.key)


def test_npz_rows_stay_paired(tmp_path):
    query = RNG.normal(size=(30, 5))
    pairs = draw_pairs(npz(tmp_path, samples=20, query=query, key=3 * query), 1)
    np.testing.assert_allclose(pairs.query, pairs.key, rtol=1e-12)


def test_one_npz_array_is_seen_through_views(tmp_path):
    images = RNG.normal(size=(6, 4, 8))
    source = npz(tmp_path, query=images).model_copy(update={"key": None, "views": Halves()})
    pairs = draw_pairs(source, 0)
    assert pairs.query.shape == pairs.key.shape == (4, 16)


GOOD = np.arange(12.0).reshape(4, 3) + 1


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"query": GOOD}, ["no array 'key'", "the file has query"]),
        ({"query": GOOD, "key": np.where(GOOD == 5, np.nan, GOOD)}, ["'key'", "NaN or infinity in 1 rows", "row 1"]),
        ({"query": np.where(GOOD == 1, np.inf, GOOD), "key": GOOD}, ["'query'", "NaN or infinity", "row 0"]),
        ({"query": GOOD[:1], "key": GOOD[:1]}, ["1 row", "at least 2"]),
        ({"query": GOOD, "key": GOOD[:3]}, ["mismatched views", "'query': 4", "'key': 3"]),
        ({"query": GOOD[:3], "key": GOOD[:3]}, ["data.samples is 4", "3 rows"]),
        ({"query": GOOD.astype(str), "key": GOOD}, ["must hold numbers"]),
        ({"query": GOOD[:, 0], "key": GOOD}, ["shape (4,)", "(rows, features)"]),
        ({"query": np.array([{}] * 4, dtype=object), "key": GOOD}, ["data.npz", "array of objects"]),
        ({"query": GOOD * (np.arange(4) != 2)[:, None], "key": GOOD}, ["1 of 4 rows", "query view are zero"]),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, arrays, words):
    source = npz(tmp_path, **arrays)
    with pytest.raises(ValueError, match="data") as caught:
        draw_pairs(source, 0)
    for word in words:
        assert word in str(caught.value)


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }".ljust(127) + b"\n" + bytes(8)


@pytest.mark.parametrize("content", [None, b"", b"not a zip", b"PK\x03\x04 truncated", NPY])
def test_an_npz_file_that_is_absent_or_damaged(tmp_path, content):
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.npz: (no such file|not a readable)"):
        draw_pairs(Npz(path=str(path), samples=4), 0)


def test_more_digits_than_there_are():
    with pytest.raises(ValidationError, match="1797"):
        Digits(samples=1798)
    assert draw_pairs(Digits(samples=1797, center=False), 0).query.shape == (1797, 32)
