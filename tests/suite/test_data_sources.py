"""Every registered source, and what is particular to those that are not of points or arrays of the user."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.datasets import load_digits, load_sample_images

from suite.data.digits import Digits
from suite.data.idx import Idx
from suite.data.npz import Npz
from suite.data.pairs import draw_pairs
from suite.data.patches import HEIGHT, WIDTH, Patches, _photographs
from suite.data.source import SOURCES, Source
from suite.data.sparse_coding import SparseCoding, draw_codes, draw_directions
from suite.data.sphere import Sphere, _smallest_distance_between_pairs
from suite.data.views import GaussianNoise, Halves, Identical, RandomMask
from suite.experiment import Encoder, Experiment
from suite.trials import expand

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(40, 6, 8), dtype=np.uint8)
CLASSES = RNG.integers(0, 10, size=40, dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    """The array in MNIST's format."""
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def files(folder: Path) -> dict[str, dict[str, object]]:
    """Settings, by source, of those that need a file."""
    np.savez(folder / "data.npz", query=PIXELS, key=RNG.normal(size=(40, 5)), classes=CLASSES)
    (folder / "images").write_bytes(idx_bytes(PIXELS))
    (folder / "classes").write_bytes(idx_bytes(CLASSES))
    return {
        "npz": {"path": str(folder / "data.npz"), "labels": "classes"},
        "idx": {"path": str(folder / "images"), "labels": str(folder / "classes")},
    }


@pytest.fixture(params=sorted(SOURCES))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """Each registered source with its defaults; one that needs a file has it named in `files`."""
    draw_pairs.cache_clear()
    return SOURCES[request.param](**{"samples": 32, **files(tmp_path).get(request.param, {})})


def test_a_source_gives_finite_unit_rows_in_pairs_and_labels_if_it_says_so(source: Source):
    pairs = draw_pairs(source, 3)
    for view in (pairs.query, pairs.key):
        assert view.dtype == np.float64
        assert view.ndim == 2
        assert len(view) == 32
        np.testing.assert_allclose(np.linalg.norm(view, axis=1), 1, rtol=1e-12)
    assert (pairs.labels is not None) == source.has_labels
    if pairs.labels is not None:
        assert (pairs.labels.shape, pairs.labels.dtype) == ((32,), np.int64)


def test_a_source_gives_the_same_again_and_other_pairs_for_another_seed(source: Source):
    first = draw_pairs(source, 3)
    draw_pairs.cache_clear()
    again, other = draw_pairs(source.model_copy(), 3), draw_pairs(source, 4)
    np.testing.assert_array_equal(again.query, first.query)
    np.testing.assert_array_equal(again.key, first.key)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert not np.array_equal(other.query, first.query)


def test_shuffled_positives_are_the_same_views_in_other_pairs(source: Source):
    plain = draw_pairs(source, 3)
    shuffled = draw_pairs(source.model_copy(update={"shuffled_positives": True}), 3)
    np.testing.assert_array_equal(shuffled.query, plain.query)
    np.testing.assert_array_equal(shuffled.labels, plain.labels)
    assert not np.array_equal(shuffled.key, plain.key)
    np.testing.assert_array_equal(
        shuffled.key[np.lexsort(shuffled.key.T)],
        plain.key[np.lexsort(plain.key.T)],
    )


def test_a_source_shares_its_draw_across_widths(source: Source):
    experiment = Experiment(name="t", data=source, encoder=Encoder(depth=1), sweep={"encoder.width": [4, 8]})
    first, second = (trial.settings for trial in expand(experiment).trials)
    assert draw_pairs(first.data, first.seed) is draw_pairs(second.data, second.seed)


def test_a_shuffle_is_uniform():
    source = Sphere(samples=4, input_dim=3, views=Identical(), shuffled_positives=True)
    partners = np.array([(draw.query @ draw.key.T).argmax(1) for draw in (draw_pairs(source, s) for s in range(2000))])
    shares = [[(partners[:, row] == column).mean() for column in range(4)] for row in range(4)]
    np.testing.assert_allclose(shares, 0.25, atol=0.04)


@given(st.integers(0, 2**32), st.integers(2, 60))
@settings(deadline=None, max_examples=20)
def test_digits_have_the_labels_of_scikit_learn(seed: int, samples: int):
    pairs = draw_pairs(Digits(samples=samples, center=False, views=Identical()), seed)
    known = load_digits()
    rows = known.data / np.linalg.norm(known.data, axis=1, keepdims=True)
    found = (pairs.query @ rows.T).argmax(axis=1)
    np.testing.assert_array_equal(known.target[found], pairs.labels)


