"""The user's files that trials read: what was in them, so that results of one content are not continued on another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from suite.data.source import Source


def contents(sources: Iterable[Source]) -> dict[str, str]:
    """SHA-256 of every file that these sources read, by its path as the settings give it."""
    paths = {path for source in sources for path in source.files}
    return {path: _digest(Path(path)) for path in sorted(paths)}


def check_unchanged(now: Mapping[str, str], before: Mapping[str, str], *, results: Path | str) -> None:
    """See that no file holds something else than when results were trained on it.

    Raises:
        ValueError: one does.
    """
    changed = [path for path, digest in now.items() if before.get(path, digest) != digest]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} changed since {results} was trained on it, and trials must not mix the two: bring "
            "the old content back, or give the new content another name, or its results another folder with --results"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
