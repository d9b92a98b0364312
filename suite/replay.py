"""Train one stored trial again, from its start, and compare with what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suite.experiment import Experiment
from suite.results import Results
from suite.storage import storage_at
from suite.trials import Trial, expand

COMPARED = ("loss", "grad_norm_sq", "scaled_grad_norm_sq", "displacement")


@dataclass(frozen=True)
class Difference:
    """The largest relative difference of each compared column."""

    trial: str
    num_records: int
    relative: dict[str, float]
    same_records: bool
    """The same steps were recorded, and no number differs by more than 1e-3 of its size."""
    same_machine: bool

    @property
    def words(self) -> str:
        """For the terminal."""
        largest = max(self.relative.values(), default=float("inf"))
        parts = ", ".join(f"{name} {value:.2g}" for name, value in self.relative.items())
        lines = [
            f"{self.trial}: {self.num_records} records compared; largest relative difference {largest:.3g} ({parts})."
        ]
        if not self.same_machine:
            lines.append("The stored ones come from other hardware or versions, which alone makes some difference.")
        if not self.same_records:
            lines.append("This is more than rounding explains over the recorded steps.")
        return "\n".join(lines)


def replay(experiment: Experiment, wanted: str, *, results: Path | str) -> Difference:
    """Train the trial with this id or name as its lane did: the same number of slots, the others idle.

    Raises:
        ValueError: no such trial in the experiment, or none stored.
    """
    trial = _find(expand(experiment).trials, wanted)
    saved = Results.open(storage_at(results, experiment.name))
    known = saved.outcome(trial.trial_id)
    if known["status"] not in ("finished", "diverged"):
        raise ValueError(
            f"trial {wanted} is {known['status']} in {saved.folder.root}: there is nothing to compare with"
        )
    fresh = _train(experiment, trial, slots=int(known["slots"]), steps=int(known["steps"]))
    stored = saved.records()
    stored = stored[stored.trial_id == trial.trial_id].set_index("step")
    shared = [row for row in fresh if row["step"] in stored.index]
    relative = {}
    for name in COMPARED:
        new = np.array([row[name] for row in shared], dtype=float)
        old = stored.loc[[row["step"] for row in shared], name].to_numpy()
        scale = np.maximum(np.maximum(np.abs(new), np.abs(old)), 1e-300)
        agree = (new == old) | (np.isnan(new) & np.isnan(old))
        relative[name] = float(np.max(np.where(agree, 0.0, np.abs(new - old) / scale), initial=0.0))
    same_steps = [row["step"] for row in fresh] == stored.index.tolist()
    close = all(value <= 1e-3 for value in relative.values())
    return Difference(trial.name, len(shared), relative, same_steps and close, _same_machine(experiment, known))


def _find(trials: list[Trial], wanted: str) -> Trial:
    for trial in trials:
        if wanted in (trial.trial_id, trial.name):
            return trial
    examples = ", ".join(f"{trial.trial_id} ({trial.name})" for trial in trials[:3])
    raise ValueError(f"--trial {wanted}: no such trial in this experiment; its ids are like {examples}")


def _train(experiment: Experiment, trial: Trial, *, slots: int, steps: int) -> list[dict[str, float]]:
    import torch

    from suite.measurement.catalog import parse_measure
    from suite.training.loop import Job, Loop

    torch.set_num_threads(experiment.resources.cpus)
    loop = Loop(
        [Job(trial_id=trial.trial_id, settings=trial.settings)],
        slots=slots,
        budget=experiment.budget.model_copy(update={"steps": steps}),
        stop_below=experiment.stop_below,
        stop_share=experiment.stop_share,
        measure=parse_measure("none"),
        device="cuda" if experiment.resources.gpus else "cpu",
    )
    while not loop.done:
        loop.run_chunk()
    return loop.take()[1]


def _same_machine(experiment: Experiment, known: dict[str, object]) -> bool:
    from suite.machine import machine

    here = machine("cuda" if experiment.resources.gpus else "cpu")
    return all(known.get(name) == here[name] for name in ("hardware", "torch_version"))