DELTAS = st.floats(1e-3, 2**0.5)


@given(st.integers(0, 2**32), st.integers(1, 20), DELTAS)
@settings(deadline=None, max_examples=30)
def test_planted_points_are_at_their_distance_and_no_others_are_closer(seed: int, pairs: int, delta: float):
    source = Sphere(samples=2 * pairs, input_dim=1000, views=Identical(), separation=min(delta, 1.2))
    points = draw_pairs(source, seed).query
    planted = np.linalg.norm(points[::2] - points[1::2], axis=1)
    np.testing.assert_allclose(planted, source.separation, atol=1e-12, rtol=0)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(len(points))
    assert gaps.min() == pytest.approx(source.separation, abs=1e-12)


def test_the_largest_separation_makes_orthogonal_pairs():
    points = draw_pairs(Sphere(samples=2, views=Identical(), separation=2**0.5), 0).query
    assert points[0] @ points[1] == pytest.approx(0, abs=1e-15)


def test_the_smallest_distance_between_pairs_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("suite.data.sphere._ROWS_AT_A_TIME", 5)
    points = RNG.normal(size=(26, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    gaps = [np.linalg.norm(points[i] - points[j]) for i in range(26) for j in range(26) if i // 2 != j // 2]
    assert _smallest_distance_between_pairs(points) == pytest.approx(min(gaps), rel=1e-12)
    assert _smallest_distance_between_pairs(points[:2]) == np.inf


def test_points_too_close_to_be_planted_are_refused():
    crowded = Sphere(samples=64, input_dim=3, views=Identical(), separation=0.9)
    with pytest.raises(ValueError, match=r"only 0\.\d+ apart.* 0\.9; use a larger input_dim than 3, fewer samples"):
        draw_pairs(crowded, 0)


def test_planted_points_are_seen_through_small_noise():
    source = Sphere(samples=128, input_dim=64, views=GaussianNoise(std=0.02, both=True), separation=0.1)
    pairs = draw_pairs(source, 0)
    distances = np.linalg.norm(pairs.query - pairs.key, axis=1)
    assert np.sqrt(np.mean(distances**2)) == pytest.approx(0.02 * 2**0.5, rel=0.1)
    assert distances.max() < 0.1 / 2


def test_the_directions_of_sparse_coding_are_orthonormal_and_shared_by_more_samples():
    directions = draw_directions(20, 12, np.random.default_rng(0))
    np.testing.assert_allclose(directions.T @ directions, np.eye(12), atol=1e-14)
    few, many = (draw_pairs(SparseCoding(samples=n), 5) for n in (10, 50))
    np.testing.assert_allclose(many.query[:10], few.query, atol=1e-14)
    np.testing.assert_allclose(many.key[:10], few.key, atol=1e-14)


def test_directions_are_uniform():
    draws = np.array([draw_directions(3, 2, np.random.default_rng(seed)) for seed in range(1500)])
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose((draws**2).mean(axis=0), 1 / 3, atol=0.03)


def test_codes_are_as_active_as_asked_for_with_both_signs_and_never_empty():
    codes = draw_codes(20000, 32, 0.1, np.random.default_rng(0))
    assert set(np.unique(codes)) == {-1, 0, 1}
    expected = 0.1 + 0.9**32 / 32
    assert (codes != 0).mean() == pytest.approx(expected, abs=0.002)
    assert codes.sum() / np.abs(codes).sum() == pytest.approx(0, abs=0.02)
    assert codes.any(axis=1).all()
    alone = draw_codes(20000, 4, 1e-9, np.random.default_rng(0))
    assert (np.abs(alone).sum(axis=1) == 1).all()
    np.testing.assert_allclose([(alone == sign).mean(axis=0) for sign in (-1, 1)], 1 / 8, atol=0.01)


def test_a_sample_of_sparse_coding_is_a_sum_of_directions_in_noise():
    source = SparseCoding(samples=300, noise=0.2, views=Identical())
    rng = np.random.default_rng(3)
    raw = source.draw(rng).query
    directions = draw_directions(64, 32, np.random.default_rng(3))
    codes = np.round(raw @ directions)
    assert set(np.unique(codes)) == {-1, 0, 1}
    assert np.linalg.norm(raw - codes @ directions.T, axis=1).mean() == pytest.approx(0.2, rel=0.05)


def test_the_masked_views_of_sparse_coding_add_up_to_the_sample():
    masked = SparseCoding(samples=20, views=RandomMask()).draw(np.random.default_rng(1))
    whole = SparseCoding(samples=20, views=Identical()).draw(np.random.default_rng(1))
    np.testing.assert_allclose((masked.query + masked.key) / 2, whole.query, rtol=1e-14)


def test_the_photographs_are_those_of_scikit_learn():
    grey = [image.astype(float).mean(axis=2) for image in load_sample_images().images]
    np.testing.assert_array_equal(_photographs(), grey)
    assert _photographs().shape == (2, HEIGHT, WIDTH)


@given(st.integers(0, 2**32), st.integers(4, 24), st.integers(0, 12))
@settings(deadline=None, max_examples=8)
def test_patches_are_neighbours_in_a_photograph(seed: int, size: int, gap: int):
    raw = Patches(samples=3, size=size, gap=gap).draw(np.random.default_rng(seed))
    assert raw.query.shape == raw.key.shape == (3, size, size)
    for query, key in zip(raw.query, raw.key, strict=True):
        corners = zip(
            *np.nonzero(_photographs()[:, : HEIGHT - size + 1, : WIDTH - size + 1] == query[0, 0]), strict=True
        )
        found = [
            (photograph, row, column)
            for photograph, row, column in corners
            if np.array_equal(_photographs()[photograph, row : row + size, column : column + size], query)
            and np.array_equal(
                _photographs()[photograph, row : row + size, column + size + gap : column + 2 * size + gap], key
            )
        ]
        assert found


def test_patches_are_uniform_over_both_photographs_and_none_comes_twice(monkeypatch: pytest.MonkeyPatch):
    numbered = np.arange(2.0 * HEIGHT * WIDTH).reshape(2, HEIGHT, WIDTH)
    monkeypatch.setattr("suite.data.patches._photographs", lambda: numbered)
    raw = Patches(size=5, gap=2, samples=20000).draw(np.random.default_rng(0))
    corners = raw.query[:, 0, 0].astype(int)
    assert len(set(corners)) == 20000
    np.testing.assert_array_equal(raw.key, raw.query + 7)
    places = np.array(np.unravel_index(corners, numbered.shape)) / np.array([[1], [HEIGHT - 5], [WIDTH - 12]])
    np.testing.assert_allclose(places.mean(axis=1), 0.5, atol=0.02)
    np.testing.assert_array_equal(places.max(axis=1), 1)
    np.testing.assert_array_equal(places.min(axis=1), 0)


def test_more_patches_than_there_are_positions():
    assert Patches(size=213, gap=213, samples=860).num_positions == 2 * 215 * 2 == 860
    with pytest.raises(ValidationError, match="860 positions"):
        Patches(size=213, gap=213, samples=861)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_images_and_labels_come_back(tmp_path: Path, packed: bool):
    pack = gzip.compress if packed else bytes
    (tmp_path / "images").write_bytes(pack(idx_bytes(PIXELS)))
    (tmp_path / "classes").write_bytes(pack(idx_bytes(CLASSES)))
    source = Idx(path=str(tmp_path / "images"), labels=str(tmp_path / "classes"), samples=40, views=Identical())
    raw = source.draw(np.random.default_rng(0))
    chosen = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(raw.query, PIXELS[chosen])
    np.testing.assert_array_equal(raw.labels, CLASSES[chosen])
    halves = source.model_copy(update={"views": Halves(), "labels": None}).draw(np.random.default_rng(0))
    np.testing.assert_array_equal(halves.key, PIXELS[chosen][:, :, 4:])
    assert halves.labels is None


IMAGES_FILE, LABELS_FILE = idx_bytes(PIXELS), idx_bytes(CLASSES)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (None, LABELS_FILE, ["images: no such file", "data.path is relative to"]),
        (IMAGES_FILE, None, ["classes: no such file", "data.labels is relative to"]),
        (LABELS_FILE, LABELS_FILE, ["0x00000803", "starts with 0x00000801, a file of labels"]),
        (IMAGES_FILE, IMAGES_FILE, ["data.labels", "0x00000801", "starts with 0x00000803, a file of images"]),
        (b"not images", LABELS_FILE, ["images: data.path", "0x00000803", "starts with 0x6e6f7420"]),
        (b"", LABELS_FILE, ["shorter than a magic number"]),
        (IMAGES_FILE[:9], LABELS_FILE, ["truncated: 9 bytes", "16"]),
        (IMAGES_FILE[:-1], LABELS_FILE, ["truncated", "40 x 6 x 8", "1919 follow"]),
        (IMAGES_FILE + b"x", LABELS_FILE, ["damaged", "40 x 6 x 8", "1921 follow"]),
        (gzip.compress(IMAGES_FILE)[:-20], LABELS_FILE, ["not a readable gzip file"]),
        (b"\x1f\x8b nonsense", LABELS_FILE, ["not a readable gzip file"]),
        (IMAGES_FILE, idx_bytes(CLASSES[:39]), ["39 labels", "40 images"]),
        (idx_bytes(PIXELS[:31]), idx_bytes(CLASSES[:31]), ["data.samples is 32", "31 images"]),
        (idx_bytes(PIXELS[:, :, :7]), LABELS_FILE, ["halves", "even width"]),
        (idx_bytes(np.zeros_like(PIXELS)), LABELS_FILE, ["32 of 32 rows", "are zero"]),
    ],
)
def test_idx_files_that_cannot_be_used(tmp_path: Path, images: bytes | None, labels: bytes | None, words: list[str]):
    for name, content in (("images", images), ("classes", labels)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    source = Idx(path=str(tmp_path / "images"), labels=str(tmp_path / "classes"), samples=32)
    with pytest.raises(ValueError, match=r"images|classes|views|data") as caught:
        draw_pairs(source, 0)
    for word in words:
        assert word in str(caught.value)


def test_naming_labels_changes_no_draw(tmp_path: Path):
    for name, chosen in files(tmp_path).items():
        labelled = SOURCES[name](samples=9, **chosen)
        plain = labelled.model_copy(update={"labels": None})
        np.testing.assert_array_equal(draw_pairs(labelled, 2).key, draw_pairs(plain, 2).key)
        assert draw_pairs(plain, 2).labels is None
        assert not plain.has_labels


def test_npz_labels_are_those_of_the_rows(tmp_path: Path):
    rows = np.eye(9)[:, :, None] + np.arange(2)
    np.savez(tmp_path / "x.npz", query=rows.reshape(9, -1), key=rows.reshape(9, -1), kinds=np.arange(9, dtype=np.int8))
    pairs = draw_pairs(Npz(path=str(tmp_path / "x.npz"), labels="kinds", samples=5), 1)
    np.testing.assert_array_equal(pairs.query.reshape(5, 9, 2)[:, :, 0].argmax(axis=1), pairs.labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, ["no array 'kinds'", "the file has query, key"]),
        (np.ones(9), ["'kinds'", "float64", "whole numbers"]),
        (np.ones(9, dtype=bool), ["'kinds'", "bool", "whole numbers"]),
        (np.array([{}] * 9, dtype=object), ["array of objects"]),
        (np.ones(8, dtype=int), ["'kinds'", "shape (8,)", "(9,)"]),
        (np.ones((9, 1), dtype=int), ["'kinds'", "shape (9, 1)", "(9,)"]),
    ],
)
def test_npz_labels_that_cannot_be_used(tmp_path: Path, labels: np.ndarray | None, words: list[str]):
    arrays = {} if labels is None else {"kinds": labels}
    np.savez(tmp_path / "x.npz", query=np.eye(9), key=np.eye(9), **arrays)
    with pytest.raises(ValueError, match="npz") as caught:
        draw_pairs(Npz(path=str(tmp_path / "x.npz"), labels="kinds", samples=5), 1)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("samples", [20, 200])
