"""Any measurement of any trial, at its start or at a checkpoint, for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from suite.measurement.catalog import CHOSEN, moments
from suite.measurement.certificate import STATIONARY, Levels, kind_of
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Measurement

if TYPE_CHECKING:
    import numpy as np

    from suite.experiment import TrialSettings
    from suite.trials import Trial


@dataclass(frozen=True)
class Checkpoint:
    """Where a stored trial is: its settings and everything needed to go on from its last step."""

    trial_id: str
    name: str
    settings: TrialSettings
    state: dict[str, np.ndarray]
    """Weights as `weight.0`, ... in the order of `grad_norm_sq_by_layer`, running statistics, step and eta."""


def load_checkpoint(results: str | Path, trial: str) -> Checkpoint:
    """The last checkpoint of a trial, by its id or name, in a results folder such as results/quickstart.

    Raises:
        ValueError: the folder holds no such trial, or no checkpoint of it.
    """
    from suite.commits import decode_state
    from suite.loading import load_experiment
    from suite.results import Results
    from suite.storage import at_hand, storage_at
    from suite.trials import expand

    folder = storage_at(results)
    if not folder.exists("experiment.yaml"):
        raise ValueError(f"{results} holds no results; give a folder such as results/quickstart")
    with at_hand(folder, ["experiment.yaml"]) as here:
        trials = expand(load_experiment(here / "experiment.yaml")).trials
    found = next((known for known in trials if trial in (known.trial_id, known.name)), None)
    if found is None:
        examples = ", ".join(f"{known.trial_id} ({known.name})" for known in trials[:3])
        raise ValueError(f"{results} has no trial {trial!r}; its trials are like {examples}")
    outcome = Results.open(folder).outcome(found.trial_id)
    if outcome.get("checkpoint") is None:
        raise ValueError(f"trial {trial} is {outcome['status']} in {results} and has no checkpoint")
    state = decode_state(folder, outcome["checkpoint"], found.trial_id)
    return Checkpoint(found.trial_id, found.name, found.settings, state)


def measure(
    source: Trial | TrialSettings | Checkpoint,
    *names: str,
    precision: Literal["float32", "float64"] | None = None,
    levels: Levels | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure a trial at its start, or where a checkpoint left it: the columns of docs/measurements.md by name.

    `names` are measurements such as "curvature" or "kernel"; left out, those that every trial's last record has by
    default, with the certificate. What is not defined is None.
    `precision` is that of the trial unless told; `levels` are those of a certificate.

    Raises:
        ValueError: no such measurement, or the trial's data cannot be drawn.
    """
    chosen = _chosen(names)
    if isinstance(source, str | Path):
        raise ValueError(f"got {source!r}; give a trial or a checkpoint: measure(load_checkpoint(RESULTS, TRIAL), ...)")
    if precision not in (None, "float32", "float64"):
        raise ValueError(f"precision is {precision!r}; write float32 or float64")
    from suite.experiment import Budget, TrialSettings
    from suite.training.loop import Job, Loop

    settings = source if isinstance(source, TrialSettings) else source.settings
    state = source.state if isinstance(source, Checkpoint) else None
    if precision is not None:
        settings = settings.model_copy(update={"precision": precision})
    levels = levels or Levels()
    loop = Loop(
        [Job(trial_id="it", settings=settings, state=state)],
        slots=1,
        budget=Budget(steps=1),
        stop_below=float("inf"),
        levels=levels,
        measure={name: Moments.END if MEASUREMENTS[name] in chosen else Moments.NEVER for name in CHOSEN},
        device=device,
    )
    while not loop.done:
        loop.run_chunk()
    (outcome,), (record,) = loop.take()
    if outcome.row["status"] == "failed":
        raise ValueError(outcome.row["error"])
    row = {**outcome.row, **record}
    if any(measurement.of_trial for measurement in chosen):
        row["kind"] = kind_of(row, levels)
        row["stationary"] = row["kind"] in STATIONARY
    return {name: row.get(name) for m in chosen for name in _names(m)}


def _names(measurement: Measurement) -> list[str]:
    names = [column.name for column in measurement.columns]
    curvature = [column.name for column in MEASUREMENTS["curvature"].columns]
    return [*names, *curvature] if measurement.of_trial else names


def _chosen(names: tuple[str, ...]) -> list[Measurement]:
    unknown = [name for name in names if not isinstance(name, str) or name not in set(MEASUREMENTS)]
    if unknown:
        raise ValueError(f"unknown measurement {unknown[0]!r}. Known: {', '.join(sorted(MEASUREMENTS))}")
    return [MEASUREMENTS[name] for name in names] or [MEASUREMENTS[n] for n, when in moments({}).items() if when.at_end]
