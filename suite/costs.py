"""Costs measured earlier, kept per machine: the same shape gets the same slots, and identical bits, every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from suite.lanes import Cost
from suite.machine import machine
from suite.user_cache import UserCache


class CostCache:
    """Costs measured earlier on this machine, in the user's cache folder; a damaged file counts as empty.

    Costs of a prescribed number of `slots` are kept apart from those of the number that calibration chose.
    """

    def __init__(self, *, device: str, threads: int, slots: int | None = None) -> None:
        self._cache = UserCache("calibration.json")
        found = machine(device)
        self._prefix = f"{found['hardware']}|{found['torch_version']}|{threads}|{device}|{slots or 'chosen'}|"

    def read(self) -> dict[str, Cost]:
        """Cost by shape key."""
        mine = {key: value for key, value in self._cache.read().items() if key.startswith(self._prefix)}
        return {key.removeprefix(self._prefix): Cost(**value) for key, value in mine.items()}

    def add(self, costs: Mapping[str, Cost]) -> None:
        """Keep these too; a folder that cannot be written is no reason to stop."""
        self._cache.add({self._prefix + key: asdict(cost) for key, cost in costs.items()})