def test_whitening_gives_all_directions_of_the_samples_one_variance(samples: int):
    from suite.data import pairs

    view = np.random.default_rng(0).normal(size=(samples, 32)) @ np.diag(np.geomspace(1, 50, 32))
    centred = view - view.mean(0)
    white = pairs._whitened(centred)
    values = np.linalg.eigvalsh(white.T @ white / samples)
    rank = min(samples - 1, 32)
    np.testing.assert_allclose(values[-rank:], 1, rtol=1e-9)
    np.testing.assert_allclose(values[:-rank], 0, atol=1e-9)
    np.testing.assert_allclose(pairs._whitened(white), white, atol=1e-9)  # twice is once
    drawn = draw_pairs(Digits(samples=samples, whiten=True), 0)
    np.testing.assert_allclose(np.linalg.norm(drawn.query, axis=1), 1, rtol=1e-12)
    assert not np.allclose(drawn.query, draw_pairs(Digits(samples=samples), 0).query)


def test_views_that_would_not_be_used_are_refused():
    with pytest.raises(ValidationError, match="random-mask would not be used: set key: null"):
        Npz(path="pairs.npz", views=RandomMask())
    assert Npz(path="pairs.npz", views=GaussianNoise()) == Npz(path="pairs.npz")
    assert Npz(path="one.npz", key=None, views=RandomMask()).views == RandomMask()
