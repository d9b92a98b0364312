"""Timings measured earlier, kept per machine: what a shape costs is measured once."""

from __future__ import annotations

from collections.abc import Mapping

from suite.lanes import Timings, read_timings
from suite.machine import machine
from suite.user_cache import UserCache


class TimingCache:
    """Timings measured earlier on this machine, in the user's cache folder; what is damaged is measured again.

    Those of a prescribed number of `slots`, or for lanes that are given so much `memory`, are kept apart.
    """

    def __init__(self, *, device: str, threads: int, memory: float | None = None, slots: int | None = None) -> None:
        self._cache = UserCache("timings.json")
        found = machine(device)
        self._prefix = f"{found['hardware']}|{found['torch_version']}|{threads}|{device}|{slots or 'any'}|"
        self._prefix += "" if memory is None else f"{memory:g} GiB|"

    def read(self) -> dict[str, Timings]:
        """Timings by shape key."""
        mine = {key: entry for key, entry in self._cache.read().items() if key.startswith(self._prefix)}
        read = {key.removeprefix(self._prefix): read_timings(entry) for key, entry in mine.items()}
        return {key: timings for key, timings in read.items() if timings is not None}

    def add(self, timings: Mapping[str, Timings]) -> None:
        """Keep these too; a folder that cannot be written is no reason to stop."""
        entries = {key: {"seconds": dict(timing.seconds), "limit": timing.limit} for key, timing in timings.items()}
        self._cache.add({self._prefix + key: entry for key, entry in entries.items()})
