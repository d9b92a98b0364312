"""Reading experiments: what is wrong in a file is told with its line, the value given, and what is allowed."""

import json
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from suite import load_experiment, measurement_page
from suite.experiment import Experiment
from suite.loading import ExperimentError, setting_paths
from suite.reference import ROOT, json_schema, markdown
from suite.trials import expand
from suite.yaml_source import read_yaml


def written(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, **options: object) -> str:
    """The message of a file that is refused, its lines without the folder."""
    with pytest.raises(ExperimentError) as caught:
        load_experiment(written(folder, text), **options)
    return str(caught.value).replace(f"{folder}/", "")


BAD = [
    ("name: a\nencoder:\n  widht: 4\n", ["x.yaml:3:", "'encoder.widht'", "did you mean 'width'?", "depth"]),
    ("name: a\nstationary_belwo: 1\n", ["x.yaml:2:", "'stationary_belwo'", "'stationary_below'"]),
    ("name: a\ndata: {source: digitz}\n", ["x.yaml:2:", "'digitz'", "did you mean 'digits'?", "npz", "sphere"]),
    ("name: a\ndata: digitz\n", ["x.yaml:2:", "'digitz'", "source", "digits, idx, npz"]),
    ("name: a\ndata: {samples: 4}\n", ["x.yaml:2:", "without its 'source'", "digits, idx, npz"]),
    ("name: a\ndata: {source: digits, samples: 5000}\n", ["x.yaml:2:", "5000", "at most 1797"]),
    ("name: a\nencoder:\n  width: wide\n", ["x.yaml:3:", "encoder.width", "'wide'", "whole number"]),
    ("name: a\nencoder:\n  width: 64.5\n", ["x.yaml:3:", "64.5", "whole number"]),
    ("name: a\nencoder:\n  width: true\n", ["x.yaml:3:", "got true", "whole number"]),
    ("name: a\nencoder:\n  width: -4\n", ["x.yaml:3:", "-4", "at least 1"]),
    ("name: a\nencoder:\n", ["x.yaml:2:", "encoder", "got nothing"]),
    ("name: a\ndata:\n", ["x.yaml:2:", "data", "got nothing"]),
    ("name: a\nloss: infonse\n", ["x.yaml:2:", "'infonse'", "did you mean 'infonce'?"]),
    ("name: a\nloss: {name: infonce, similarity: cos}\n", ["x.yaml:2:", "'cos'", "'dot' or 'cosine'"]),
    ("name: a\nloss: {name: infonce, temperature: 0}\n", ["x.yaml:2:", "loss.temperature", "greater than 0"]),
    ("name: a\nloss: {name: infonce, temperature: .inf}\n", ["x.yaml:2:", "finite"]),
    ("name: a\nloss: {name: infonce, symmetric: yes}\n", ["x.yaml:2:", "'yes'", "true or false"]),
    ("name: a\noptimizer: {name: gd, learning_rate: {rule: widht}}\n", ["x.yaml:2:", "did you mean 'width'?"]),
    ("name: a\noptimizer: {name: gd, learning_rate: 0.1}\n", ["x.yaml:2:", "0.1", "constant, sharpness"]),
    ("name: a\noptimizer: {name: gd, learning_rate: {rule: constant}}\n", ["value is missing"]),
    ("name: a\nencoder: {parametrization: mup}\n", ["x.yaml:2:", "mup with cosine"]),
    ("name: a\nsweep:\n  seed: [1]\n  encoder.parametrization: [ntk, mup]\n", ["x.yaml:4:", "mup with cosine"]),
    ("name: a\nepsilons: [0.1, 0.2]\n", ["x.yaml:2:", "strictly decreasing"]),
    ("name: a\nepsilons: {geometric: [x, 2, 3]}\n", ["x.yaml:2:", "geometric takes", "'x'"]),
    ("name: a\nepsilons: []\n", ["x.yaml:2:", "at least 1"]),
    ("name: a\nlaws:\n- {law: pover, y: a, x: b}\n", ["x.yaml:3:", "'pover'", "'power'"]),
    ("name: a\nlaws:\n- {law: power, y: steps, x: seed, epsilon: 0.3}\n", ["x.yaml:3:", "0.3", "0.0316228"]),
    ("name: a\npredictions: [descend]\n", ["x.yaml:2:", "'descend'", "descent"]),
    ("name: a\nresources: {cpus: 0, gpus: -1}\n", ["resources.cpus: got 0", "resources.gpus: got -1"]),
    ("name: a\nsweep:\n  seed: []\n", ["x.yaml:3:", "seed", "empty"]),
    ("name: a\nsweep:\n  seed: 3\n", ["x.yaml:3:", "3 is not an axis", "{range: n}"]),
    ("name: a\nsweep:\n  seed: {range: 0}\n", ["x.yaml:3:", "range", "got 0"]),
    ("name: a\nsweep:\n  seed: {range: 3, log2: 2}\n", ["x.yaml:3:", "not an axis"]),
    ("name: a\nsweep:\n  encoder.width: {log2: [0, 3]}\n", ["x.yaml:3:", "positive", "[0, 3]"]),
    ("name: a\nsweep:\n  encoder.width: {geometric: [1, 3]}\n", ["x.yaml:3:", "[a, b, n]"]),
    ("name: a\nsweep:\n  encoder.width:\n  - 64\n  - wide\n", ["x.yaml:5:", "'wide'", "whole number"]),
    ("name: a\nsweep:\n  encoder.width: [64, [1]]\n", ["x.yaml:3:", "[1]", "whole number"]),
    ("name: a\nsweep:\n  encoder.widht: [64]\n", ["x.yaml:3:", "'encoder.widht'", "did you mean 'encoder.width'?"]),
    ("name: a\nsweep:\n  budget.steps: [64]\n", ["x.yaml:3:", "cannot be swept"]),
    ("name: a\nsweep:\n  1: [64]\n", ["x.yaml:", "unknown setting '1'"]),
    ("name: a\nsweep: [1]\n", ["x.yaml:2:", "mapping of setting paths"]),
    ("name: a\nsweep:\n  zip:\n  - {encoder.width: [1, 2], seed: [1]}\n", ["x.yaml:4:", "equal lengths"]),
    ("name: a\nsweep:\n  zip: {seed: [1, 2]}\n", ["x.yaml:3:", "list of groups"]),
    ("name: a\nsweep:\n  zip: []\n", ["x.yaml:3:", "list of groups"]),
    ("name: a\nsweep:\n  seed: [1]\n  zip: [{seed: [1, 2]}]\n", ["x.yaml:4:", "swept twice"]),
    ("name: a\nsweep: {seed: {range: 100000000}}\n", ["x.yaml:2:", "100,000,000", "1,000,000"]),
    ("name: a\nsweep: {seed: {range: 2000}, data.samples: {range: 1797}}\n", ["3,594,000 trials", "1,000,000"]),
    ("name: a\nsweep:\n  encoder.width: {log2: [1, 1e400]}\n", ["x.yaml:3:", "log2 takes", "[1, inf]", "1e+150"]),
    ("name: a\nsweep:\n  encoder.width: {geometric: [1, 2, .nan]}\n", ["x.yaml:3:", "geometric takes", "nan"]),
    ("name: a\nepsilons: {log2: [.inf, 1]}\n", ["x.yaml:2:", "log2 takes", "inf"]),
    ("name: a\nsweep:\n  zip:\n  - {1: [3]}\n", ["x.yaml:4:", "unknown setting '1'"]),
    ("name: a\nseed: 9223372036854775808\n", ["x.yaml:2:", "at most 9223372036854775807"]),
    ("name: a\nsweep:\n  seed: [0, 9223372036854775808]\n", ["x.yaml:3:", "at most 9223372036854775807"]),
    (f"name: {'a' * 101}\n", ["x.yaml:1:", "at most 100 characters"]),
    ("name: a\ndata: {source: digits, input_dim: 5}\n", ["x.yaml:2:", "'data.input_dim'. Known: center, samples"]),
    ("name: a\nprofiles:\n  p: {encoder: {widht: 3}}\n", ["x.yaml:3:", "profile 'p'", "'encoder.width'?"]),
    ("name: a\nprofiles:\n  p:\n    budgt: {steps: 3}\n", ["x.yaml:4:", "'budgt.steps'", "'budget.steps'?"]),
    ("name: a\nprofiles:\n  p: {sweep: {encoder.widht: [3]}}\n", ["x.yaml:3:", "did you mean 'encoder.width'?"]),
    ("seed: 1\n", ["x.yaml:1:", "name is missing"]),
    ("name: Hello World\n", ["x.yaml:1:", "'Hello World'", "lower-case"]),
    ("name: 3\n", ["x.yaml:1:", "got 3", "quotes"]),
    ("1: 2\nname: a\n", ["x.yaml:1:", "keys must be text"]),
    ("[1, 2]: 2\nname: a\n", ["x.yaml:1:", "not valid YAML"]),
    ("- a\n", ["x.yaml:1:", "top level is a list", "stillpoint init"]),
    ("", ["x.yaml:1:", "empty"]),
    ("seed: 1\nname: a\nname: b\n", ["x.yaml:3:", "'name' is given twice", "line 2"]),
    ("name: a\n  b: [\n", ["x.yaml:2:", "not valid YAML"]),
    ("name: a\nencoder:\n\twidth: 3\n", ["x.yaml:3:", "not valid YAML"]),
    ("name: a\nencoder: &e {width: *e}\n", ["x.yaml:2:", "alias contains itself"]),
    ("name: !!python/object:os.system a\n", ["x.yaml:1:", "not valid YAML"]),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[text.strip().replace("\n", "|")[:60] for text, _ in BAD])
