"""How a results folder stands, also while a run is at work in it."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from suite.results import Results, ResultsError, read_table
from suite.storage import Storage, owner, storage_at

FEW = 3
"""Trials named where many ended for the same reason."""


def show_status(root: Path | str, console: Console) -> None:
    """Print trials by status, failures, and who is writing.

    Raises:
        ResultsError: the folder holds no results.
    """
    folder = storage_at(root)
    if not folder.exists("sweep.json"):
        raise ResultsError(f"{root} holds no results; give a folder such as results/quickstart")
    saved = Results.open(folder)
    planned = read_table(folder, "trials.parquet")
    ids = saved.outcomes if planned is None else planned["trial_id"].to_pylist()
    counts: dict[str, int] = {}
    for trial_id in ids:
        status = saved.outcome(trial_id)["status"]
        counts[status] = counts.get(status, 0) + 1
    if (unheard := _num_planned(folder) - len(ids)) > 0:
        counts["pending"] = counts.get("pending", 0) + unheard
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "nothing committed yet"
    console.print(f"{root}: {words}", highlight=False)
    for path in saved.damaged:
        console.print(f"  {path} is damaged and does not count", highlight=False, markup=False, soft_wrap=True)
    for line in _unfinished_words(saved):
        console.print(line, highlight=False, markup=False)
    console.print(_owner_words(folder), highlight=False)


def _unfinished_words(saved: Results) -> list[str]:
    """A line for each reason why trials ended without an end of their own, and where such a trial's worker printed."""
    trials: dict[tuple[str, str], list[str]] = {}
    logs: dict[tuple[str, str], str] = {}
    for trial_id, row in saved.outcomes.items():
        if row["status"] in ("failed", "timeout"):
            reason = (row["status"], str(row.get("error")))
            trials.setdefault(reason, []).append(trial_id)
            if row.get("log_path"):
                logs.setdefault(reason, row["log_path"])
    lines = []
    for (status, error), ids in sorted(trials.items()):
        few = ", ".join(ids[:FEW]) + (", …" if len(ids) > FEW else "")
        lines.append(
            f"  {status}: {error} ({len(ids)} of them: {few})" if len(ids) > 1 else f"  {status}: {ids[0]}: {error}"
        )
        if log := logs.get((status, error)):
            lines.append(f"    log of {'the first' if len(ids) > 1 else 'its worker'}: {log}")
    return lines


def _num_planned(folder: Storage) -> int:
    """Trials of the last run's sweep; 0 if that is not known."""
    with suppress(ValueError):
        return int(json.loads(folder.read("sweep.json")).get("num_trials", 0))
    return 0


def _owner_words(folder: Storage) -> str:
    holder = owner(folder)
    if holder is None or not holder.alive:
        return "No run is at work here."
    age = max(0.0, time.time() - holder.heartbeat)
    return f"A run is at work: process {holder.pid} on {holder.host}, last sign of life {age:.0f} s ago."
