"""Lists of views in an experiment file: what they mean in a setting and in an axis, and where a mistake is told."""

from pathlib import Path

import pytest

from suite import load_experiment
from suite.data.composition import Composition
from suite.data.views import GaussianNoise, Halves, Shift
from suite.loading import ExperimentError, setting_paths
from suite.run import experiment_yaml
from suite.trials import expand

HEAD = "name: a\ndata:\n  source: digits\n  views:\n"
SWEEP = "name: a\nsweep:\n  data.views:\n"
PLANTED = "name: a\ndata:\n  source: sphere\n  separation: 0.4\n"
NOISE = GaussianNoise(std=0.1, both=True)


def views_of(folder: Path, text: str, **options: object) -> list[object]:
    """The views of each trial of a file."""
    path = folder / "x.yaml"
    path.write_text(text)
    return [trial.settings.data.views for trial in expand(load_experiment(path, **options)).trials]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "  - halves\n", [Halves()]),
        (HEAD + "  - name: shift\n    pixels: 2\n", [Shift(pixels=2)]),
        (HEAD + "  - halves\n  - {name: gaussian-noise, both: true}\n", [Composition(views=(Halves(), NOISE))]),
        (HEAD + "    {name: composition, views: [halves, shift]}\n", [Composition(views=(Halves(), Shift()))]),
        (SWEEP + "  - halves\n  - gaussian-noise\n", [Halves(), GaussianNoise()]),
        (SWEEP + "  - [halves, shift]\n  - [halves]\n", [Composition(views=(Halves(), Shift())), Halves()]),
        (SWEEP + "  - [halves, shift]\n  - halves\n  - [halves]\n", [Composition(views=(Halves(), Shift())), Halves()]),
        (HEAD + "  - halves\n  - shift\nsweep: {data.views: [shift]}\n", [Shift()]),
        (HEAD + "  - halves\n  - shift\nsweep: {data.samples: [2, 4]}\n", [Composition(views=(Halves(), Shift()))] * 2),
    ],
)
def test_a_list_is_a_composition_and_in_an_axis_a_list_of_values(tmp_path: Path, text: str, expected: list[object]):
    assert views_of(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.views=[halves, shift]", [Halves(), Shift()]),
        ("data.views=[[halves, shift]]", [Composition(views=(Halves(), Shift()))]),
        ("data.views=shift", [Shift()]),
        ("data.views.1.both=true", [Composition(views=(Halves(), NOISE))]),
        ("data.views.0=identical", [Composition(views=(NOISE.model_copy(update={"both": False}),) * 2)]),
    ],
)
def test_an_override_of_views(tmp_path: Path, override: str, expected: list[object]):
    override = override.replace("0=identical", "0=gaussian-noise")
    assert views_of(tmp_path, HEAD + "  - halves\n  - gaussian-noise\n", overrides=[override]) == expected


def test_a_list_in_a_profile_is_an_axis(tmp_path: Path):
    text = HEAD + "    halves\nprofiles:\n  p:\n    data: {views: [halves, [halves, shift]], samples: 8}\n"
    assert views_of(tmp_path, text, profile="p") == [Halves(), Composition(views=(Halves(), Shift()))]