def test_a_bad_file_is_told_by_line_value_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]):
    message = problems(tmp_path, text)
    for word in words:
        assert word in message
    assert "pydantic" not in message


def test_all_problems_are_told_at_once(tmp_path: Path):
    message = problems(tmp_path, "name: A\nseed: -1\nencoder:\n  widht: 3\nsweep:\n  seed: []\n")
    assert [line.split(": ")[0] for line in message.splitlines()] == ["x.yaml:1", "x.yaml:2", "x.yaml:4", "x.yaml:6"]


@pytest.mark.parametrize("first", ["encoder.depth: [0, 2]", "encoder.depth: [0]"])
@pytest.mark.parametrize("line", [3, 4, 5])
def test_a_bad_value_is_told_at_its_own_axis_alone(tmp_path: Path, first: str, line: int):
    axes = ["encoder.width: [8, 16]", "seed: [1, 2]"]
    axes.insert(line - 3, first)
    message = problems(tmp_path, "name: a\nsweep:\n" + "".join(f"  {axis}\n" for axis in axes))
    assert message == f"x.yaml:{line}: encoder.depth: got 0; it must be at least 1"


@pytest.mark.parametrize("profile", ["3", "[3]", ""])
def test_a_profile_that_is_no_mapping_is_told_when_it_is_chosen(tmp_path: Path, profile: str):
    message = problems(tmp_path, f"name: a\nprofiles:\n  p: {profile}\n", profile="p")
    assert message.startswith("x.yaml:3: profiles.p: got")
    assert "write a mapping" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed.foo=3", ["--set seed.foo=3: seed: got {'foo': 3}", "whole number"]),
        ("encodr.width=3", ["--set encodr.width=3: unknown key", "'encoder'?"]),
        ("encoder.width", ["--set encoder.width", "KEY=VALUE"]),
        ("encoder.widht=3", ["--set encoder.widht=3", "did you mean 'width'?"]),
        ("encoder.width=[a", ["--set encoder.width=[a", "not YAML"]),
        ("encoder.width=wide", ["--set encoder.width=wide", "'wide'", "whole number"]),
        ("seed=[]", ["--set seed=[]", "empty"]),
        ("seed=[1, x]", ["--set seed=[1, x]", "'x'"]),
    ],
)
def test_a_bad_override_is_told_as_it_was_typed(tmp_path: Path, override: str, words: list[str]):
    message = problems(tmp_path, "name: a\n", overrides=[override])
    for word in words:
        assert word in message


