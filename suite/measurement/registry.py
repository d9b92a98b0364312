"""Measurements: each is one function of a point, registered by its name together with the columns it fills.

Modules that register must stay importable without torch, because the tables and the schema are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from suite.measurement.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from suite.experiment import TrialSettings
    from suite.measurement.point import Point

Kind = Literal["text", "whole", "number", "bool", "list"]
Values = dict[str, "Tensor"]
"""Columns by name: (S,) each, or (S, k) for a list."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a record, or a list of them."""

    name: str
    formula: str
    unit: str = "1"
    kind: Kind = "number"
    source: str = ""
    """Where the formula is from, if not from here."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Columns that are measured together, at the same moments."""

    name: str
    columns: tuple[Column, ...]
    function: Callable[[Point], Values]
    default: Moments
    gradients: Callable[[TrialSettings], float]
    """What one measurement of one trial costs, in gradients of its training; about."""
    cost: str
    """The same in words."""
    waits: bool
    """Costly enough that trials wait for one another, to be measured side by side."""
    of_trial: bool
    """Measured once, at the end: its columns are those of the trial, not of its records."""

    @property
    def can_be_left_out(self) -> bool:
        """Whether `measure` can turn it off: what training needs anyway cannot be."""
        return self.cost != FREE

    @property
    def summary(self) -> str:
        """What it is, in a sentence or two."""
        return " ".join((self.function.__doc__ or "").split())


MOST_SAMPLES = 1024
"""Where a measurement compares pairs of samples or keeps all activations, it takes the first so many of a view."""

FREE = "nothing: training has it at hand"


class Measurements:
    """Measurements by name; used as a decorator, it registers one."""

    def __init__(self) -> None:
        self._known: dict[str, Measurement] = {}

    def __call__(
        self,
        name: str,
        *columns: Column,
        default: Moments,
        cost: str,
        gradients: Callable[[TrialSettings], float] = lambda settings: 0.0,
        waits: bool = False,
        of_trial: bool = False,
    ) -> Callable[[Callable[[Point], Values]], Callable[[Point], Values]]:
        taken = {column.name for known in self._known.values() for column in known.columns}
        again = [column.name for column in columns if column.name in taken]
        if name in self._known or again:
            raise ValueError(f"measurement {name!r}: its name or its columns {again} are registered already")

        def register(function: Callable[[Point], Values]) -> Callable[[Point], Values]:
            """Keep the function under the name."""
            self._known[name] = Measurement(
                name=name,
                columns=columns,
                function=function,
                default=default,
                gradients=gradients,
                cost=cost,
                waits=waits,
                of_trial=of_trial,
            )
            return function

        return register

    def __getitem__(self, name: str) -> Measurement:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def values(self) -> list[Measurement]:
        """All of them, in the order of registration."""
        return list(self._known.values())


MEASUREMENTS = Measurements()
