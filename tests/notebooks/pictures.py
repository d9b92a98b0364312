"""Run every notebook on a fresh quickstart and write the pictures of docs/notebooks.md: `make notebook-pictures`."""

from __future__ import annotations

import base64
import tempfile
import time
from pathlib import Path

from notebooks import ROOT, execute, prepare

PICTURES = ROOT / "docs" / "pictures" / "notebooks"


def main() -> None:
    """One PNG for each cell tagged `picture`, named after its notebook."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for notebook in sorted(prepare(Path(place)).glob("*.ipynb")):
            began = time.monotonic()
            cells = [cell for cell in execute(notebook).cells if "picture" in cell.metadata.get("tags", [])]
            for number, cell in enumerate(cells, 1):
                (image,) = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
                name = notebook.stem if number == 1 else f"{notebook.stem}_{number}"
                (PICTURES / f"{name}.png").write_bytes(base64.b64decode(image))
            print(f"{notebook.name}: {time.monotonic() - began:.0f} s, {len(cells)} pictures", flush=True)


if __name__ == "__main__":
    main()
