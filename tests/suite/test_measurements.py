"""All measurements: each gives the columns that it registers, and those left out are not made."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from towers_by_hand import lane_of, point_of, seeds

from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.measurement import lowest_loss
from suite.measurement.catalog import CHOSEN, measured, moments, parse_measure, record_columns, trial_columns
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Measurement
from suite.training.couplings import Coupling, Joint, Shared
from suite.training.loop import Job, Loop
from suite.training.losses import Debiased, InfoNCE, Loss

OF_ROWS = {"kind", "stationary"}
"""Columns of the certificate that follow from its numbers; nothing measures them."""
OF_SETTINGS = {
    "clamped_share": lambda s: s.loss.name == "debiased",
    "lambda_max_peak": lambda s: False,
}
"""Columns that only some settings have."""
CELLS = [*((name, InfoNCE()) for name in MEASUREMENTS), ("loss-diagnostics", Debiased())]


def settings_of(coupling: Coupling, loss: Loss | None = None, seed: int = 3) -> TrialSettings:
    return TrialSettings(
        data=Sphere(samples=4, input_dim=5),
        encoder=Encoder(width=6, depth=2, embedding_dim=3),
        loss=loss or InfoNCE(),
        coupling=coupling,
        seed=seed,
    )


@pytest.fixture(autouse=True)
def cache_of_these_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lowest_loss._kept.cache_clear()


def expected_of(measurement: Measurement, settings: TrialSettings) -> dict[str, str]:
    """Kinds by column."""
    kinds = {column.name: column.kind for column in measurement.columns if column.name not in OF_ROWS}
    if settings.coupling.one_tower and measurement.name == "kernel":  # one tower has one kernel
        kinds = {name: kind for name, kind in kinds.items() if not name.endswith("_key")}
    return {name: kind for name, kind in kinds.items() if OF_SETTINGS.get(name, lambda s: True)(settings)}


@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=lambda coupling: coupling.name)
@pytest.mark.parametrize(("name", "loss"), CELLS, ids=lambda part: getattr(part, "name", part))
def test_a_measurement_gives_the_columns_that_it_registers(name: str, loss: Loss, coupling: Coupling):
    trials = seeds(settings_of(coupling, loss), 3, 4)
    found = measured(point_of(lane_of(*trials, steps=3)), MEASUREMENTS[name])
    expected = expected_of(MEASUREMENTS[name], trials[0])
    assert set(found) == set(expected)
    for column, values in found.items():
        assert values.dtype == torch.float64
        assert values.device.type == "cpu"
        assert not values.requires_grad
        assert values.ndim == (2 if expected[column] == "list" else 1), column
        assert len(values) == 2


def test_no_two_columns_have_one_name():
    names = [column.name for column in [*record_columns(), *trial_columns()]]
    assert len(names) == len(set(names))
    with pytest.raises(ValueError, match="registered already"):
        MEASUREMENTS("gradient", default=Moments.NEVER, cost="none")


def run(measure: Any, *, steps: int = 20, seed: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A trial's own row and its records."""
    job = Job(trial_id="t", settings=settings_of(Joint(), seed=seed))
    loop = Loop([job], slots=2, budget=Budget(steps=steps), stop_below=0, measure=parse_measure(measure))
    while not loop.done:
        loop.run_chunk()
    [outcome], records = loop.take()
    return outcome.row, records


def columns_of(*names: str) -> set[str]:
    return {column.name for name in names for column in MEASUREMENTS[name].columns}


def test_none_keeps_only_what_cannot_be_left_out():
    row, records = run("none")
    free = {m.name for m in MEASUREMENTS.values() if not m.can_be_left_out}
    assert {"gradient", "trajectory", "displacement", "loss-diagnostics"} == free
    kept, dropped = columns_of(*free), columns_of(*CHOSEN)
    for record in records:
        told = set(record) - {"trial_id", "step", "time", "timestamp_ms", "final"}
        assert kept - told <= {"slack", "scaled_update_norm_sq", "clamped_share"}
        assert told <= kept
    assert not dropped & set(row)
    assert row["measured"] == ""
    assert row["certified_at"] is None


def test_each_is_made_at_its_moments():
    measure = {"curvature": ["start", "end"], "angles": {"every": 3}, "flips": "decades", "embeddings": "end"}
    row, records = run(measure, steps=25)
    when = moments(parse_measure(measure))
    for name in ("curvature", "angles", "flips", "embeddings", "linearization"):
        for number, record in enumerate(records):
            first, last = number == 0, number == len(records) - 1
            due = {
                "curvature": first or last,
                "angles": last or number % 3 == 0,
                "flips": record["step"] in (1, 10),
                "embeddings": last,
                "linearization": last or record["step"] in (1, 10),
            }[name]
            told = columns_of(name) & set(record)
            assert told == (columns_of(name) if due else set()), (name, record["step"])
        count = sum(bool(columns_of(name) & set(record)) for record in records)
        assert count == when[name].count(25, per_decade=16)
    assert row["measured"] == "angles,certificate,curvature,embeddings,linearization,output-gradient," + (
        "spectral-displacement"
    )


def test_without_all_others_a_trial_is_the_same_to_the_bit():
    plain, full = run("none")[1], run({})[1]
    for one, other in zip(plain, full, strict=True):
        for name in columns_of("gradient", "trajectory", "displacement") & set(one):
            assert one[name] == other[name] or math.isnan(one[name]), name
