"""The catalog: all measurements there are. A file of this folder registers what it measures, and is found here."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import suite.measurement
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Column, Measurement, Values
from suite.registry import located

if TYPE_CHECKING:
    from torch import Tensor

    from suite.measurement.point import Point

for _module in pkgutil.iter_modules(suite.measurement.__path__):
    importlib.import_module(f"suite.measurement.{_module.name}")

Measure = Mapping[str, Moments]
"""Moments by the names of measurements."""

CHOSEN = tuple(m.name for m in MEASUREMENTS.values() if m.can_be_left_out)
"""Measurements whose moments a user may choose."""


def moments(given: Measure) -> dict[str, Moments]:
    """When each measurement is made: as given, or else as it is by default."""
    return {m.name: given.get(m.name, m.default) for m in MEASUREMENTS.values()}


def parse_measure(value: Any) -> dict[str, Moments]:
    """What `measure` in a YAML file says: moments by measurement, or `none` for no measurement that can be left out.

    Raises:
        PydanticCustomError, ValueError: an unknown measurement, or moments that are none.
    """
    if value == "none":
        return dict.fromkeys(CHOSEN, Moments.NEVER)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"got {value!r}; write none, or a mapping such as {{curvature: [start, end], kernel: decades}}"
        )
    parsed = {}
    for name, form in value.items():
        if name in set(MEASUREMENTS) - set(CHOSEN):
            raise located(("measure", name), "it costs nothing and is always made; leave it out")
        if name not in CHOSEN:
            raise located(("measure", str(name)), f"unknown measurement{_nearest(str(name))}")
        try:
            parsed[name] = Moments.parse(form)
        except ValueError as error:
            raise located(("measure", name), str(error)) from None
        if MEASUREMENTS[name].of_trial and parsed[name] not in (Moments.END, Moments.NEVER):
            raise located(("measure", name), "it is made at the end of a trial: write end or never")
    return parsed


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, CHOSEN, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(sorted(CHOSEN))}"


def record_columns() -> list[Column]:
    """Of all measurements of records."""
    return [column for m in MEASUREMENTS.values() if not m.of_trial for column in m.columns]


def trial_columns() -> list[Column]:
    """Of all measurements that are made once per trial."""
    return [column for m in MEASUREMENTS.values() if m.of_trial for column in m.columns]


def measured(point: Point, measurement: Measurement) -> dict[str, Tensor]:
    """What a measurement says of every slot: float64 columns on the CPU, (S,) or (S, k)."""
    import torch

    with torch.no_grad():
        columns = measurement.function(point)
    return _on_the_host(columns)


def _on_the_host(columns: Values) -> dict[str, Tensor]:
    """In float64; of a GPU in one transfer, because each waits for it."""
    import torch

    known = {name: column.double() for name, column in columns.items() if column.device.type == "cpu"}
    there = {name: column for name, column in columns.items() if name not in known}
    if there:
        together = torch.cat([column.double().flatten() for column in there.values()]).cpu()
        parts = together.split([column.numel() for column in there.values()])
        known |= {name: part.view_as(column) for part, (name, column) in zip(parts, there.items(), strict=True)}
    return {name: known[name] for name in columns}
