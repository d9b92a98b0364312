"""How a results folder stands, also while a run is at work in it."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from suite.results import Results, ResultsError, read_table
from suite.storage import Folder, owner


def show_status(root: Path, console: Console) -> None:
    """Print trials by status, failures, and who is writing.

    Raises:
        ResultsError: the folder holds no results.
    """
    folder = Folder(root.absolute())
    if not folder.exists("sweep.json"):
        raise ResultsError(f"{root} holds no results; give a folder such as results/quickstart")
    saved = Results.open(folder)
    planned = read_table(folder, "trials.parquet")
    ids = saved.outcomes if planned is None else planned["trial_id"].to_pylist()
    counts: dict[str, int] = {}
    for trial_id in ids:
        status = saved.outcome(trial_id)["status"]
        counts[status] = counts.get(status, 0) + 1
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "nothing committed yet"
    console.print(f"{root}: {words}", highlight=False)
    for trial_id, row in saved.outcomes.items():
        if row["status"] == "failed":
            console.print(f"  {trial_id}: {row.get('error')}", highlight=False, markup=False)
    console.print(_owner_words(folder), highlight=False)


def _owner_words(folder: Folder) -> str:
    holder = owner(folder)
    if holder is None or not holder.alive:
        return "No run is at work here."
    age = max(0.0, time.time() - holder.heartbeat)
    return f"A run is at work: process {holder.pid} on {holder.host}, last sign of life {age:.0f} s ago."
