"""The suite beside its peers: Ray Tune, a plain loop and `torch.func`, from the same draws to the same losses.

`python -m benchmarks.peers` runs two sweeps, of many narrow trials and of a few wide ones. The suite's wall time is
that of the command, from its start to its last row in Parquet and MLflow, with a cold calibration and without the
report, once with the default measurements and once without. Tune's is from the first trial's start to the last one's
last report, over the number of trials, so without Ray's own start. The loop's and the ensembles' are those of training
alone, and so are set against the suite's first to last lane step.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import ensemble, pair
from benchmarks.command import Sweep, run_sweep, setting
from benchmarks.cores import Meet, at_once, shares
from benchmarks.pair import Start
from benchmarks.saved import CORES, NARROW, ROOT, WIDE, asked_quick, save
from benchmarks.starts import start_of, trials_of

MOST_AT_10, MOST_AT_END = 1e-4, 1e-2
"""Relative differences of losses that rounding explains: of any trial at step 10, and of the median trial at the end.
Trials at the edge of stability amplify rounding over hundreds of steps, so single ones may end further apart."""


@dataclass(frozen=True)
class Case:
    """One sweep, and which of its seeds the peers train."""

    file: Path
    overrides: dict[str, Any]
    steps: int
    seeds: int


def cases(quick: bool) -> list[Case]:
    """The narrow and the wide sweep."""
    if quick:
        narrow = {"encoder__depth": "[1, 2]", "seed": "{range: 4}", "budget__steps": 100}
        return [Case(NARROW, narrow, 100, 1), Case(WIDE, {"seed": "{range: 2}", "budget__steps": 20}, 20, 2)]
    return [Case(NARROW, {}, 1000, 4), Case(WIDE, {}, 300, 16)]


def main() -> None:
    """Both sweeps; ends with an error if a peer reaches other losses."""
    quick = asked_quick(__doc__)
    figures = {}
    for case in cases(quick):
        with tempfile.TemporaryDirectory() as scratch:
            figures[case.file.stem] = compare(case, Path(scratch))
    save("peers", figures, quick=quick)
    if wrong := [f"{name}, {peer}" for name, part in figures.items() for peer in part["wrong"]]:
        sys.exit(f"other losses than the suite's: {'; '.join(wrong)}")


def compare(case: Case, scratch: Path) -> dict[str, Any]:
    """Seconds per trial of the suite and its peers on one sweep, and how far apart their losses are."""
    sweep = run_sweep(case.file, scratch, "--no-report", *setting(**case.overrides))
    plain = run_sweep(case.file, scratch, "--no-report", *setting(**case.overrides, measure="none"))
    num_trials = len(sweep.table("trials", "trial_id"))
    trials = trials_of(case.file, **case.overrides | {"seed": f"{{range: {case.seeds}}}"})
    starts = [start_of(trial) for trial in trials]
    peers = {"tune": tuned(starts, case.steps, scratch / "tune")} | in_memory(starts, case.steps)
    differences = {name: difference(losses, sweep) for name, (_, losses) in peers.items()}
    return {
        "trials": num_trials,
        "sampled": len(starts),
        "steps": case.steps,
        "wall": sweep.wall,
        "start_up": sweep.start_up,
        "suite": sweep.wall / num_trials,
        "suite_plain": plain.wall / num_trials,
        "suite_training": sweep.training / num_trials,
        "suite_plain_training": plain.training / num_trials,
        **{name: seconds for name, (seconds, _) in peers.items()},
        "differences": differences,
        "wrong": [name for name, found in differences.items() if not within_rounding(found)],
    }


Peer = tuple[float, pd.DataFrame]
"""Seconds per trial on all cores, and losses by trial_id: at step 10 and at the end."""


def tuned(starts: Sequence[Start], steps: int, folder: Path) -> Peer:
    """Ray Tune, in a process and a home of its own."""
    folder.mkdir(parents=True)
    for start in starts:
        (folder / f"{start.trial_id}.pickle").write_bytes(pickle.dumps(start))
    environment = os.environ | {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "GIT_PYTHON_REFRESH": "quiet"}
    environment |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    command = [sys.executable, "-m", "benchmarks.tuned", str(folder), str(steps)]
    log = folder / "log"
    with log.open("w") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=output, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(log.read_text()[-4000:])
    rows = pd.DataFrame(json.loads((folder / "tuned.json").read_text())).T
    return (rows.ended.max() - rows.began.min()) / len(rows), rows[["loss_10", "loss"]]


def in_memory(starts: Sequence[Start], steps: int) -> dict[str, Peer]:
    """The loop and the ensembles, each shape in the faster of two ways: a process of one thread for each core, or one
    process of as many threads. Seconds are the mean over the shapes."""
    parts = [(part, steps) for part in shares(starts, CORES)]
    side_by_side = at_once(train_share, parts)
    together = train_share((list(starts), steps), lambda: None)
    peers = {}
    for name in ("loop", "ensemble"):
        one = pd.concat([part[name] for part in side_by_side])
        two = together[name]
        # side by side, every core has trained a trial in that time
        means = [one.groupby("shape").seconds.mean() / CORES, two.groupby("shape").seconds.mean()]
        peers[name] = float(pd.concat(means, axis=1).min(axis=1).mean()), two[["loss_10", "loss"]]
    return peers


def train_share(part: tuple[list[Start], int], meet: Meet) -> dict[str, pd.DataFrame]:
    """Losses and seconds of each trial, by the loop and by an ensemble of those of one shape."""
    starts, steps = part
    shapes = sorted({start.shape for start in starts})
    groups = [[start for start in starts if start.shape == shape] for shape in shapes]
    for train in (pair.train, lambda start, steps: ensemble.train([start], steps)):
        train(starts[0], 2)  # what is done once is done
    meet()
    loop = [_row(start, pair.train(start, steps)) for group in groups for start in group]
    meet()
    stacks = [row for group in groups for row in _rows(group, ensemble.train(group, steps))]
    return {name: pd.DataFrame(rows).set_index("trial_id") for name, rows in (("loop", loop), ("ensemble", stacks))}


def _row(start: Start, trained: pair.Trained) -> dict[str, Any]:
    return _rows([start], trained)[0]


def _rows(starts: Sequence[Start], trained: pair.Trained) -> list[dict[str, Any]]:
    curves = trained.losses.view(len(trained.losses), -1)
    seconds = trained.seconds / len(starts)
    return [
        {"trial_id": s.trial_id, "shape": str(s.shape), "seconds": seconds, "loss_10": at_10, "loss": at_end}
        for s, at_10, at_end in zip(starts, curves[10].tolist(), curves[-1].tolist(), strict=True)
    ]


def difference(losses: pd.DataFrame, sweep: Sweep) -> dict[str, float]:
    """Relative differences to the suite's losses of the same trials, at step 10 and at the end."""
    records = sweep.table("records", "trial_id", "step", "loss")
    ours = pd.DataFrame(
        {
            "loss_10": records[records.step == 10].set_index("trial_id").loss,
            "loss": sweep.table("trials", "trial_id", "loss").set_index("trial_id").loss,
        }
    ).loc[losses.index]
    apart = (losses / ours - 1).abs()
    tell: dict[str, Callable[[pd.Series], float]] = {"median": pd.Series.median, "most": pd.Series.max}
    return {f"{column}_{name}": float(of(apart[column])) for column in apart for name, of in tell.items()}


def within_rounding(found: dict[str, float]) -> bool:
    """Whether a peer reached the same losses; NaN is no agreement."""
    return found["loss_10_most"] <= MOST_AT_10 and found["loss_median"] <= MOST_AT_END


if __name__ == "__main__":
    torch.set_num_threads(CORES)
    main()
