"""What is worth keeping across runs, in the user's cache folder: one JSON object per file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from suite.storage import Folder


class UserCache:
    """Entries by key in $XDG_CACHE_HOME/stillpoint, or ~/.cache/stillpoint; a damaged file counts as empty.

    Of two processes that add at once, the entries of one may be lost, to be found again another time.
    """

    def __init__(self, file: str) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder, self._file = Folder(base / "stillpoint"), file

    def read(self) -> dict[str, Any]:
        """All entries."""
        with suppress(OSError, ValueError):
            stored = json.loads(self._folder.read(self._file))
            if isinstance(stored, dict):
                return stored
        return {}

    def add(self, entries: Mapping[str, Any]) -> None:
        """Keep these too; a folder that cannot be written is no reason to stop."""
        content = json.dumps({**self.read(), **entries}, indent=0).encode()
        with suppress(OSError):
            self._folder.write(self._file, content)