LAWFUL = """name: a
sweep:
  encoder.width: [8, 16]
  loss.similarity: [dot, cosine]
laws:
- law: power
  y: {y}
  x: {x}
  by: {by}
"""


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ({"y": "steps_to_stationarty"}, ["x.yaml:7: laws.0.y", "did you mean 'steps_to_stationarity'?"]),
        ({"y": "epsilon"}, ["x.yaml:7: laws.0.y", "'epsilon'", "time_to_stationarity"]),
        ({"y": "status"}, ["x.yaml:7: laws.0.y", "'status'"]),
        ({"x": "encoder.widht"}, ["x.yaml:8: laws.0.x", "did you mean 'encoder.width'?", "Known: epsilon, width"]),
        ({"x": "[width, dpth]"}, ["x.yaml:8: laws.0.x: 'dpth'", "did you mean 'depth'?"]),
        ({"x": "similarity"}, ["x.yaml:8: laws.0.x", "'similarity' has no numbers"]),
        ({"x": "name"}, ["x.yaml:8: laws.0.x", "coupling.name, ", "give the full path"]),
        ({"y": "displacement", "x": "epsilon"}, ["x.yaml:8: laws.0.x: 'epsilon'", "Known: width"]),
        ({"by": "similarty"}, ["x.yaml:9: laws.0.by", "did you mean 'similarity'?"]),
        ({"by": "[width, epsilon]"}, ["x.yaml:9: laws.0.by: 'epsilon'", "Known: similarity, width"]),
        ({"by": "loss"}, ["x.yaml:9: laws.0.by: 'loss'", "Known: similarity, width"]),
    ],
    ids=str,
)
def test_a_law_of_something_that_is_no_column_is_refused_before_training(tmp_path: Path, law, words: list[str]):
    fine = {"y": "steps_to_stationarity", "x": "width", "by": "similarity"}
    message = problems(tmp_path, LAWFUL.format(**fine | law))
    for word in words:
        assert word in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "law",
    [
        {},
        {"y": "loss", "x": "encoder.width", "by": "[seed, loss.similarity]"},
        {"x": "epsilon", "by": "width"},
        {"x": "depth", "by": "coupling"},
        {"y": "time_to_stationarity", "x": "num_parameters"},
    ],
    ids=str,
)
def test_a_law_may_name_what_the_results_hold(tmp_path: Path, law):
    fine = {"y": "steps_to_stationarity", "x": "width", "by": "similarity"}
    load_experiment(written(tmp_path, LAWFUL.format(**fine | law)), overrides=["encoder.width=8"] if law else [])


