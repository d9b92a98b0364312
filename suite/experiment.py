"""The experiment schema: what a YAML file may say. Every field documents itself; docs/experiment.md is made from it."""

from __future__ import annotations

import importlib
import itertools
import math
import pkgutil
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator, model_validator

import suite.data
import suite.training.couplings
import suite.training.learning_rates
import suite.training.losses
import suite.training.optimizers
from suite import compatibility
from suite.axes import axis_values
from suite.data.digits import Digits
from suite.data.source import SOURCES, Source
from suite.measurement.catalog import parse_measure
from suite.measurement.certificate import Levels
from suite.measurement.moments import Moments
from suite.registry import Settings, located, named
from suite.training.activations import Activation
from suite.training.couplings import COUPLINGS, Coupling, Joint
from suite.training.losses import LOSSES, InfoNCE, Loss
from suite.training.optimizers import OPTIMIZERS, GradientDescent, Optimizer
from suite.training.parametrizations import Parametrization
from suite.training.schedules import Schedule

for _module in pkgutil.iter_modules(suite.data.__path__):  # a source registers itself: its file is all it needs
    importlib.import_module(f"suite.data.{_module.name}")


@dataclass(frozen=True)
class TowerShape:
    """Width and depth of one tower."""

    width: int
    depth: int


class KeyEncoder(Settings):
    """What differs for the key tower; a field left out is as in the query tower."""

    width: int | None = Field(default=None, ge=1)
    """Width of the key tower."""
    depth: int | None = Field(default=None, ge=1)
    """Trained hidden layers of the key tower."""


class Encoder(Settings):
    """The two towers: `depth` hidden layers between a first and a last layer, which stay at their draw unless told."""

    width: int = Field(default=256, ge=1)
    """Units of each hidden layer, m."""
    depth: int = Field(default=2, ge=1)
    """Trained hidden layers, L."""
    embedding_dim: int = Field(default=16, ge=1)
    """Dimension of the embeddings, d; shared by both towers."""
    parametrization: Parametrization = "allen-zhu"
    """How initial scale and learning rate depend on width; docs/science.md lists the exponents."""
    key: KeyEncoder | None = None
    """A key tower of another shape."""
    activation: Activation = "relu"
    """Nonlinearity of all layers but the last; the draw is scaled so that it keeps the size of what passes."""
    residual: bool = False
    """Hidden layers add to their input: h + W h / sqrt(depth), inside the activation."""
    biases: bool = False
    """A trained bias in every layer that is trained, but the last; starts at 0."""
    train_ends: bool = False
    """Also train the first and the last layer, with the same factor P."""
    train_hidden: bool = True
    """Train the hidden layers; with `train_ends: true` and this false, only the ends move, over random features."""
    linearized: bool = False
    """Replace both towers by their first-order expansion at the draw: the twin whose tangent kernel is fixed."""

    def towers(self) -> dict[str, TowerShape]:
        """Shape of the query and the key tower."""
        key = self.key or KeyEncoder()
        query = TowerShape(self.width, self.depth)
        return {"query": query, "key": TowerShape(key.width or self.width, key.depth or self.depth)}


