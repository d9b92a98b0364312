"""Every combination of choices either trains or is refused in the file, with its line, its path and the reason.

What is combined is read off the registries, so that a new loss, coupling, parametrization, optimizer, rule or schedule
is tried with all the others. A choice that cannot do without some setting needs a value in NEEDED.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from suite import load_experiment
from suite.data.source import SOURCES
from suite.experiment import Budget, Experiment
from suite.loading import ExperimentError
from suite.registry import Registry
from suite.training.activations import Activation
from suite.training.arithmetic import num_parameters
from suite.training.couplings import COUPLINGS, Coupling
from suite.training.learning_rates import LEARNING_RATES
from suite.training.loop import Job, Loop
from suite.training.losses import LOSSES
from suite.training.optimizers import OPTIMIZERS
from suite.training.parametrizations import PARAMETRIZATIONS
from suite.training.records import is_record_step
from suite.training.schedules import SCHEDULES
from suite.trials import expand

Plain = dict[str, Any]
STEPS, PER_DECADE, SEEDS = 20, 1, (0, 1)
RECORDED = [step for step in range(STEPS) if is_record_step(step, PER_DECADE)] + [STEPS]
NEEDED: Plain = {"batch_size": 3, "steps": 30, "value": 1e-3, "path": "none"}
SWITCHES: Plain = {"negatives": 2, "trainable": True}
SLOW = {"rule": "width", "c": 0.02}
BASE: Plain = {
    "name": "x",
    "data": {"source": "digits", "samples": 6},
    "encoder": {"width": 8, "depth": 1, "embedding_dim": 3},
    "loss": {"name": "infonce"},
    "coupling": {"name": "joint"},
    "optimizer": {"name": "gd"},
    "records_per_decade": PER_DECADE,
    "epsilons": [1e-2],
}


def chosen(registry: Registry, name: str, **given: Any) -> Plain:
    """A choice as the YAML has it, with what it cannot do without."""
    fields = registry[name].model_fields
    return {registry.tag: name, **{key: NEEDED[key] for key in fields if fields[key].is_required()}, **given}


def variants_of_losses() -> Iterator[Plain]:
    """Each loss with both similarities, as it is and with all its switches on."""
    for name, similarity in itertools.product(LOSSES, ("dot", "cosine")):
        plain = chosen(LOSSES, name, similarity=similarity)
        yield plain
        if switches := {key: value for key, value in SWITCHES.items() if key in LOSSES[name].model_fields}:
            yield plain | switches


def variants_of_optimizers() -> Iterator[Plain]:
    """Each optimizer, with a schedule that falls where it would not settle without; and descent with momentum."""
    for name in OPTIMIZERS:
        plain = chosen(OPTIMIZERS, name, learning_rate=SLOW)
        linear = OPTIMIZERS[name].model_validate(plain).is_linear
        yield plain if linear else plain | {"schedule": chosen(SCHEDULES, "cosine")}
    yield chosen(OPTIMIZERS, "gd", momentum=0.9, learning_rate=SLOW)


def changed(data: Plain, changes: Plain) -> Plain:
    """The same with values at dotted paths."""
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        data = {**data, head: changed(data.get(head) or {}, {rest: value}) if rest else value}
    return data


def at(data: Plain, path: str) -> Any:
    """What stands at a dotted path, or nothing."""
    for part in path.split("."):
        data = (data or {}).get(part)
    return data


def without(data: Plain, path: str) -> Plain:
    """The same without what stands at a dotted path."""
    head, _, rest = path.partition(".")
    return {**data, head: without(data[head], rest)} if rest else {k: v for k, v in data.items() if k != head}


def words_of(choice: Plain) -> str:
    return "-".join(str(value) if key in ("name", "similarity") else key for key, value in choice.items())


@contextmanager
def noted(data: Plain) -> Iterator[None]:
    """Errors say which combination they are of."""
    try:
        yield
    except BaseException as error:
        error.add_note(yaml.safe_dump(data, sort_keys=False))
        raise


def read(folder: Path, data: Plain) -> Experiment:
    """The experiment of a file with these settings, in blocks."""
    (folder / "x.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_experiment(folder / "x.yaml")


def line_of(text: str, path: str) -> int:
    """Where the key at a dotted path stands in YAML written in blocks."""
    lines, number = text.splitlines(), -1
    for depth, part in enumerate(path.split(".")):
        number = next(n for n in range(number + 1, len(lines)) if lines[n].startswith(f"{'  ' * depth}{part}:"))
    return number + 1


def assert_refused(folder: Path, data: Plain, reasons: dict[str, str]) -> None:
    """The file is refused in one line, for one of these reasons, each at its path."""
    with pytest.raises(ExperimentError) as caught:
        read(folder, data)
    message, text = str(caught.value), (folder / "x.yaml").read_text()
    places = {f"{folder}/x.yaml:{line_of(text, path)}: {path}: ": reason for path, reason in reasons.items()}
    assert len(message.splitlines()) == 1, message
    assert any(message.startswith(place) and reason in message for place, reason in places.items()), message


class Watched:
    """Stands in for a lane, and notes which towers a coupling moves."""

    def __init__(self, coupling: Coupling) -> None:
        self.towers: set[str] = set()
        coupling.step(self)

    def descend(self, *towers: str) -> None:
        self.towers |= set(towers)

    def refresh(self) -> None:
        pass

    def average(self, kept: float) -> None:
        assert 0 <= kept < 1
        self.towers.add("key")


def assert_trains(folder: Path, data: Plain) -> None:
    """20 steps of two seeds side by side are finite and recorded, and move what is to move and nothing else."""
    trials = expand(read(folder, changed(data, {"sweep.seed": list(SEEDS)}))).trials
    jobs, settings = [Job(trial_id=trial.trial_id, settings=trial.settings) for trial in trials], trials[0].settings
    loop = Loop(jobs, slots=len(jobs), budget=Budget(steps=STEPS), stop_below=0)
    pair = loop.lane.pair
    start = [weight.detach().clone() for weight in pair.weights]
    while not loop.done:
        loop.run_chunk()
    outcomes, records = loop.take()
    ends = [(outcome.row["status"], outcome.row["ended_by"], outcome.row["steps"]) for outcome in outcomes]
    assert ends == [("finished", "steps", STEPS)] * len(SEEDS)
    for job in jobs:
        assert [row["step"] for row in records if row["trial_id"] == job.trial_id] == RECORDED
    assert all(math.isfinite(row[name]) for row in records for name in ("loss", "scaled_grad_norm_sq", "displacement"))
    towers = Watched(settings.coupling).towers | {"loss"}
    for name, part in pair.parts.items():
        for new, old in zip(pair.weights[part], start[part], strict=True):
            assert (new != old).flatten(1).any(1).tolist() == [name in towers] * len(SEEDS), (name, new.shape)
    assert sum(weight[0].numel() for weight in pair.weights) == num_parameters(settings)


def assert_trains_or_is_refused(folder: Path, data: Plain, reasons: dict[str, str]) -> None:
    """Refused for the reasons that there are, and trained where there is none."""
    with noted(data):
        assert_refused(folder, data, reasons) if reasons else assert_trains(folder, data)


def of_the_grid(data: Plain) -> dict[str, str]:
    """What speaks against a cell of the grid, by path."""
    loss, reasons = data["loss"], {}
    if loss["similarity"] in LOSSES[loss["name"]].unsuited:
        reasons["loss.similarity"] = "use similarity: "
    if at(data, "encoder.parametrization") == "mup" and loss["similarity"] == "cosine":
        reasons["encoder.parametrization"] = "mup with cosine similarity would shrink the embeddings"
    if "negatives" in loss and OPTIMIZERS[data["optimizer"]["name"]].model_validate(data["optimizer"]).batch:
        reasons["loss.negatives"] = "with batches the negatives are the rest of the batch"
    return reasons


@pytest.mark.parametrize("coupling", list(COUPLINGS))
@pytest.mark.parametrize("loss", list(variants_of_losses()), ids=words_of)
def test_a_loss_with_every_coupling_parametrization_and_optimizer(tmp_path: Path, loss: Plain, coupling: str):
    base = BASE | {"loss": loss, "coupling": chosen(COUPLINGS, coupling)}
    for parametrization, optimizer in itertools.product(PARAMETRIZATIONS, variants_of_optimizers()):
        data = changed(base, {"encoder.parametrization": parametrization, "optimizer": optimizer})
        assert_trains_or_is_refused(tmp_path, data, of_the_grid(data))


@pytest.mark.parametrize("coupling", list(COUPLINGS))
def test_a_symmetric_loss_with_every_coupling(tmp_path: Path, coupling: str):
    for name in (name for name in LOSSES if "symmetric" in LOSSES[name].model_fields):
        loss = chosen(LOSSES, name, symmetric=True)
        assert_trains_or_is_refused(tmp_path, BASE | {"loss": loss, "coupling": chosen(COUPLINGS, coupling)}, {})


OTHER_ACTIVATIONS = [name for name in get_args(Activation) if name != "relu"]
ARCHITECTURES: list[Plain] = [
    {"residual": True},
    {"biases": True},
    {"train_ends": True},
    {"train_ends": True, "train_hidden": False},
    {"train_ends": True, "biases": True, "residual": True, "depth": 2},
    {"key": {"width": 5}},
    {"key": {"depth": 2}},
    {"key": {"width": 5, "depth": 2}, "train_ends": True},
    *({"activation": name, "parametrization": p} for name in OTHER_ACTIVATIONS for p in PARAMETRIZATIONS),
]


def of_the_architecture(data: Plain) -> dict[str, str]:
    """What speaks against towers with a coupling, by path; the loss is InfoNCE with cosines."""
    encoder, reasons = data["encoder"], {}
    if encoder.get("parametrization") == "mup":
        reasons["encoder.parametrization"] = "mup with cosine similarity"
    if encoder.get("parametrization") == "allen-zhu" and "activation" in encoder:
        reasons["encoder.activation"] = "would see inputs of size 1/sqrt(width), where it is linear"
    if "key" in encoder and COUPLINGS[data["coupling"]["name"]].one_draw:
        reasons["encoder.key"] = "makes the key tower a copy of the query tower"
    return reasons


@pytest.mark.parametrize("coupling", list(COUPLINGS))
@pytest.mark.parametrize("linearized", [False, True])
def test_every_architecture_with_every_coupling(tmp_path: Path, linearized: bool, coupling: str):
    for architecture in ARCHITECTURES:
        encoder = BASE["encoder"] | architecture | {"linearized": linearized}
        data = BASE | {"encoder": encoder, "coupling": chosen(COUPLINGS, coupling)}
        assert_trains_or_is_refused(tmp_path, data, of_the_architecture(data))


def of_the_rate(data: Plain) -> dict[str, str]:
    """What speaks against a learning rate with an optimizer and a coupling, by path."""
    optimizer = OPTIMIZERS[data["optimizer"]["name"]].model_validate(data["optimizer"])
    if optimizer.learning_rate.rule != "sharpness":
        return {}
    if optimizer.name != "gd" or optimizer.momentum:
        return {"optimizer.learning_rate": "largest stable rate of full-batch gradient descent, not of "}
    along = COUPLINGS[data["coupling"]["name"]].along_gradient
    return {} if along else {"optimizer.learning_rate": "largest stable rate of steps along the gradient"}


@pytest.mark.parametrize("coupling", list(COUPLINGS))
def test_every_rule_and_schedule_with_every_optimizer_and_coupling(tmp_path: Path, coupling: str):
    rates = [{"learning_rate": chosen(LEARNING_RATES, rule)} for rule in LEARNING_RATES]
    rates += [{"schedule": chosen(SCHEDULES, schedule, warm_up=2)} for schedule in SCHEDULES]
    for rate, name in itertools.product(rates, OPTIMIZERS):
        data = BASE | {"optimizer": chosen(OPTIMIZERS, name, **rate), "coupling": chosen(COUPLINGS, coupling)}
        assert_trains_or_is_refused(tmp_path, data, of_the_rate(data))


def without_labels() -> Iterator[Plain]:
    sources = (chosen(SOURCES, name, samples=6) for name in SOURCES)
    return (source for source in sources if not SOURCES[source["source"]].model_validate(source).has_labels)


NONSENSE: list[tuple[Plain, str, str]] = [
    ({"encoder.parametrization": "mup"}, "encoder.parametrization", "use standard, or similarity: dot"),
    *(
        ({"encoder.activation": name, "encoder.parametrization": "allen-zhu"}, "encoder.activation", "use relu, or")
        for name in OTHER_ACTIVATIONS
    ),
    *(
        ({"loss": {"name": name, "similarity": similarity}}, "loss.similarity", reason)
        for name in LOSSES
        for similarity, reason in LOSSES[name].unsuited.items()
    ),
    ({"encoder.train_hidden": False}, "encoder.train_hidden", "leaves nothing to train; add train_ends: true"),
    ({"encoder.embedding_dim": 1}, "encoder.embedding_dim", "write at least 2, or use similarity: dot"),
    *(
        ({"coupling": name, "encoder.key": {"width": 4}}, "encoder.key", "use coupling joint, alternating or frozen")
        for name in COUPLINGS
        if COUPLINGS[name].one_draw
    ),
    *(
        ({"loss": name, "data": source}, "loss", "use digits, or npz or idx with labels")
        for name in LOSSES
        if "labels" in LOSSES[name]().needs
        for source in without_labels()
    ),
    ({"loss.negatives": 6}, "loss.negatives", "write at most 5, or leave it out"),
    ({"loss.negatives": 2, "optimizer": chosen(OPTIMIZERS, "sgd")}, "loss.negatives", "or use the full batch"),
    ({"loss.negatives": 2, "optimizer": {"name": "adam", "batch_size": 3}}, "loss.negatives", "use the full batch"),
    ({"optimizer": {"name": "sgd", "batch_size": 7}}, "optimizer.batch_size", "write at most 6"),
    ({"optimizer": {"name": "adam", "batch_size": 7}}, "optimizer.batch_size", "write at most 6"),
    (
        {"optimizer": {"name": "adam", "learning_rate": {"rule": "sharpness"}}},
        "optimizer.learning_rate",
        "use rule width or constant",
    ),
    (
        {"optimizer": {"name": "gd", "momentum": 0.9, "learning_rate": {"rule": "sharpness"}}},
        "optimizer.learning_rate",
        "not of gd with momentum",
    ),
    (
        {"optimizer": {"name": "sgd", "batch_size": 3, "learning_rate": {"rule": "sharpness"}}},
        "optimizer.learning_rate",
        "not of sgd",
    ),
    *(
        (
            {"coupling": name, "optimizer.learning_rate": {"rule": "sharpness"}},
            "optimizer.learning_rate",
            "or coupling joint or shared",
        )
        for name in COUPLINGS
        if not COUPLINGS[name].along_gradient
    ),
]


@pytest.mark.parametrize(("changes", "path", "reason"), NONSENSE)
def test_what_makes_no_sense_is_refused_where_it_stands(tmp_path: Path, changes: Plain, path: str, reason: str):
    assert_refused(tmp_path, changed(BASE, changes), {path: reason})


def assert_refused_on_its_axis(folder: Path, data: Plain, item: int, path: str, reason: str) -> None:
    """The file, whose last entry is a sweep of one axis, is refused at that value of the axis."""
    with pytest.raises(ExperimentError) as caught:
        read(folder, data)
    message, text = str(caught.value), (folder / "x.yaml").read_text()
    items = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith("  - ")]
    assert message.startswith(f"{folder}/x.yaml:{items[item]}: {path}: "), message
    assert reason in message
    assert len(message.splitlines()) == 1, message


@pytest.mark.parametrize(("changes", "path", "reason"), NONSENSE)
def test_what_makes_no_sense_is_refused_on_its_axis(tmp_path: Path, changes: Plain, path: str, reason: str):
    data, key = changed(BASE, changes), path.rpartition(".")[2]
    value = at(data, path)
    data = changed(data, {path: NEEDED[key]}) if key in NEEDED else without(data, path)
    assert_refused_on_its_axis(tmp_path, data | {"sweep": {path: [value]}}, 0, path, reason)


@pytest.mark.parametrize(
    ("changes", "axis", "values", "path"),
    [
        (
            {"encoder.parametrization": "mup", "loss.similarity": "dot"},
            "loss.similarity",
            ["dot", "cosine"],
            "encoder.parametrization",
        ),
        ({"loss.similarity": "dot", "encoder.embedding_dim": 1}, "loss", ["spectral", "dcl"], "encoder.embedding_dim"),
        ({"encoder.key": {"width": 4}}, "coupling", ["frozen", "shared"], "encoder.key"),
        ({"loss": "supcon"}, "data", [BASE["data"], {"source": "sphere"}], "loss"),
        ({"loss.negatives": 4}, "data.samples", [5, 4], "loss.negatives"),
        ({"loss.negatives": 4}, "optimizer", ["gd", chosen(OPTIMIZERS, "sgd")], "loss.negatives"),
        ({"optimizer": {"name": "sgd", "batch_size": 5}}, "data.samples", [5, 4], "optimizer.batch_size"),
        (
            {"optimizer.learning_rate": {"rule": "sharpness"}},
            "optimizer.name",
            ["gd", "adam"],
            "optimizer.learning_rate",
        ),
        (
            {"optimizer.learning_rate": {"rule": "sharpness"}},
            "coupling",
            ["joint", "frozen"],
            "optimizer.learning_rate",
        ),
    ],
)
def test_the_axis_that_makes_nonsense_of_another_setting_is_told(
    tmp_path: Path, changes: Plain, axis: str, values: list[Any], path: str
):
    base = changed(BASE, changes)
    assert expand(read(tmp_path, base | {"sweep": {axis: values[:1]}})).trials
    assert_refused_on_its_axis(tmp_path, base | {"sweep": {axis: values}}, 1, path, "")


@pytest.mark.parametrize(
    ("changes", "sweep"),
    [
        ({"loss.similarity": "dot"}, {"encoder.parametrization": ["standard", "mup"], "encoder.train_ends": [True]}),
        ({"loss.similarity": "dot"}, {"encoder.embedding_dim": [1, 2]}),
        ({"encoder.parametrization": "mup"}, {"loss.similarity": ["dot"], "seed": [0, 1]}),
        ({"data.samples": 99}, {"loss.negatives": [98]}),
        ({"data.samples": 99, "optimizer": {"name": "sgd", "batch_size": 4}}, {"optimizer.batch_size": [9, 98]}),
        ({"optimizer": {"name": "sgd", "batch_size": 9}}, {"data.samples": [9, 10]}),
        ({}, {"zip": [{"data.samples": [10, 99], "loss.negatives": [9, 98]}]}),
        ({}, {"zip": [{"loss": ["infonce", "spectral"], "encoder.parametrization": ["ntk", "mup"]}]}),
        ({"coupling": "shared"}, {"zip": [{"coupling": ["frozen", "joint"], "encoder.key": [{"width": 4}, None]}]}),
    ],
)
def test_cells_are_judged_as_they_are_and_not_by_what_the_sweep_replaces(tmp_path: Path, changes: Plain, sweep: Plain):
    assert expand(read(tmp_path, changed(BASE, changes) | {"sweep": sweep})).trials


@pytest.mark.parametrize(
    ("changes", "sweep", "line"),
    [
        ({}, {"seed": [0, 1], "encoder.parametrization": ["mup", "standard"]}, "  - mup"),
        ({}, {"seed": [0, 1], "encoder.parametrization": ["mup"]}, "  - mup"),
        ({"encoder.parametrization": "mup"}, {"seed": [0, 1]}, "  parametrization: mup"),
        ({}, {"zip": [{"seed": [0, 1], "loss": ["infonce", "supcn"]}]}, "    - supcn"),
        ({}, {"zip": [{"seed": [0, 1], "encoder.parametrization": ["ntk", "mup"]}]}, "    - mup"),
    ],
)
def test_the_value_to_blame_is_told_once(tmp_path: Path, changes: Plain, sweep: Plain, line: str):
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, changed(BASE, changes) | {"sweep": sweep})
    (message,) = str(caught.value).splitlines()
    number = (tmp_path / "x.yaml").read_text().splitlines().index(line) + 1
    assert message.startswith(f"{tmp_path}/x.yaml:{number}: ")


def losses(folder: Path, data: Plain) -> list[float]:
    """The loss at each record of 20 steps, in float64."""
    (trial,) = expand(read(folder, data | {"precision": "float64"})).trials
    loop = Loop([Job(trial_id="t", settings=trial.settings)], slots=1, budget=Budget(steps=STEPS), stop_below=0)
    while not loop.done:
        loop.run_chunk()
    return [row["loss"] for row in loop.records]


SWEPT = {"sweep": {"encoder.parametrization": ["allen-zhu", "standard", "ntk"]}}


@pytest.mark.parametrize("coupling", list(COUPLINGS))
@pytest.mark.parametrize("optimizer", list(variants_of_optimizers()), ids=words_of)
def test_parametrizations_are_not_swept_where_they_are_one_system(tmp_path: Path, optimizer: Plain, coupling: str):
    """With frozen ends; d times the rate of allen-zhu is the rate of ntk, whose factor P lacks the d."""
    data = BASE | {"optimizer": optimizer, "coupling": chosen(COUPLINGS, coupling)}
    rate, d = SLOW["c"], BASE["encoder"]["embedding_dim"]
    one = losses(tmp_path, changed(data, {"optimizer.learning_rate.c": rate}))
    other = losses(tmp_path, changed(data, {"encoder.parametrization": "ntk", "optimizer.learning_rate.c": rate * d}))
    if not OPTIMIZERS[optimizer["name"]].model_validate(optimizer).is_linear:
        assert one != pytest.approx(other, rel=1e-6)
        assert len(expand(read(tmp_path, data | SWEPT)).trials) == 3
        return
    assert one == pytest.approx(other, rel=1e-11)
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, data | SWEPT)
    line = line_of((tmp_path / "x.yaml").read_text(), "sweep") + 1
    assert str(caught.value).startswith(f"{tmp_path}/x.yaml:{line}: encoder.parametrization: with frozen ends these ")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"encoder.train_ends": True}, ("allen-zhu", "standard", "ntk")),
        ({"encoder.biases": True}, ("allen-zhu", "standard", "ntk")),
        ({"loss": {"name": "sigmoid", "trainable": True}}, ("allen-zhu", "standard")),
        ({"loss": "spectral"}, ("allen-zhu", "standard")),
        ({"loss": {"name": "infonce", "similarity": "dot"}, "encoder.key": {"width": 5}}, ("standard", "mup")),
    ],
)
def test_parametrizations_are_swept_where_they_are_several_systems(
    tmp_path: Path, changes: Plain, names: tuple[str, ...]
):
    data = changed(BASE, changes) | {"sweep": {"encoder.parametrization": list(names)}}
    assert len(expand(read(tmp_path, data)).trials) == len(names)
