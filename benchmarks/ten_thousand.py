"""Bookkeeping of 10,000 trials: seconds to plan them, to run their finished sweep again, and to report on it.

`python -m benchmarks.ten_thousand` makes a results folder as a sweep leaves it, from one trial that is trained and
10,000 variations on it, and times the three commands on it, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from suite.commits import Address, Commit, encode
from suite.delivery import Delivery
from suite.experiment import Experiment
from suite.loading import load_experiment
from suite.results import Results
from suite.run import swept_paths
from suite.storage import Folder
from suite.sweep_page import Sweep
from suite.tables import OUTCOMES, PASSAGES, RECORDS, Row, table
from suite.training.loop import Job, Loop
from suite.trials import Trial, expand

EXPERIMENT = """
name: ten-thousand
data: {source: digits, views: halves, samples: 64, center: true}
encoder: {embedding_dim: 16, parametrization: allen-zhu}
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


def main() -> None:
    """Print the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the sweep here, and use the one that is there")
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(measure(given.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder))))


def measure(folder: Path) -> dict[str, float]:
    """Wall and processor seconds of the commands; `plan` also with every shape still to be calibrated."""
    file, home = folder / "ten-thousand.yaml", folder / "home"
    if not file.exists():
        make_sweep(folder)
        file.write_text(EXPERIMENT)
    results, none = folder / "results", folder / "none"
    (home / ".cache" / "stillpoint" / "timings.json").unlink(missing_ok=True)
    commands: dict[str, list[str | Path]] = {
        "plan_cold": ["plan", file, "--results", none],
        "plan": ["plan", file, "--results", none],
        "closing": ["run", file, "--results", results, "--no-report"],
        "report": ["report", results / "ten-thousand"],
        "rerun": ["run", file, "--results", results],
        "status": ["status", results / "ten-thousand"],
    }
    page = results / "ten-thousand" / "report.html"
    shutil.rmtree(page.with_name("figures"), ignore_errors=True)  # `report` draws, and the run after it need not
    seconds: dict[str, float] = {}
    for name, arguments in commands.items():
        seconds |= timed(name, arguments, home)
    return {**seconds, "report_megabytes": round(page.stat().st_size / 1e6, 2)}


def timed(name: str, arguments: list[str | Path], home: Path) -> dict[str, float]:
    """Wall seconds of a command, and processor seconds of its process."""
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    command = [sys.executable, "-c", "from suite.cli import main; main()", *map(str, arguments)]
    before, began = _processor_seconds(), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    return {name: round(wall, 2), f"{name}_cpu": round(_processor_seconds() - before, 2)}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_sweep(folder: Path) -> None:
    """A finished sweep: commits, tables, and a mark that MLflow has it all."""
    source = folder / "source.yaml"
    source.write_text(EXPERIMENT)
    experiment = load_experiment(source)
    trials = expand(experiment).trials
    results = Results.open(Folder(folder / "results" / experiment.name))
    model = Model(experiment, trials[0])
    for start in range(0, len(trials), TRIALS_PER_COMMIT):
        name = Address(epoch=1, lane=f"{start // 250:05d}", attempt=1, number=start % 250 // TRIALS_PER_COMMIT).name
        results.folder.write(name, model.commit(trials[start : start + TRIALS_PER_COMMIT]))
        results.take(name)
    results.judge(experiment.levels)
    described = experiment.model_dump(include={"name", "description", "stationary_below", "budget", "laws"})
    metadata = {"axes": swept_paths(experiment), "experiment": described | {"sweep_id": "5eed"}}
    results.merge(trials, metadata=metadata, closing_epoch=1)
    default_database = folder / "results" / "mlflow.db"
    default_database.touch()
    sweep = Sweep("5eed", experiment.name, "", tuple(swept_paths(experiment)), "")
    delivery = Delivery(trials, results, sweep, tracking_uri=None, delivered=[])
    kept = {
        "sweep_id": "5eed",
        "name": experiment.name,
        "created": "2026-01-01T00:00:00+00:00",
        "slots": {},
        "delivered": [delivery._mark],
    }
    results.folder.write("sweep.json", json.dumps(kept).encode())


class Model:
    """One trained trial, and variations on it that settle the sooner, the wider and the shallower they are."""

    def __init__(self, experiment: Experiment, trial: Trial) -> None:
        loop = Loop(
            [Job(trial_id=trial.trial_id, settings=trial.settings)],
            slots=1,
            budget=experiment.budget,
            stop_below=experiment.stop_below,
            stop_share=experiment.stop_share,
            levels=experiment.levels,
            measure=experiment.measure,
        )
        while not loop.done:
            loop.run_chunk()
        (outcome,), records = loop.take()
        assert outcome.state is not None
        self._outcome, self._state = dict(outcome.row), {"step": outcome.state["step"]}
        self._records = table(records, RECORDS)
        self._passages = table(outcome.passages, PASSAGES)
        self._steps = self._records["step"].to_numpy()
        del self._outcome["started_ms"], self._outcome["ended_ms"]

    def commit(self, trials: list[Trial]) -> bytes:
        """The trials' records, outcomes and passages as one object."""
        curves = np.stack([self._curve(trial) for trial in trials])
        lowest = np.minimum.accumulate(curves, axis=1)
        records = _varied(self._records, trials)
        records = _with(records, "scaled_grad_norm_sq", curves.ravel())
        records = _with(records, "running_min_scaled_grad_norm_sq", lowest.ravel())
        content = Commit(
            records=records,
            outcomes=table((self._ended(t, curve) for t, curve in zip(trials, curves, strict=True)), OUTCOMES),
            passages=self._passed(trials, lowest),
        )
        return encode(content, {trial.trial_id: self._state for trial in trials})

    def _curve(self, trial: Trial) -> np.ndarray:
        """Scaled G at recorded steps: a power of the step, with noise."""
        encoder, random = trial.settings.encoder, _random(trial)
        scale = 200 * (encoder.width / 32) ** -0.4 * encoder.depth**0.7 * random.lognormal(sigma=0.1)
        noise = random.lognormal(sigma=0.1, size=len(self._steps))
        return (1 + self._steps / scale) ** -2.5 * noise + (2e-3 if encoder.width < 40 * encoder.depth**0.5 else 1e-6)

    def _ended(self, trial: Trial, curve: np.ndarray) -> Row:
        exact = float(curve[-1])
        told: Row = {"scaled_grad_norm_sq": exact, "scaled_grad_norm_sq_float64": exact}
        told |= {"running_max_scaled_grad_norm_sq": 1.0, "lambda_max": 1.0, "lambda_min": -1e-3, "lane": "00000"}
        told |= {"lambda_min_residual": 1e-3, "hardware": "cpu", "host": "host", "code_version": "0", "epoch": 1}
        moved = float(_random(trial).lognormal(sigma=0.1)) * trial.settings.encoder.depth**0.5
        told |= {"displacement": moved, "violating_share": 0.2 if exact > 1e-3 else 0.0, "wall_seconds": 1.0}
        return {"trial_id": trial.trial_id, **self._outcome, **told}

    def _passed(self, trials: list[Trial], lowest: np.ndarray) -> pa.Table:
        """Steps at which thresholds are passed, from the records."""
        passages = _varied(self._passages, trials)
        levels = self._passages["epsilon"].to_numpy()
        below = lowest[:, None, :] <= levels[None, :, None]
        steps, reached = self._steps[below.argmax(axis=2)].ravel(), below.any(axis=2).ravel()
        passages = _with(passages, "at_init", below[:, :, 0].ravel())
        passages = _with(passages, "reached", reached)
        passages = _with(passages, "steps_to_stationarity", pa.array(steps, mask=~reached))
        return _with(passages, "time_to_stationarity", pa.array(0.2 * steps, mask=~reached))


def _random(trial: Trial) -> np.random.Generator:
    return np.random.default_rng(int(trial.trial_id, 16))


def _varied(rows: pa.Table, trials: list[Trial]) -> pa.Table:
    """The rows once for every trial, numbers that are measured changed a little."""
    varied = rows.take(np.tile(np.arange(len(rows)), len(trials)))
    random = _random(trials[0])
    for field in rows.schema:
        column = varied[field.name].combine_chunks()
        if pa.types.is_list(field.type):
            numbers = pa.compute.multiply(column.flatten(), random.uniform(0.9, 1.1, len(column.flatten())))
            varied = _with(varied, field.name, pa.ListArray.from_arrays(column.offsets, numbers, mask=column.is_null()))
        elif pa.types.is_floating(field.type) and field.name not in ("time", "epsilon"):
            varied = _with(varied, field.name, pa.compute.multiply(column, random.uniform(0.9, 1.1, len(column))))
    return _with(varied, "trial_id", [trial.trial_id for trial in trials for _ in range(len(rows))])


def _with(rows: pa.Table, name: str, values: object) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, name, pa.array(values, rows.schema.field(index).type))


if __name__ == "__main__":
    main()
