"""Bookkeeping of 10,000 trials: seconds to plan them, to run their finished sweep again, and to report on it.

`python -m benchmarks.ten_thousand` makes a results folder as a sweep leaves it, from one trial that is trained and
10,000 variations on it, and times each command in a process of its own. `python -m benchmarks.ten_thousand FOLDER`
keeps the sweep there, and uses the one that is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from suite.commits import Address, Commit, encode
from suite.delivery import Delivery
from suite.experiment import Experiment
from suite.loading import load_experiment
from suite.results import Results
from suite.run import swept_paths
from suite.storage import Folder
from suite.tables import OUTCOMES, PASSAGES, RECORDS, Row, table
from suite.tracking import Sweep
from suite.training.loop import Job, Loop
from suite.trials import Trial, expand

EXPERIMENT = """
name: ten-thousand
budget: {steps: 13000, stop_below: 0}
sweep:
  encoder.width: {log2: [32, 512]}
  encoder.depth: [1, 2, 3, 4]
  seed: {range: 500}
laws:
- {law: offset-power, y: steps_to_stationarity, x: width, by: depth, epsilon: 1e-3}
- {law: power, y: steps_to_stationarity, x: width, by: depth, epsilon: 1e-3}
- {law: offset-power, y: time_to_stationarity, x: width, by: depth, epsilon: 1e-3}
- {law: power, y: time_to_stationarity, x: width, by: depth, epsilon: 1e-3}
- {law: multiplicative, y: displacement, x: [width, depth]}
"""
"""With 60 records of every trial."""
TRIALS_PER_COMMIT = 25


def measure(folder: Path) -> dict[str, float]:
    """Wall seconds of the commands; `plan_cold` also calibrates every shape. A sweep that is in the folder is used."""
    file, results, home = folder / "ten-thousand.yaml", folder / "results", folder / "home"
    file.write_text(EXPERIMENT)
    if not (results / "ten-thousand" / "sweep.json").exists():
        make_sweep(load_experiment(file), results)
    (home / ".cache" / "stillpoint" / "calibration.json").unlink(missing_ok=True)
    plan: list[str | Path] = ["plan", file, "--results", folder / "none"]
    commands = {"plan_cold": plan, "plan": plan, "rerun": ["run", file, "--results", results]}
    commands["report"] = ["report", results / "ten-thousand"]
    return {name: seconds(arguments, home) for name, arguments in commands.items()}


def seconds(arguments: list[str | Path], home: Path) -> float:
    """Wall seconds of a command."""
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    command = [sys.executable, "-c", "from suite.cli import main; main()", *map(str, arguments)]
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - began, 2)


def make_sweep(experiment: Experiment, root: Path) -> None:
    """A finished sweep: commits, tables, and a mark that MLflow has it all."""
    trials = expand(experiment).trials
    results = Results.open(Folder(root / experiment.name))
    model = Model(experiment, trials[0])
    for start in range(0, len(trials), TRIALS_PER_COMMIT):
        name = Address(epoch=1, lane=f"{start // 250:05d}", attempt=1, number=start % 250 // TRIALS_PER_COMMIT).name
        results.folder.write(name, model.commit(trials[start : start + TRIALS_PER_COMMIT]))
        results.take(name)
    results.judge(experiment.levels)
    described = experiment.model_dump(include={"name", "description", "stationary_below", "budget", "laws"})
    metadata = {"axes": swept_paths(experiment), "experiment": described | {"sweep_id": "5eed"}}
    results.merge(trials, metadata=metadata, closing_epoch=1)
    (root / "mlflow.db").touch()
    sweep = Sweep("5eed", experiment.name, "", tuple(swept_paths(experiment)), "")
    mark = Delivery(trials, results, sweep, tracking_uri=None, delivered=[])._mark
    kept = {"sweep_id": "5eed", "name": experiment.name, "created": "", "slots": {}, "delivered": [mark]}
    results.folder.write("sweep.json", json.dumps(kept).encode())


class Model:
    """One trained trial, and variations on it that settle the sooner, the wider and the shallower they are."""

    def __init__(self, experiment: Experiment, trial: Trial) -> None:
        job, levels = Job(trial_id=trial.trial_id, settings=trial.settings), experiment.levels
        loop = Loop([job], slots=1, budget=experiment.budget, stop_below=0, levels=levels, measure=experiment.measure)
        while not loop.done:
            loop.run_chunk()
        (outcome,), records = loop.take()
        self._outcome = {name: value for name, value in outcome.row.items() if not name.endswith("_ms")}
        self._records, self._passages = table(records, RECORDS), table(outcome.passages, PASSAGES)
        self._steps = self._records["step"].to_numpy()

    def commit(self, trials: list[Trial]) -> bytes:
        """The trials' records, outcomes and passages as one object."""
        curves = np.stack([self._curve(trial) for trial in trials])
        lowest = np.minimum.accumulate(curves, axis=1)
        changed = {"scaled_grad_norm_sq": curves.ravel(), "running_min_scaled_grad_norm_sq": lowest.ravel()}
        outcomes = [self._ended(trial, float(curve[-1])) for trial, curve in zip(trials, curves, strict=True)]
        records, passages = varied(self._records, trials, changed), self._passed(trials, lowest)
        content = Commit(records=records, outcomes=table(outcomes, OUTCOMES), passages=passages)
        return encode(content, {trial.trial_id: {"step": self._steps[-1:]} for trial in trials})

    def _curve(self, trial: Trial) -> np.ndarray:
        """Scaled G at recorded steps: a power of the step, with noise."""
        encoder, random = trial.settings.encoder, np.random.default_rng(int(trial.trial_id, 16))
        scale = 200 * (encoder.width / 32) ** -0.4 * encoder.depth**0.7 * random.lognormal(sigma=0.1)
        floor = 2e-3 if encoder.width < 40 * encoder.depth**0.5 else 1e-6
        return (1 + self._steps / scale) ** -2.5 * random.lognormal(sigma=0.1, size=len(self._steps)) + floor

    def _ended(self, trial: Trial, last: float) -> Row:
        told = {"scaled_grad_norm_sq": last, "scaled_grad_norm_sq_float64": last, "lane": "00000", "wall_seconds": 1.0}
        told |= {"running_max_scaled_grad_norm_sq": 1.0, "violating_share": 0.2 if last > 1e-3 else 0.0, "host": "host"}
        told |= {"lambda_max": 1.0, "lambda_min": -1e-3, "lambda_min_residual": 1e-3, "hardware": "cpu"}
        told["displacement"] = (1 + last) * trial.settings.encoder.depth**0.5 * (1 + int(trial.trial_id, 16) % 99 / 500)
        return {"trial_id": trial.trial_id, **self._outcome, **told}

    def _passed(self, trials: list[Trial], lowest: np.ndarray) -> pa.Table:
        """Steps at which thresholds are passed, from the records."""
        below = lowest[:, None, :] <= self._passages["epsilon"].to_numpy()[None, :, None]
        steps, reached = self._steps[below.argmax(axis=2)].ravel(), below.any(axis=2).ravel()
        times = {"steps_to_stationarity": steps, "time_to_stationarity": 0.2 * steps}
        masked = {name: pa.array(values, mask=~reached) for name, values in times.items()}
        return varied(self._passages, trials, {"at_init": below[:, :, 0].ravel(), "reached": reached, **masked})


def varied(rows: pa.Table, trials: list[Trial], changed: dict[str, object]) -> pa.Table:
    """The rows once for every trial: some columns changed as told, other numbers a little."""
    random, many = (
        np.random.default_rng(int(trials[0].trial_id, 16)),
        rows.take(np.tile(np.arange(len(rows)), len(trials))),
    )
    columns = {name: many[name].combine_chunks() for name in rows.schema.names}
    for name, column in columns.items():
        if pa.types.is_list(column.type):
            numbers = pc.multiply(column.flatten(), random.uniform(0.9, 1.1, len(column.flatten())))
            columns[name] = pa.ListArray.from_arrays(column.offsets, numbers, mask=column.is_null())
        elif pa.types.is_floating(column.type) and name not in ("time", "epsilon"):
            columns[name] = pc.multiply(column, random.uniform(0.9, 1.1, len(column)))
    columns |= changed | {"trial_id": np.repeat([trial.trial_id for trial in trials], len(rows))}
    return pa.table([pa.array(columns[field.name], field.type) for field in rows.schema], schema=rows.schema)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))))
