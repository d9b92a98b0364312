"""Costs measured earlier, kept per machine: the same shape gets the same slots, and identical bits, every time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from suite.lanes import Cost
from suite.machine import machine
from suite.storage import Folder


class CostCache:
    """Costs measured earlier on this machine, in the user's cache folder; a damaged file counts as empty.

    Costs of a prescribed number of `slots` are kept apart from those of the number that calibration chose.
    """

    def __init__(self, *, device: str, threads: int, slots: int | None = None) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = Folder(base / "stillpoint")
        found = machine(device)
        self._prefix = f"{found['hardware']}|{found['torch_version']}|{threads}|{device}|{slots or 'chosen'}|"

    def read(self) -> dict[str, Cost]:
        """Cost by shape key."""
        stored = self._all()
        mine = {key: value for key, value in stored.items() if key.startswith(self._prefix)}
        return {key.removeprefix(self._prefix): Cost(**value) for key, value in mine.items()}

    def add(self, costs: Mapping[str, Cost]) -> None:
        """Keep these too; a folder that cannot be written is no reason to stop."""
        stored = self._all() | {self._prefix + key: asdict(cost) for key, cost in costs.items()}
        with suppress(OSError):
            self._folder.write("calibration.json", json.dumps(stored, indent=0).encode())

    def _all(self) -> dict[str, dict[str, Any]]:
        with suppress(OSError, ValueError):
            stored = json.loads(self._folder.read("calibration.json"))
            if isinstance(stored, dict):
                return stored
        return {}
