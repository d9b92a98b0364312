"""MLflow with 1,000 child runs: seconds until its run table has its first page, and until `load_results` has it all.

`python -m benchmarks.mlflow_pages` delivers a made-up sweep through the tracker, starts MLflow's server on it, sends
it the request by which its run table fills its first page, and loads the sweep from the database and by the server.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis import load_results
from benchmarks.saved import save
from suite.sweep_page import CURVES, Sweep
from suite.tracking import Tracker, TrialUpdate
from suite.tracking_store import default_tracking_uri

SWEEP = Sweep("5eed", "thousand", "Does it come to rest?", ("encoder.width", "seed"), "name: thousand\n")
START_MS, STEPS = 1_700_000_000_000, (0, 1, 2, 5, 10, 21, 49, 100, 205, 487, 1000, 2054, 3000)
NUM_SUMMARIES, NUM_PARAMS = 17, 34
"""As the quickstart's trials have."""
RUNS_OF_A_PAGE, REPEATS = 100, 5
DELIVERY_SECONDS = 600.0


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shrink everything")
    parser.add_argument("--folder", type=Path, help="keep the database here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given.folder or Path(folder), 50 if given.quick else 1000)
    print(json.dumps(figures))
    save("mlflow_pages", figures, quick=given.quick)


def measure(folder: Path, num_trials: int) -> dict[str, Any]:
    """Seconds by what is done; of the page, the longest of several times."""
    uri = default_tracking_uri(folder)
    figures: dict[str, Any] = {"trials": num_trials, "deliver": seconds_of(deliver, folder, num_trials)}
    figures["load"] = seconds_of(load_results, uri, experiment=SWEEP.name)
    with server(folder) as address:
        figures["page"] = max(seconds_of(first_page, address) for _ in range(REPEATS))
        figures["load_from_server"] = seconds_of(load_results, address, experiment=SWEEP.name)
    return figures


def seconds_of(function: Any, *arguments: Any, **options: Any) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    function(*arguments, **options)
    return round(time.perf_counter() - began, 2)


def deliver(folder: Path, num_trials: int) -> None:
    """A finished sweep, by the tracker."""
    tracker = Tracker(default_tracking_uri(folder), SWEEP, folder / "mlartifacts")
    tracker.deliver(trial(number) for number in range(num_trials))
    tracker.finish([], "finished", {"trials_finished": float(num_trials)})
    tracker.close(timeout=DELIVERY_SECONDS)
    assert tracker.problem is None, tracker.problem


def trial(number: int) -> TrialUpdate:
    """A trial that ended."""
    width, seed = 2 ** (5 + number % 5), number // 5
    rows = [
        {"step": step, "timestamp_ms": START_MS + step, "final": step == STEPS[-1]}
        | dict.fromkeys(CURVES, 1.0 / (1 + step + seed))
        for step in STEPS
    ]
    return TrialUpdate(
        trial_id=f"{number:012x}",
        name=f"m{width}-s{seed}",
        params={"encoder.width": width, "seed": seed, "records_per_decade": 16}
        | {f"setting.{i}": i for i in range(NUM_PARAMS - 3)},
        status="finished",
        records=rows,
        summary={f"final_{i}": 1.0 / (1 + i + seed) for i in range(NUM_SUMMARIES)},
        summary_step=STEPS[-1],
        summary_timestamp_ms=START_MS + STEPS[-1],
        started_ms=START_MS,
        ended_ms=START_MS + STEPS[-1],
    )


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of `stillpoint ui` on the folder."""
    command = [sys.executable, "-c", "from suite.cli import main; main()", "ui", str(folder), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found, "the server does not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def first_page(address: str) -> None:
    """What the run table asks for as it opens."""
    experiments = asked(f"{address}/ajax-api/2.0/mlflow/experiments/search", {"max_results": 100})["experiments"]
    (wanted,) = (each["experiment_id"] for each in experiments if each["name"] == SWEEP.name)
    page = {
        "experiment_ids": [wanted],
        "filter": f"tags.sweep = '{SWEEP.sweep_id}'",
        "max_results": RUNS_OF_A_PAGE,
        "order_by": ["tags.`kind` ASC"],
    }
    runs = asked(f"{address}/ajax-api/2.0/mlflow/runs/search", page)["runs"]
    assert len(runs) == RUNS_OF_A_PAGE or "--quick" in sys.argv


def asked(address: str, content: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(content).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    main()
