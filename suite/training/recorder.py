"""The recorder: measures what is due of a lane's trials, and fills it into their rows.

Most measurements are made of the whole lane at once, where it is. Costly ones wait: a copy of the trial's point is put
into a room of as many places as the lane has slots, which is measured when it is full, or when rows are wanted. So
trials that end one after another are still measured side by side, and the size of the stack, on which bits depend, is
always the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from suite.experiment import TrialSettings
from suite.measurement.catalog import Measure, measured, moments
from suite.measurement.certificate import Levels
from suite.measurement.point import Point, squared_norms
from suite.measurement.registry import MEASUREMENTS, Measurement
from suite.training.lane import Lane
from suite.training.pair import Pair
from suite.training.records import is_record_step

Row = dict[str, Any]
ALWAYS_TOLD = frozenset({"loss", "grad_norm_sq", "scaled_grad_norm_sq"})
"""Columns that are NaN where a trial diverged; others are left out where they are not a number."""


@dataclass(frozen=True)
class Place:
    """A trial whose point waits to be measured, and the rows that wait for the numbers."""

    trial_id: str
    settings: TrialSettings
    due: list[Measurement]
    record: Row
    trial: Row | None
    """The trial's own row, if it has ended."""


class Recorder:
    """Measures a lane's trials when they are due. `seconds` is the wall time of each measurement so far."""

    def __init__(self, lane: Lane, measure: Measure, levels: Levels) -> None:
        self._lane, self._moments, self._levels = lane, moments(measure), levels
        self._room: Pair | None = None
        self._rates = torch.zeros_like(lane.eta)
        self._places: list[Place] = []
        self._due: dict[tuple[int, int, bool], list[Measurement]] = {}
        self.peaks: dict[str, float] = {}
        """The largest lambda_max met so far, by trial; without what only its end asked for."""
        self.seconds = dict.fromkeys(self._moments, 0.0)

    def due(self, step: int, per_decade: int, *, final: bool) -> list[Measurement]:
        """What is to be measured at this record."""
        key = (step, per_decade, final)
        if key not in self._due:
            times = self._moments.items()
            due = [MEASUREMENTS[name] for name, when in times if when.due(step, per_decade=per_decade, final=final)]
            self._due[key] = due
        return self._due[key]

    def measure(self, due: Mapping[int, list[Measurement]]) -> dict[int, Row]:
        """What need not wait, by slot, measured where the lane is."""
        wanted = {m.name: m for measurements in due.values() for m in measurements if not m.waits}
        point = self._lane.point(self._levels)
        columns = {name: self._timed(measurement, point) for name, measurement in wanted.items()}
        return {
            slot: {key: value for m in measurements if not m.waits for key, value in columns[m.name][slot].items()}
            for slot, measurements in due.items()
        }

    def wait(self, slot: int, place: Place) -> None:
        """Copy the slot's point into the room, to be measured with others."""
        if self._room is None:
            self._room = self._lane.empty_pair()
        index = len(self._places)
        self._room.copy_slot(self._lane.pair, start=slot, to=index)
        self._rates[index] = self._lane.rate[slot]
        self._places.append(place)

    def holds(self, trial_id: str) -> bool:
        """Whether a point of this trial waits."""
        return any(place.trial_id == trial_id for place in self._places)

    @property
    def is_full(self) -> bool:
        """Whether the room has no place left."""
        return len(self._places) == self._lane.num_slots

    def measure_waiting(self) -> list[Place]:
        """Measure what waits, fill the rows, and empty the room."""
        places, self._places = self._places, []
        if not places:
            return []
        wanted = {m.name: m for place in places for m in place.due}
        known = [self._known(place) for place in places]
        point = self._room_point(places, known) if wanted else None
        for measurement in sorted(wanted.values(), key=lambda m: m.of_trial):
            assert point is not None
            columns = self._timed(measurement, point)
            for index, place in enumerate(places):
                if measurement in place.due:
                    self._fill(place, measurement, columns[index], known)
        return places

    def _fill(self, place: Place, measurement: Measurement, values: Row, known: list[Row]) -> None:
        """Put the values where they belong: in the record, in the row of a trial that has ended, in what is known."""
        if not measurement.of_trial:
            place.record.update(values)
        if place.trial is not None:
            place.trial.update({name: value for name, value in values.items() if not isinstance(value, list)})
        peak = max(values.get("lambda_max", -math.inf), self.peaks.get(place.trial_id, -math.inf))
        if peak > -math.inf and self._is_due_anyway(place, measurement):
            self.peaks[place.trial_id] = peak
        for row in known:
            if row["trial_id"] == place.trial_id:
                row |= {"lambda_max_met": peak} if peak > -math.inf else {}
                row |= values if row["step"] == place.record["step"] else {}

    def _known(self, place: Place) -> Row:
        peak = self.peaks.get(place.trial_id)
        return dict(place.record) if peak is None else {**place.record, "lambda_max_met": peak}

    def _is_due_anyway(self, place: Place, measurement: Measurement) -> bool:
        """Whether it would be measured here had the trial not ended: what only the end told is no part of its state,
        or a trial continued from it would know more than one that was long from the start."""
        step, per_decade = place.record["step"], place.settings.records_per_decade
        due = self._moments[measurement.name].due(step, per_decade=per_decade, final=False)
        return place.trial is None or (due and is_record_step(step, per_decade))

    def send_back(self) -> None:
        """Leave unmeasured the trials that have ended: they are continued later, at their last step."""
        self._places = [place if place.trial is None else replace(place, due=[]) for place in self._places]

    def _room_point(self, places: list[Place], known: list[Row]) -> Point:
        assert self._room is not None
        idle = [None] * (self._lane.num_slots - len(places))
        loss, embeddings = self._room.loss(self._room.weights)
        gradients = torch.autograd.grad(loss.sum(), self._room.weights)
        return Point(
            pair=self._room,
            loss=loss.detach(),
            gradients=gradients,
            norms_sq=squared_norms(gradients),
            embeddings=[z.detach() for z in embeddings],
            eta=self._rates,
            settings=[*(place.settings for place in places), *idle],
            running=self._lane.stationarity,
            update_norm_sq=torch.full_like(self._rates, torch.nan),
            known=[*known, *idle],
            levels=self._levels,
        )

    def _timed(self, measurement: Measurement, point: Point) -> list[Row]:
        """The measurement's part of every slot's row."""
        began = time.perf_counter()
        rows = _rows(measured(point, measurement))
        self.seconds[measurement.name] += time.perf_counter() - began
        return rows


def _rows(columns: Mapping[str, Tensor]) -> list[Row]:
    """By slot, what is a number."""
    names = list(columns)
    by_slot = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {name: value for name, value in zip(names, values, strict=True) if value == value or name in ALWAYS_TOLD}
        for values in by_slot
    ]
