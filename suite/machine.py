"""What trials run on: hardware and versions, which decide bits."""

from __future__ import annotations

import platform
import shutil
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
    names = set() if "torch" in sys.modules or version("torch").endswith("+cpu") else set(gpu_names())
    if len(names) == 1:
        return names.pop()  # torch takes seconds to load, and a driver needs it for nothing else
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            "resources.gpus asks for a GPU, and torch sees none on this machine: run it where there is one, "
            "or use --set resources.gpus=0"
        )
    return str(torch.cuda.get_device_name())


def gpu_names() -> list[str]:
    """Names of this machine's GPUs, as NVIDIA's driver has them; none without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return asked.stdout.strip().splitlines() if asked.returncode == 0 else []


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