def _epsilons(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(float(f"{epsilon:.6g}") for epsilon in axis_values(value))
    return tuple(value) if isinstance(value, list) else value


ALONE = {"alone": True}
"""Context of validation in which one part of the settings is checked by itself, not against the others' defaults."""


class TrialSettings(Settings):
    """Everything that determines the numbers of one trial, and so its id."""

    data: Annotated[Source, SOURCES] = Digits()
    """Where the positive pairs come from."""
    encoder: Encoder = Encoder()
    """The two towers."""
    loss: Annotated[Loss, LOSSES, BeforeValidator(named)] = InfoNCE()
    """The contrastive loss."""
    coupling: Annotated[Coupling, COUPLINGS, BeforeValidator(named)] = Joint()
    """How the two towers are trained together."""
    optimizer: Annotated[Optimizer, OPTIMIZERS, BeforeValidator(named)] = GradientDescent()
    """How a gradient becomes a step, and at which rate."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Draws data, views and weights; the same seed shares its draw across widths."""
    precision: Literal["float32", "float64"] = "float32"
    """Arithmetic of training and measurement."""
    epsilons: Annotated[tuple[float, ...], BeforeValidator(_epsilons)] = Field(
        default=(1e-1, 3.16228e-2, 1e-2, 3.16228e-3, 1e-3, 3.16228e-4, 1e-4, 3.16228e-5, 1e-5, 3.16228e-6, 1e-6),
        min_length=1,
    )
    """Thresholds of scaled G whose first passage is noted at every step, largest first."""
    records_per_decade: int = Field(default=16, ge=1, le=1000)
    """Records per factor of ten in steps."""

    @field_validator("epsilons")
    @classmethod
    def _decreasing(cls, epsilons: tuple[float, ...]) -> tuple[float, ...]:
        if any(e <= 0 for e in epsilons) or any(a <= b for a, b in itertools.pairwise(epsilons)):
            raise ValueError("thresholds must be positive and strictly decreasing")
        return epsilons

    @model_validator(mode="after")
    def _compatible(self, info: ValidationInfo) -> TrialSettings:
        if info.context != ALONE:
            compatibility.check(self)
        return self


class Budget(Settings):
    """When a trial ends; whichever comes first. Not part of a trial's id: a larger budget continues it."""

    steps: int = Field(default=3000, ge=1)
    """Gradient steps."""
    time: float | None = Field(default=None, gt=0)
    """Gradient-flow time: eta * steps, or the sum of all rates where a schedule changes them."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall time of one trial, its share of its lane's; then its status is `timeout`, and more minutes continue it."""
    stop_below: float | None = Field(default=None, ge=0)
    """Stop once scaled G is at or below this; 0 never does. Left out, half of `stationary_below`, and then also at or
    below half of `stationary_below_relative` of the trial's largest G."""

    def last_step(self, eta: float, schedule: Schedule) -> int:
        """The step at which steps or time, the sum of rates, is used up, whichever comes first."""
        return self.steps if self.time is None else schedule.last_step(self.time / eta, most=self.steps)


class Resources(Settings):
    """What one lane asks Ray for."""

    cpus: int = Field(default=1, ge=1)
    """Cores, and threads, of a lane."""
    gpus: float = Field(default=0, ge=0, le=1)
    """Part of a GPU that a lane occupies: 1, or a fraction such as 0.25, which shares one; a trial never spans two."""
    memory: float | None = Field(default=None, gt=0)
    """GiB of main memory that Ray sets aside for a lane, so that no more are placed on a node than it has room for."""
    workers: int | None = Field(default=None, ge=1)
    """Lanes to expect side by side, such as those of a cluster that is still to grow; left out, those that the nodes
    now there have room for."""
    cost_per_hour: float | None = Field(default=None, gt=0)
    """Price of what one lane occupies, for an hour, in any currency; `plan` and the report then say what the sweep
    costs."""
    slots: int | None = Field(default=None, ge=1)
    """Trials trained side by side in a lane; left out, a short calibration chooses."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class LawSpec(Settings):
    """A law to fit when the trials are done."""

    law: Literal["power", "offset-power", "multiplicative", "additive", "broken-power"]
    """A x^-a; E + A x^-a; A prod x_i^-a_i; E + sum A_i x_i^-a_i; or one power that bends into another at x0."""
    y: str
    """What is explained: a column of trials.parquet or passages.parquet."""
    x: Annotated[list[str], BeforeValidator(_as_list)] = Field(min_length=1)
    """What explains it: swept settings, or epsilon."""
    by: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    """Fit once for each value of these columns."""
    epsilon: Annotated[
        list[float] | None, BeforeValidator(lambda v: [float(v)] if isinstance(v, int | float) else v)
    ] = None
    """Which thresholds, where y is a passage."""
    relative: bool = False
    """Thresholds relative to the largest G so far, rather than absolute."""
    among: Literal["descent", "finished"] = "descent"
    """Trials to fit: those in the descent regime, or all that ended."""


def _plain_measure(measure: dict[str, Moments]) -> dict[str, Any]:
    return {name: moments.plain() for name, moments in measure.items()}


PREDICTIONS = frozenset(
    "descent time-eps rate grad-width lr-width displacement rel-displacement ntk-drift ntk-init flips angles "  # noqa: SIM905
    "separation width-floor similarity coupling threshold twin".split()
)


class Experiment(TrialSettings):
    """One YAML file: a trial's settings, the sweep over them, and what to do with the results."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)
    """Names the results folder: lower-case letters, digits, dots, dashes and underscores."""
    description: str = ""
    """The question in a sentence; shown in the report and in MLflow."""
    budget: Budget = Budget()
    """When a trial ends."""
    resources: Resources = Resources()
    """What one lane asks Ray for."""
    stationary_below: float = Field(default=1e-4, gt=0)
    """A trial is stationary only if its final scaled G, in 64 bits, is at or below this."""
    stationary_below_relative: float = Field(default=1e-2, gt=0, le=1)
    """And only if it is at or below this share of the trial's largest G; else it started flat."""
    measure: Annotated[dict[str, Moments], BeforeValidator(parse_measure), PlainSerializer(_plain_measure)] = Field(
        default_factory=dict
    )
    """When measurements are made, by name: start, end, decades, always, never, `{every: k}` records, or a list of
    these; `none` makes no measurement that can be left out. docs/measurements.md lists them. Not part of an id."""
    checkpoints: Literal["final", "none"] = "final"
    """Whether ended trials keep the state from which a larger budget continues them."""
    sweep: dict[str, Any] = Field(default_factory=dict)
    """Axes by the full path of the setting they vary."""
    laws: list[LawSpec] = Field(default_factory=list)
    """Laws to fit."""
    predictions: list[str] = Field(default_factory=list)
    """Predictions of the theory to judge."""
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Named overrides, chosen with --profile."""

    @property
    def stop_below(self) -> float:
        """The scaled G at which training stops."""
        return self.stationary_below / 2 if self.budget.stop_below is None else self.budget.stop_below

    @property
    def stop_share(self) -> float:
        """Of its largest scaled G, at which a trial must be too for training to stop; infinite where it need not."""
        return self.stationary_below_relative / 2 if self.budget.stop_below is None else math.inf

    @property
    def levels(self) -> Levels:
        """Below which scaled G a trial is stationary."""
        return Levels(self.stationary_below, self.stationary_below_relative)

    def base_settings(self) -> dict[str, Any]:
        """What the file says of a trial before the sweep, as plain data."""
        return {name: getattr(self, name) for name in TrialSettings.model_fields if name in self.model_fields_set}

    @field_validator("predictions")
    @classmethod
    def _known_predictions(cls, predictions: list[str]) -> list[str]:
        for prediction in predictions:
            if prediction not in PREDICTIONS:
                raise ValueError(f"unknown prediction {prediction!r}; known are {', '.join(sorted(PREDICTIONS))}")
        return predictions

    @model_validator(mode="after")
    def _compatible(self, info: ValidationInfo) -> Experiment:
        if not self.sweep:  # of a sweep, the cells are checked: these settings need not be one of them
            compatibility.check(self)
        return self

    @model_validator(mode="after")
    def _laws_use_thresholds(self) -> Experiment:
        for index, law in enumerate(self.laws):
            for epsilon in law.epsilon or []:
                if not any(math.isclose(epsilon, known, rel_tol=1e-4) for known in self.epsilons):
                    known_words = ", ".join(f"{known:g}" for known in self.epsilons)
                    raise located(
                        ("laws", index, "epsilon"), f"epsilon {epsilon:g} is not among the thresholds {known_words}"
                    )
        return self
