"""What a driver says of its GPU without loading PyTorch, from a program that stands for NVIDIA's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from suite import machine

machine.version = lambda name: "2.13.0"  # a build for GPUs
print(machine._only_gpu(), "torch" in sys.modules)
"""


def only_gpu(folder: Path, program: str, **environment: str) -> str:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{program}\n")
    tool.chmod(0o755)
    environment |= {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("echo 'NVIDIA H200, Disabled'; echo 'NVIDIA H200, Disabled'", "NVIDIA H200"),
        ("echo 'Tesla T4, [N/A]'", "Tesla T4"),
        ("echo 'NVIDIA H200, Disabled'; echo 'NVIDIA L4, [N/A]'", "None"),
        ("echo 'NVIDIA H200, Enabled'", "None"),  # torch sees its slices
        ("echo 'no devices were found'; exit 6", "None"),
        ("exit 0", "None"),
    ],
)
def test_the_name_that_all_gpus_have_is_told_without_torch(tmp_path: Path, program: str, name: str):
    assert only_gpu(tmp_path, program) == f"{name} False\n"


def test_torch_is_asked_where_it_may_see_other_gpus(tmp_path: Path):
    assert only_gpu(tmp_path, "echo 'NVIDIA H200, Disabled'", CUDA_VISIBLE_DEVICES="") == "None False\n"
