"""Notebooks in a copy of their surroundings, executed in a real kernel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))
LONGEST_SECONDS = 60
"""Of one cell."""


def prepare(place: Path, *overrides: str) -> Path:
    """A folder with the notebooks, the experiments and the quickstart's results; gives that of the notebooks."""
    shutil.copytree(ROOT / "experiments", place / "experiments")
    folder = shutil.copytree(ROOT / "analysis" / "notebooks", place / "analysis" / "notebooks")
    command = [str(Path(sys.executable).with_name("stillpoint")), "run", "experiments/quickstart.yaml", *overrides]
    subprocess.run([*command, "--tracking-uri", "none", "--no-report"], cwd=place, check=True, capture_output=True)
    return folder


def execute(notebook: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs.

    Raises:
        CellExecutionError: a cell failed, with its traceback.
    """
    content = nbformat.read(notebook, 4)
    quiet = ["--IPKernelApp.log_level=ERROR"]
    place = {"metadata": {"path": str(notebook.parent)}}
    NotebookClient(content, timeout=LONGEST_SECONDS, extra_arguments=quiet, resources=place).execute()
    return content
