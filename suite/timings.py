"""Timings measured earlier, kept per machine: what a shape costs is measured once."""

from __future__ import annotations

from collections.abc import Mapping

from suite.lanes import Timings
from suite.machine import machine
from suite.user_cache import UserCache


class TimingCache:
    """Timings measured earlier on this machine, in the user's cache folder; a damaged file counts as empty.

    Those of a prescribed number of `slots` are kept apart.
    """

    def __init__(self, *, device: str, threads: int, slots: int | None = None) -> None:
        self._cache = UserCache("timings.json")
        found = machine(device)
        self._prefix = f"{found['hardware']}|{found['torch_version']}|{threads}|{device}|{slots or 'any'}|"

    def read(self) -> dict[str, Timings]:
        """Timings by shape key."""
        return {
            key.removeprefix(self._prefix): Timings(
                {int(n): each for n, each in entry["seconds"].items()}, entry["limit"]
            )
            for key, entry in self._cache.read().items()
            if key.startswith(self._prefix)
        }

    def add(self, timings: Mapping[str, Timings]) -> None:
        """Keep these too; a folder that cannot be written is no reason to stop."""
        entries = {key: {"seconds": dict(timing.seconds), "limit": timing.limit} for key, timing in timings.items()}
        self._cache.add({self._prefix + key: entry for key, entry in entries.items()})
