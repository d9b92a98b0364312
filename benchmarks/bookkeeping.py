"""The commands on a finished sweep of 10,000 trials: `python -m benchmarks.bookkeeping`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.saved import asked_quick, save


def main() -> None:
    """Wall and processor seconds of each command; there is no smaller sweep, so a quick run leaves this out."""
    if asked_quick(__doc__):
        return
    from benchmarks.ten_thousand import measure

    with tempfile.TemporaryDirectory() as folder:
        save("bookkeeping", measure(Path(folder)), quick=False)


if __name__ == "__main__":
    main()