FULL = """
name: full
description: everything
data: {source: sphere, samples: 8, input_dim: 6, views: {name: gaussian-noise, std: 0.2}}
encoder: {width: 32, depth: 1, embedding_dim: 4, parametrization: standard, key: {width: 16}}
loss: {name: infonce, similarity: dot, temperature: 2, symmetric: true}
optimizer: {name: gd, learning_rate: {rule: constant, value: 1e-3}}
epsilons: {geometric: [1e-1, 1e-3, 5]}
budget: {steps: 50, time: 20}
sweep:
  encoder.width: {log2: [8, 64]}
  zip:
  - {data.samples: [4, 8], loss.temperature: [1, 2.5]}
  seed: {range: 3}
profiles:
  small: {budget: {steps: 5}, sweep: {encoder.width: [8]}}
"""


def test_every_form_of_axis_is_resolved(tmp_path: Path):
    experiment = load_experiment(written(tmp_path, FULL))
    assert experiment.sweep["encoder.width"] == [8, 16, 32, 64]
    assert experiment.epsilons == (0.1, 0.0316228, 0.01, 0.00316228, 0.001)
    trials = expand(experiment).trials
    assert len(trials) == 4 * 2 * 3
    assert {(t.settings.data.samples, t.settings.loss.temperature) for t in trials} == {(4, 1), (8, 2.5)}
    assert {t.settings.encoder.towers()["key"].width for t in trials} == {16}


@pytest.mark.parametrize(
    ("override", "widths", "steps"),
    [
        ("encoder.width=128", {128}, 50),
        ("encoder.width=[5, 7]", {5, 7}, 50),
        ("encoder.width={geometric: [4, 16, 3]}", {4, 8, 16}, 50),
        ("sweep.encoder.width=[5]", {5}, 50),
        ("budget.steps=9", {8, 16, 32, 64}, 9),
    ],
)
def test_an_override_replaces_a_setting_or_its_axis(tmp_path: Path, override: str, widths: set[int], steps: int):
    experiment = load_experiment(written(tmp_path, FULL), overrides=[override])
    assert {t.settings.encoder.width for t in expand(experiment).trials} == widths
    assert experiment.budget.steps == steps
    assert experiment.budget.time == 20


