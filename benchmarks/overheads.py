"""What is around training, as shares of the narrow sweep's wall: start-up, MLflow, measuring, checkpoints, the tail.

`python -m benchmarks.overheads` alternates whole runs of the command, report left out, with calibration known: as they
are, without MLflow, without measurements and without checkpoints. A share is one less the least wall without over the
least wall with. The tail is what cores idle after their last lane while others end theirs. Start-up is from the
command to the end of the first training step, also with nothing calibrated yet. What each measurement takes is timed
in one process, lane after lane.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import Sweep, run_sweep, setting
from benchmarks.measurement import in_one_process
from benchmarks.saved import CORES, NARROW, asked_quick, save
from suite.loading import load_experiment

WITHOUT = {
    "everything": [],
    "tracking": ["--tracking-uri", "none"],
    "measurement": setting(measure="none"),
    "checkpoints": setting(checkpoints="none"),
}


def main() -> None:
    """Shares and seconds."""
    quick = asked_quick(__doc__)
    shrunk = setting(encoder__depth="[1, 2]", seed="{range: 2}", budget__steps=50) if quick else []
    with tempfile.TemporaryDirectory() as folder:
        figures = alternate(Path(folder), shrunk, rounds=1 if quick else 2, starts=1 if quick else 3)
    words = ["seed=0", "encoder.depth=[1, 2]", "budget.steps=50"] if quick else ["seed={range: 16}"]
    parts = in_one_process(load_experiment(NARROW, overrides=words))
    shares = {name: part / parts.total for name, part in parts.measuring.items()}
    save("overheads", {**figures, "measurements": shares, "core_seconds": parts.total}, quick=quick)


def alternate(scratch: Path, options: list[str], *, rounds: int, starts: int) -> dict[str, Any]:
    """Runs with and without each part, in turns; the first of a home calibrates."""
    homes = [scratch / f"home-{number}" for number in range(starts)]
    short = ["--no-report", *options, *setting(budget__steps=11)]
    cold = [run_sweep(NARROW, scratch, *short, home=home) for home in homes]
    runs: dict[str, list[Sweep]] = {name: [] for name in WITHOUT}
    for number in range(rounds):
        for name in sorted(WITHOUT, reverse=bool(number % 2)):
            runs[name].append(run_sweep(NARROW, scratch, "--no-report", *options, *WITHOUT[name], home=homes[0]))
    walls = {name: [run.wall for run in some] for name, some in runs.items()}
    whole = runs["everything"]
    warm = [run.start_up for some in runs.values() for run in some]
    return {
        "walls": walls,
        "shares": {name: 1 - min(w) / min(walls["everything"]) for name, w in walls.items() if name != "everything"},
        "start_up_cold": statistics.median(run.start_up for run in cold),
        "start_up_warm": statistics.median(warm),
        "start_up_share": statistics.median(run.start_up / run.wall for run in whole),
        "tail": statistics.median(tail(run) / (CORES * run.wall) for run in whole),
        "ending": statistics.median(ending(run) / run.wall for run in whole),
    }


def tail(run: Sweep, cores: int = CORES) -> float:
    """Core seconds idle while the last lanes end."""
    ends = run.lanes().ended_at.sort_values().tail(cores)
    return float((ends.max() - ends).sum())


def ending(run: Sweep) -> float:
    """Seconds from the end of training to that of the command: tables, and what MLflow lacks by then."""
    return run.began + run.wall - float(run.lanes().ended_at.max())


if __name__ == "__main__":
    main()