def test_the_experiment_written_back_gives_the_same_trials(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(HEAD + "  - halves\n  - shift\nsweep:\n  data.center: [true, false]\n  seed: [0, 1]\n")
    once = load_experiment(path, overrides=["data.views=[halves, [halves, {name: shift, pixels: 2}]]"])
    plain = load_experiment(path)
    for experiment in (once, plain):
        path.write_text(experiment_yaml(experiment))
        again = expand(load_experiment(path)).trials
        assert [trial.trial_id for trial in again] == [trial.trial_id for trial in expand(experiment).trials]


BAD = [
    (HEAD + "  - halves\n  - shfit\n", ["x.yaml:6:", "data.views.1", "'shfit'", "did you mean 'shift'?"]),
    (HEAD + "  - shfit\n", ["x.yaml:5:", "data.views.0", "'shfit'", "did you mean 'shift'?"]),
    (HEAD + "  - halves\n  - name: shift\n    pixles: 3\n", ["x.yaml:7:", "'data.views.1.pixles'", "mean 'pixels'?"]),
    (
        HEAD + "  - halves\n  - name: shift\n    pixels: x\n",
        ["x.yaml:7:", "data.views.1.pixels: got 'x'; write a whole"],
    ),
    (HEAD + "  - name: shift\n    pixels: 0\n", ["x.yaml:6:", "data.views.0.pixels: got 0", "at least 1"]),
    (HEAD + "  - halves\n  - {std: 0.1}\n", ["x.yaml:6:", "data.views.1", "without its 'name'"]),
    (HEAD + "  - halves\n  - 3\n", ["x.yaml:6:", "data.views.1: got 3", "{name: ...}", "halves"]),
    (HEAD + "  - halves\n  - [shift]\n", ["x.yaml:6:", "data.views.1: got ['shift']", "{name: ...}"]),
    (HEAD + "  - halves\n  -\n", ["x.yaml:6:", "data.views.1: got nothing", "{name: ...}"]),
    (HEAD + "  - composition\n", ["x.yaml:5:", "data.views.0", "unknown name 'composition'"]),
    (HEAD + "    []\n", ["x.yaml:4:", "data.views", "empty list", "identical"]),
    (HEAD + "    {name: shift, std: 3}\n", ["x.yaml:5:", "unknown key 'data.views.std'. Known: both, name, pixels"]),
    (HEAD + "    {name: composition, views: [{name: shift, pixels: 0}]}\n", ["data.views.views.0.pixels: got 0"]),
    (HEAD + "    {name: composition, views: halves}\n", ["x.yaml:5:", "data.views.views: got 'halves'; write a list"]),
    (HEAD + "    {name: composition}\n", ["x.yaml:4:", "data.views.views is missing"]),
    (SWEEP + "  - halves\n  - shfit\n", ["x.yaml:5:", "data.views: unknown name 'shfit'", "did you mean 'shift'?"]),
    (SWEEP + "  - [halves]\n  -\n    - halves\n    - shfit\n", ["x.yaml:7:", "data.views.1", "did you mean 'shift'?"]),
    (SWEEP + "  -\n    - halves\n    - name: shift\n      pixels: x\n", ["x.yaml:7:", "data.views.1.pixels: got 'x'"]),
    ("name: a\nsweep:\n  data.views.views: [[halves]]\n", ["x.yaml:3:", "unknown setting 'data.views.views'"]),
    (
        HEAD + "  - halves\n  - shift\nsweep: {data.views.pixels: [2]}\n",
        ["x.yaml:7:", "unknown key 'data.views.pixels'"],
    ),
    ("name: a\nsweep:\n  data.samples: [4, 0]\n", ["x.yaml:3:", "data.samples: got 0"]),
    (PLANTED, ["x.yaml:2:", "data.views.std", "0.4", "a quarter of it, 0.1", "gaussian-noise has 0.1"]),
    (
        PLANTED + "  views: {name: gaussian-noise, std: 0.3}\n",
        ["x.yaml:5:", "data.views.std", "gaussian-noise has 0.3"],
    ),
    (
        PLANTED + "  views:\n  - identical\n  - name: gaussian-noise\n    std: 0.2\n",
        ["x.yaml:8:", "data.views.1.std", "composition has 0.2"],
    ),
    (PLANTED + "  views: random-mask\n", ["x.yaml:5:", "data.views", "random-mask does more than add noise"]),
    (PLANTED + "  views: identical\n  samples: 5\n", ["x.yaml:6:", "data.samples", "even; got 5"]),
    (PLANTED + "  views: identical\n  center: true\n", ["x.yaml:6:", "data.center", "distances"]),
    (PLANTED + "  views: identical\nsweep:\n  data.samples: [4, 5]\n", ["x.yaml:7:", "data.samples", "even; got 5"]),
    (
        "name: a\ndata:\n  source: sphere\n  separation: 1.5\n",
        ["x.yaml:4:", "data.separation: got 1.5", "at most 1.41"],
    ),
    ("name: a\ndata:\n  source: sphere\n  separation: 0\n", ["x.yaml:4:", "data.separation: got 0", "greater than 0"]),
    ("name: a\ndata:\n  source: sparse_coding\n  dictionary: 65\n", ["x.yaml:4:", "data.dictionary", "at most 64"]),
    (
        "name: a\ndata:\n  source: patches\n  size: 300\n  gap: 41\n",
        ["x.yaml:5:", "data.gap", "427 x 640", "at most 40"],
    ),
    ("name: a\ndata:\n  source: patches\n  samples: 525001\n", ["x.yaml:4:", "data.samples", "525000 positions"]),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[text.strip().replace("\n", "|")[8:70] for text, _ in BAD])
def test_a_mistake_is_told_where_it_stands(tmp_path: Path, text: str, words: list[str]):
    with pytest.raises(ExperimentError) as caught:
        views_of(tmp_path, text)
    (message,) = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    for word in words:
        assert word in message


@pytest.mark.parametrize("override", ["data.views=[[halves, shfit]]", "data.views.1=shfit", "data.views.1.name=shfit"])
def test_a_mistake_in_an_override_is_told_as_it_was_typed(tmp_path: Path, override: str):
    with pytest.raises(ExperimentError) as caught:
        views_of(tmp_path, HEAD + "  - halves\n  - shift\n", overrides=[override])
    assert str(caught.value).startswith(f"--set {override}: data.views.1: unknown name 'shfit'; did you mean 'shift'?")


def test_paths_within_a_list_of_views_are_no_axes():
    assert "data.views" in setting_paths()
    assert "data.views.pixels" in setting_paths()
    assert not [path for path in setting_paths() if path.startswith("data.views.views")]
