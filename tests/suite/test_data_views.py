"""Views: what each does to a pair, and that a list of them is one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.data.composition import VIEW_CHOICES, Composition
from suite.data.views import VIEWS, GaussianNoise, Halves, Identical, RandomMask, Shift, View
from suite.experiment import TrialSettings
from suite.trials import flatten, trial_id

IMAGES = np.random.default_rng(0).normal(size=(7, 5, 6))
ROWS = np.random.default_rng(1).normal(size=(9, 11))
seeds = st.integers(0, 2**32)


def seen(view: View, samples: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both views of samples."""
    return view(samples, samples, np.random.default_rng(seed))


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_view_is_finite_deterministic_and_leaves_its_samples_as_they_were(name: str):
    view, before = VIEWS[name](), IMAGES.copy()
    first, again, other = seen(view, IMAGES), seen(view, IMAGES), seen(view, IMAGES, seed=1)
    np.testing.assert_array_equal(IMAGES, before)
    for one, two in zip(first, again, strict=True):
        assert len(one) == len(IMAGES)
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, two)
    is_random = any((one != two).any() for one, two in zip(first, other, strict=True))
    assert is_random == (name not in ("identical", "halves"))


def test_identical_shows_both_towers_the_sample():
    query, key = seen(Identical(), ROWS)
    np.testing.assert_array_equal(query, ROWS)
    np.testing.assert_array_equal(key, ROWS)


def test_halves_take_the_querys_left_and_the_keys_right():
    query, key = Halves()(IMAGES, 2 * IMAGES, np.random.default_rng(0))
    np.testing.assert_array_equal(query, IMAGES[:, :, :3])
    np.testing.assert_array_equal(key, 2 * IMAGES[:, :, 3:])


@given(seeds)
@settings(deadline=None)
def test_noise_on_both_leaves_the_keys_noise_as_it_is_and_is_independent(seed: int):
    one, both = GaussianNoise(std=0.3), GaussianNoise(std=0.3, both=True)
    (query, key), (noisy_query, noisy_key) = seen(one, IMAGES, seed), seen(both, IMAGES, seed)
    np.testing.assert_array_equal(query, IMAGES)
    np.testing.assert_array_equal(noisy_key, key)
    noises = np.stack([noisy_query - IMAGES, noisy_key - IMAGES]).reshape(2, -1)
    assert abs(np.corrcoef(noises)[0, 1]) < 0.5


def test_noise_has_its_norm_in_units_of_each_samples():
    samples = np.random.default_rng(2).normal(size=(300, 40)) * np.arange(1, 301)[:, None]
    for view in seen(GaussianNoise(std=0.2, both=True), samples):
        relative = np.linalg.norm(view - samples, axis=1) / np.linalg.norm(samples, axis=1)
        assert np.sqrt(np.mean(relative**2)) == pytest.approx(0.2, rel=0.05)


@given(seeds)
@settings(deadline=None)
def test_masked_views_share_the_coordinates_out(seed: int):
    query, key = seen(RandomMask(), ROWS, seed)
    np.testing.assert_allclose((query + key) / 2, ROWS, rtol=1e-15)
    assert ((query == 0) != (key == 0)).all()


def test_masks_are_as_frequent_as_asked_for_and_keep_the_expectation():
    samples = np.ones((400, 50))
    query, key = seen(RandomMask(keep=0.8), samples)
    assert (query != 0).mean() == pytest.approx(0.8, abs=0.01)
    assert query.mean() == pytest.approx(1, abs=0.02)
    assert key.mean() == pytest.approx(1, abs=0.05)
    assert not np.array_equal(query[0], query[1])


def test_a_mask_needs_views_of_one_shape():
    with pytest.raises(ValueError, match=r"random-mask .* \(11,\) and \(5,\)"):
        RandomMask()(ROWS, ROWS[:, :5], np.random.default_rng(0))


def shifted(image: np.ndarray, down: int, across: int) -> np.ndarray:
    """One image moved, pixel by pixel."""
    moved = np.zeros_like(image)
    for row, column in np.ndindex(*image.shape):
        if 0 <= row - down < image.shape[0] and 0 <= column - across < image.shape[1]:
            moved[row, column] = image[row - down, column - across]
    return moved


@given(seeds, st.integers(1, 4))
@settings(deadline=None)
def test_shifts_are_those_of_a_loop_over_pixels(seed: int, pixels: int):
    query, key = seen(Shift(pixels=pixels), IMAGES, seed)
    offsets = np.random.default_rng(seed).integers(-pixels, pixels + 1, size=(len(IMAGES), 2))
    np.testing.assert_array_equal(query, IMAGES)
    np.testing.assert_array_equal(key, [shifted(image, *offset) for image, offset in zip(IMAGES, offsets, strict=True)])


