"""What Ray's metrics endpoint says of a sweep while it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import Terminal

EXPERIMENT = """
name: metrics
data: {source: digits, views: halves, samples: 32, center: true}
encoder: {embedding_dim: 8}
loss: {name: infonce, similarity: cosine, temperature: 0.5}
optimizer: {name: gd, learning_rate: {rule: constant, value: 0.01}}
budget: {steps: 6000, stop_below: 0}
resources: {slots: 2}
sweep: {encoder.width: [16, 24, 32], seed: {range: 2}}
"""
WATCHED = """
import json, re, sys, time, urllib.request
import ray
from suite.progress import Observer
from suite.run import run

def series():
    node = ray.nodes()[0]
    endpoint = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        text = urllib.request.urlopen(endpoint, timeout=5).read().decode()
    except OSError:
        return {}
    found = re.findall(r'^ray_(stillpoint_\\w+){.*experiment="metrics".*} (\\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}

class Watcher(Observer):
    seen, notices = [], []

    def notice(self, words):
        self.notices.append(words)

    def training(self, **progress):
        if now := series():
            self.seen.append(now)

    def trained(self):
        until = time.monotonic() + 60
        while series().get("stillpoint_trials_done_total") != 6 and time.monotonic() < until:
            time.sleep(0.5)
        self.seen.append(series())

watcher = Watcher()
run(sys.argv[1], results=sys.argv[2], tracking_uri="none", observer=watcher, report=False, dashboard=True)
print(json.dumps({"seen": watcher.seen, "notices": watcher.notices}))
"""


@pytest.mark.cluster
def test_metrics_count_what_was_trained(terminal: Terminal) -> None:
    file, results = terminal.write("metrics.yaml", EXPERIMENT), terminal.folder / "results"
    environment = {**os.environ, "HOME": str(terminal.home), "RAY_metrics_report_interval_ms": "1000"}
    command = [sys.executable, "-W", "ignore", "-c", WATCHED, str(file), str(results)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert any("dashboard is at http://" in words for words in told["notices"])
    *during, last = told["seen"]
    steps = [now["stillpoint_steps_total"] for now in during if "stillpoint_steps_total" in now]
    trials = pd.read_parquet(results / "metrics/trials.parquet")
    assert steps == sorted(steps)
    assert any(0 < step < trials.steps.sum() for step in steps)
    assert last["stillpoint_steps_total"] == trials.steps.sum() == 36_000
    assert last["stillpoint_trials_done_total"] == len(trials) == 6
    assert last["stillpoint_lanes_done_total"] == trials.lane.nunique()
    assert last["stillpoint_scaled_grad_norm_sq"] == pytest.approx(_median_of_newest(results / "metrics"), rel=1e-6)
    assert any(now.get("stillpoint_steps_per_second", 0) > 0 for now in during)


def _median_of_newest(folder: Path) -> float:
    records = pd.read_parquet(folder / "records.parquet").sort_values("step")
    return float(records.groupby("trial_id").scaled_grad_norm_sq.last().median())


def test_dashboard_without_its_packages_is_refused(terminal: Terminal) -> None:
    """As in an installation without `ray[default]`: Python is kept from finding one of its packages."""
    file = terminal.write("metrics.yaml", EXPERIMENT)
    hidden = terminal.folder / "hidden"
    hidden.mkdir()
    (hidden / "aiohttp_cors.py").write_text("raise ImportError('No module named aiohttp_cors')\n")
    terminal.environment["PYTHONPATH"] = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    said = terminal("run", str(file), "--dashboard", expect=2)
    assert 'pip install "stillpoint[cluster]"' in said
    assert said.count("\n") == 1
    assert not (terminal.folder / "results").exists()
