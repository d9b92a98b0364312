"""The command as a user types it, in a folder and a home of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

LONGEST_FIRST = ("test_random_kills.py", "test_sync.py", "test_nodes.py", "test_worker_death.py", "test_faults.py")
"""Files that take minutes, so that side by side the last ones end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@dataclass
class Terminal:
    """Runs `stillpoint` in `folder`, with `home` as its home: calibration done once serves all runs."""

    folder: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).with_name("stillpoint")), *arguments]
        environment = {**os.environ, "HOME": str(self.home), "COLUMNS": "120", **self.environment}
        environment.pop("XDG_CACHE_HOME", None)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        """What it printed, both streams; fails unless it exits as expected."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == expect, output + errors
        return output + errors

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def terminal(tmp_path: Path, home: Path) -> Terminal:
    return Terminal(tmp_path, home)