def test_every_shift_occurs_and_both_shift_independently():
    query, key = seen(Shift(both=True), np.broadcast_to(IMAGES[0], (2000, 5, 6)))
    moved = {(down, across): shifted(IMAGES[0], down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)}
    shares = [[(view == image).all(axis=(1, 2)) for image in moved.values()] for view in (query, key)]
    for share in shares:
        np.testing.assert_allclose(np.mean(share, axis=1), 1 / 9, atol=0.03)
    together = np.array(shares[0])[:, None] & np.array(shares[1])[None]
    np.testing.assert_allclose(together.mean(axis=-1), 1 / 81, atol=0.012)


@pytest.mark.parametrize(
    ("view", "samples", "words"),
    [
        (Halves(), ROWS, r"halves needs images .* shape \(11,\)"),
        (Halves(), IMAGES[:, :, :5], r"even width.* shape \(5, 5\)"),
        (Halves(), IMAGES[..., None], r"halves needs images"),
        (Shift(), ROWS, r"shift by up to 1 pixels needs images .* shape \(11,\)"),
        (Shift(pixels=5), IMAGES, r"shift by up to 5 pixels .* shape \(5, 6\)"),
    ],
)
def test_samples_that_cannot_be_seen_so(view: View, samples: np.ndarray, words: str):
    with pytest.raises(ValueError, match=words):
        seen(view, samples)


PARTS = st.sampled_from([Identical(), GaussianNoise(std=0.2, both=True), RandomMask(), Shift(both=True)])


@given(st.lists(PARTS, min_size=1, max_size=4), seeds)
@settings(deadline=None)
def test_a_composition_is_one_view_after_the_other_with_one_generator(parts: list[View], seed: int):
    rng = np.random.default_rng(seed)
    query, key = IMAGES, IMAGES
    for part in parts:
        query, key = part(query, key, rng)
    composed = seen(Composition(views=tuple(parts)), IMAGES, seed)
    np.testing.assert_array_equal(composed[0], query)
    np.testing.assert_array_equal(composed[1], key)


def test_every_view_may_be_chosen_for_a_source_and_within_a_list():
    assert set(VIEW_CHOICES) == {*VIEWS, "composition"}
    for name in VIEWS:
        chosen = TrialSettings.model_validate({"data": {"source": "digits", "views": [name, name]}})
        assert [view.name for view in chosen.data.views.views] == [name, name]


def settings_of(views: object) -> TrialSettings:
    return TrialSettings.model_validate({"data": {"source": "digits", "views": views}})


def test_a_list_of_one_view_is_that_view_with_its_id():
    assert settings_of(["halves"]) == settings_of("halves") == settings_of([{"name": "halves"}])
    assert trial_id(settings_of(["halves"])) == trial_id(settings_of("halves")) == trial_id(TrialSettings())


def test_the_order_and_the_settings_of_views_are_in_the_id_and_their_defaults_are_not():
    noise = {"name": "gaussian-noise", "std": 0.1, "both": False}
    ids = {trial_id(settings_of(views)) for views in (["halves", "gaussian-noise"], ["halves", noise])}
    others = [["gaussian-noise", "halves"], ["halves", noise | {"std": 0.2}], ["halves", noise | {"both": True}]]
    assert len(ids) == 1
    assert len(ids | {trial_id(settings_of(views)) for views in others}) == 4


def test_a_composition_survives_being_dumped_flattened_and_hashed():
    composed = settings_of(["halves", {"name": "gaussian-noise", "both": True}])
    for dumped in (composed.model_dump(), composed.model_dump(exclude_unset=True)):
        assert TrialSettings.model_validate(dumped) == composed
    assert TrialSettings.model_validate_json(composed.model_dump_json()) == composed
    assert hash(composed.data) == hash(settings_of(["halves", {"name": "gaussian-noise", "both": True}]).data)
    flat = flatten(composed)
    assert flat["data.views.name"] == "composition"
    assert flat["data.views.views"] == '[{"name":"halves"},{"both":true,"name":"gaussian-noise"}]'


def test_noise_of_views_adds_up_in_squares():
    both = Composition(views=(GaussianNoise(std=0.3), Identical(), GaussianNoise(std=0.4)))
    assert both.noise == pytest.approx(0.5)
    assert Composition(views=(GaussianNoise(), Halves())).noise == np.inf