def test_an_override_takes_one_axis_out_of_a_zip(tmp_path: Path):
    experiment = load_experiment(written(tmp_path, FULL), overrides=["data.samples=6", "seed=0"])
    trials = expand(experiment).trials
    assert {(t.settings.data.samples, t.settings.loss.temperature) for t in trials} == {(6, 1), (6, 2.5)}
    assert len(trials) == 8


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("encoder.width=[4, 5]", "m4-n4-tau1-s0"),
        ("data.samples=[5, 6]", "m8-tau1-n5-s0"),
        ("seed=[7]", "m8-n4-tau1-s7"),
        ("encoder.depth=[1]", "m8-n4-tau1-s0-L1"),
    ],
)
def test_an_override_of_an_axis_keeps_its_place_in_names(tmp_path: Path, override: str, first: str):
    experiment = load_experiment(written(tmp_path, FULL), overrides=[override])
    assert expand(experiment).trials[0].name == first


def test_an_axis_that_is_replaced_keeps_its_place(tmp_path: Path):
    text = "name: a\nsweep: {encoder.width: [8], zip: [{encoder.depth: [1, 2]}], seed: [0]}\n"
    text += "profiles: {quick: {sweep: {seed: {range: 2}, encoder.width: [4, 8]}}}\n"
    experiment = load_experiment(written(tmp_path, text), profile="quick", overrides=["seed=[5, 6]"])
    assert list(experiment.sweep) == ["encoder.width", "zip", "seed"]


def test_settings_that_need_each_other_may_be_swept_over_a_base_that_suits_them(tmp_path: Path):
    text = "name: a\nloss: {name: infonce, similarity: dot}\nencoder: {train_ends: true}\n"
    text += "sweep: {encoder.parametrization: [standard, mup]}\n"
    assert len(expand(load_experiment(written(tmp_path, text))).trials) == 2


def test_values_that_move_together_are_checked_together(tmp_path: Path):
    text = "name: a\nsweep:\n  zip:\n  - encoder.train_ends: [false, true]\n    encoder.train_hidden: [true, false]\n"
    assert len(expand(load_experiment(written(tmp_path, text))).trials) == 2
    message = problems(tmp_path, text.replace("[false, true]", "[false, false]"))
    assert message.startswith("x.yaml:5: encoder.train_hidden: false leaves nothing to train")


def test_a_profile_overrides_and_names_its_own_results(tmp_path: Path):
    experiment = load_experiment(written(tmp_path, FULL), profile="small")
    assert (experiment.name, experiment.budget.steps, experiment.budget.time) == ("full-small", 5, 20)
    assert experiment.sweep["encoder.width"] == [8]
    assert "small" in problems(tmp_path, FULL, profile="smal")


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("experiments/*.yaml")), ROOT / "suite" / "starter.yaml"])
def test_committed_experiments_load_and_match_the_schema(path: Path):
    load_experiment(path)
    jsonschema.validate(read_yaml(path).data, json_schema())


def test_the_full_example_matches_the_schema_and_a_misspelt_key_does_not(tmp_path: Path):
    data = read_yaml(written(tmp_path, FULL)).data
    jsonschema.validate(data, json_schema())
    data["encoder"]["widht"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())


def test_the_committed_schema_and_reference_are_those_of_the_models():
    assert json.loads((ROOT / "suite" / "experiment.schema.json").read_text()) == json_schema()
    assert (ROOT / "docs" / "experiment.md").read_text() == markdown()
    assert (ROOT / "docs" / "measurements.md").read_text() == measurement_page.markdown()


def test_every_field_of_an_experiment_is_documented():
    reference = markdown()
    for name in [*Experiment.model_fields, *(path.rpartition(".")[2] for path in setting_paths())]:
        assert f"`{name}`" in reference or f"{name}`" in reference, name


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["range", "log2", "width", "name", "source", "zip"]), inner, max_size=2)
        ),
    ),
    st.sampled_from([*Experiment.model_fields, "sweep.seed", "sweep.zip", "sweep.data"]),
)
def test_whatever_stands_at_a_key_is_accepted_or_refused_in_words(tmp_path_factory, value, key):
    data: dict[str, object] = {"name": "a"}
    top, _, inner = key.partition(".")
    data[top] = {inner: value} if inner else value
    path = written(tmp_path_factory.mktemp("any"), yaml.safe_dump(data))
    with suppress(ExperimentError):
        load_experiment(path)
