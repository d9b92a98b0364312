"""How busy a node is: what the workers on it say as they go, under MLflow's names for system metrics."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

SAMPLE_SECONDS = 5.0
"""Least time between two looks of one worker."""
FORGET_SECONDS = 60.0
"""A node that was not heard of for so long is shown no more."""
MEBIBYTE, PERCENT = 2**20, 100.0


class Load:
    """Looks at the node it is on, now and then; empty where the system does not tell."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._ticks = _processor_ticks()
        self._next, self._last = time.monotonic(), dict[str, float]()

    def now(self) -> dict[str, float]:
        """Of late, by the names that MLflow gives system metrics."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SAMPLE_SECONDS
            with suppress(OSError, ValueError, LookupError, RuntimeError):  # no lane fails for want of it
                self._last = {**self._processors(), **_memory(), **_gpu_memory(self._device)}
        return self._last

    def _processors(self) -> dict[str, float]:
        """Since the last look."""
        before, self._ticks = self._ticks, _processor_ticks()
        idle, whole = (now - earlier for now, earlier in zip(self._ticks, before, strict=True))
        return {"cpu_utilization_percentage": PERCENT * (1 - idle / whole)} if whole > 0 else {}


class Loads:
    """What the workers told of their nodes."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, dict[str, float]]] = {}

    def note(self, host: str, load: dict[str, float]) -> None:
        """Keep the latest of a node."""
        if load:
            self._told[host] = (time.monotonic(), load)

    def metrics(self) -> dict[str, float]:
        """By the names under which MLflow's page of system metrics shows them."""
        now = time.monotonic()
        return {
            f"system/{host}/{name}": value
            for host, (when, load) in sorted(self._told.items())
            for name, value in load.items()
            if now - when < FORGET_SECONDS
        }


def _processor_ticks() -> tuple[float, float]:
    """Idle ticks of all processors and all their ticks, since the system began; zeros where it does not tell."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0.0, 0.0
    ticks = [float(number) for number in line.split()[1:9]]  # what guests use is within what users use
    return ticks[3] + ticks[4], sum(ticks)


def _memory() -> dict[str, float]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    kibibytes = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    whole, free = kibibytes["MemTotal"], kibibytes["MemAvailable"]
    own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "system_memory_usage_percentage": PERCENT * (1 - free / whole),
        "system_memory_usage_megabytes": (whole - free) / 1024,
        "worker_memory_usage_megabytes": own / MEBIBYTE,
    }


def _gpu_memory(device: str) -> dict[str, float]:
    """Of the worker's own GPU, by all who use it."""
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return {}
    import torch

    free, whole = torch.cuda.mem_get_info()
    used = whole - free
    return {
        "gpu_memory_usage_percentage": PERCENT * used / whole,
        "gpu_memory_usage_megabytes": used / MEBIBYTE,
    }
