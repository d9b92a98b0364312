"""The command `stillpoint` as a user types it, timed from its start to the last thing it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

COMMAND = Path(sys.executable).with_name("stillpoint")


@dataclass(frozen=True)
class Sweep:
    """A sweep that has run: when its command began (seconds since the epoch), its wall seconds until the last Parquet
    file and the last row in MLflow were written, and its results."""

    began: float
    wall: float
    folder: Path

    def table(self, name: str, *columns: str) -> pd.DataFrame:
        """Columns of one of its tables; all of them if none is named."""
        return pq.read_table(self.folder / f"{name}.parquet", columns=list(columns) or None).to_pandas()

    def lanes(self) -> pd.DataFrame:
        """When each lane began and ended, in seconds since the epoch."""
        trials = self.table("trials", "epoch", "lane", "started_at", "ended_at")
        for name in ("started_at", "ended_at"):
            trials[name] = [moment.timestamp() for moment in pd.to_datetime(trials[name], format="ISO8601")]
        return trials.groupby(["epoch", "lane"]).agg({"started_at": "min", "ended_at": "max"})

    @property
    def training(self) -> float:
        """Seconds from the first step of the first lane to the last step of the last."""
        lanes = self.lanes()
        return float(lanes.ended_at.max() - lanes.started_at.min())

    @property
    def start_up(self) -> float:
        """Seconds from the command to the end of the first training step, as its record says."""
        records = self.table("records", "step", "timestamp_ms")
        return float(records.timestamp_ms[records.step > 0].min() / 1000 - self.began)


def run_sweep(file: Path, scratch: Path, *options: str, home: Path | None = None) -> Sweep:
    """`stillpoint run`, its results in a new folder of `scratch`.

    `home` keeps the calibration; in a new one, as when none is given, every shape is measured first.
    """
    home = home or scratch / f"home-{time.time_ns()}"
    home.mkdir(parents=True, exist_ok=True)
    results = scratch / f"results-{time.time_ns()}"
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    command = [str(COMMAND), "run", str(file), "--results", str(results), *options]
    began = time.time()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    written = [path.stat().st_mtime for path in [*results.rglob("*.parquet"), *results.glob("mlflow.db*")]]
    return Sweep(began, max(written) - began, results / file.stem)


def setting(**overrides: object) -> list[str]:
    """Options that override settings: `setting(seed="{range: 2}")`, with two underscores for a dot."""
    parts = (("--set", f"{key.replace('__', '.')}={value}") for key, value in overrides.items())
    return [word for part in parts for word in part]
