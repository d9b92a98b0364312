"""Data files that scikit-learn carries, found without importing it: that would cost each worker seconds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def bundled(*parts: str) -> Path:
    """Path of a file below scikit-learn's `datasets` folder.

    Raises:
        ValueError: this installation lacks the file.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise ValueError("scikit-learn is not installed, and this source reads its data files; install scikit-learn")
    path = Path(folders[0], "datasets", *parts)
    if not path.is_file():
        raise ValueError(f"{path}: no such file, but scikit-learn carries it; install scikit-learn again")
    return path
