"""What trials run on: hardware and versions, which decide bits."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any


@lru_cache
def machine(device: str) -> dict[str, Any]:
    """What the trial ran on: columns of the trial table.

    Raises:
        ValueError: the device is a GPU, and there is none.
    """
    return {
        "torch_version": version("torch"),
        "python_version": platform.python_version(),
        "hardware": _accelerator() if device.startswith("cuda") else _processor(),
        "host": socket.gethostname(),
    }


def _accelerator() -> str:
    if (name := _only_gpu()) is not None:
        return name
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            "resources.gpus asks for a GPU, and torch sees none on this machine: run it where there is one, "
            "or use --set resources.gpus=0"
        )
    return str(torch.cuda.get_device_name())


def _only_gpu() -> str | None:
    """The name that all GPUs of this machine have, from NVIDIA's driver: torch takes seconds to load, and a driver of
    sweeps needs it for nothing else. None where torch is there, may see others, or names them otherwise."""
    if "torch" in sys.modules or version("torch").endswith("+cpu") or "CUDA_VISIBLE_DEVICES" in os.environ:
        return None
    command = ["nvidia-smi", "--query-gpu=name,mig.mode.current", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = {tuple(row.rsplit(", ", 1)) for row in asked.stdout.strip().splitlines()}
    return rows.pop()[0] if len(rows) == 1 and "Enabled" not in asked.stdout else None


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
