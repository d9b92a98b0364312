"""results.json: what each benchmark measured, with the machine, the versions and the date."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from suite.machine import machine
from suite.storage import Folder

ROOT = Path(__file__).parent.parent
NARROW, WIDE = (ROOT / "benchmarks" / f"{name}.yaml" for name in ("narrow", "wide"))
CORES = os.cpu_count() or 1
FULL, QUICK = ROOT / "benchmarks" / "results.json", ROOT / "benchmarks" / "quick.json"
"""Measured in full, and with everything shrunk to see that the benchmarks work."""


def asked_quick(description: str | None) -> bool:
    """Whether the command line of a benchmark says `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=f"shrink everything, and write {QUICK.name}")
    return bool(parser.parse_args().quick)


def read(file: Path) -> dict[str, Any]:
    """Everything measured so far, by benchmark."""
    return dict(json.loads(file.read_text())) if file.exists() else {}


def save(name: str, figures: dict[str, Any], *, quick: bool) -> None:
    """Put one benchmark's figures in place of its earlier ones, in one atomic write."""
    file = QUICK if quick else FULL
    content = read(file) | {name: {**origin(), **figures}}
    Folder(file.parent).write(file.name, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
    print(f"{name}: {file.relative_to(ROOT)}", flush=True)


def origin() -> dict[str, Any]:
    """Where, when and with what: part of every benchmark's figures."""
    libraries = {name: version(name) for name in ("torch", "ray", "mlflow")}
    when = datetime.now(UTC).isoformat(timespec="minutes")
    hardware = machine("cpu")["hardware"]
    return {"processor": hardware, "cores": CORES, "versions": libraries, "date": when, "code": _code()}


def _code() -> str:
    """The commit, marked if code differs from it; the package's version outside a repository."""

    def told(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = told("status", "--porcelain", "--", "suite", "analysis", "benchmarks/*.py", "benchmarks/*.yaml")
    return (told("rev-parse", "--short", "HEAD") or version("stillpoint")) + ("-dirty" if changed else "")
