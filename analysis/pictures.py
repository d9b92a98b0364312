"""Figures as the report shows them, kept with a mark of all that they are made from: drawing them takes seconds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from analysis.frames import Results

FORMATS = ("svg", "png", "pdf")
TABLES = ("records.parquet", "passages.parquet")
"""What figures show beside the trials, whose table also counts runs of the command."""
LIBRARIES = ("matplotlib", "seaborn", "numpy", "scipy", "pandas")
LEDGER = "ledger-"
"""Begins the names of figures of verdicts."""
INDEX = "pictures.json"
"""Beside fits.json: which figures there are, and the mark of what they are made from."""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    name: str
    title: str
    caption: str
    image: str
    """SVG as a data URI."""
    width: int
    """In points, as it was drawn."""

    @classmethod
    def load(cls, folder: Path, name: str, title: str, caption: str) -> Picture:
        """The figure as it was saved to a folder."""
        drawn = (folder / f"{name}.svg").read_bytes()
        width = re.search(rb'<svg [^>]*?width="([\d.]+)pt"', drawn)
        assert width is not None, f"{name}.svg does not say how wide it is"
        image = "data:image/svg+xml;base64," + base64.b64encode(drawn).decode()
        return cls(name, title, caption, image, round(float(width[1])))


def unless_kept(results: Results, folder: Path, draw: Callable[[], list[Picture]]) -> list[Picture]:
    """The pictures kept in `folder` if nothing changed since: neither the results nor the code that draws them.

    Otherwise, or where a file is missing, they are drawn.
    """
    assert results.folder is not None
    mark, index = _mark(results, results.folder), results.folder / INDEX
    kept = _kept(index, folder, mark)
    if kept is not None:
        return kept
    index.unlink(missing_ok=True)  # ended in between, half of the files would be of another time
    pictures = draw()
    known = [{name: value for name, value in asdict(p).items() if name not in ("image", "width")} for p in pictures]
    index.write_text(json.dumps({"made_of": mark, "pictures": known}, indent=1) + "\n", encoding="utf-8")
    return pictures


def _kept(index: Path, folder: Path, mark: str) -> list[Picture] | None:
    try:
        known = json.loads(index.read_text(encoding="utf-8"))
        names = [picture["name"] for picture in known["pictures"]]
        whole = all((folder / f"{name}.{kind}").stat().st_size for name in names for kind in FORMATS)
        return [Picture.load(folder, **p) for p in known["pictures"]] if whole and known["made_of"] == mark else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mark(results: Results, folder: Path) -> str:
    """Of the results, which say which laws are fitted, of this package's code and of the libraries it draws with."""
    code = sorted(Path(__file__).parent.glob("*.py"))
    words = [*(version(name) for name in LIBRARIES), *results.trials.columns, json.dumps(results.experiment)]
    digest = hashlib.sha256("\n".join(words).encode())
    digest.update(pd.util.hash_pandas_object(results.trials, index=False).to_numpy().tobytes())
    for path in [*code, *(folder / name for name in TABLES)]:
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()
