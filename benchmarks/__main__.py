"""All benchmarks, each in a process of its own, and then the page: `python -m benchmarks [--quick]`."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.saved import ROOT, asked_quick

PARTS = ("peers", "ceiling", "step", "overheads", "growth", "bookkeeping", "many_lanes", "gpu", "page")


def main() -> None:
    """Run them; one that fails leaves its earlier figures, and the rest go on."""
    options = ["--quick"] if asked_quick(__doc__) else []
    failed = []
    for part in PARTS:
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *options], cwd=ROOT, check=False)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
        failed += [part] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
