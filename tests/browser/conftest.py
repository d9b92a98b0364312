"""Real sweeps, MLflow as `stillpoint ui` serves it, and a browser that looks at them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium, find_chromium
from playwright.sync_api import Browser
from served_ui import served_ui

ROOT = Path(__file__).parents[2]
STEPS = 300
"""A tenth of the quickstart's: its 40 trials, and all that is looked at, in a minute."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def quickstart(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of the quickstart, trained for a tenth of its steps."""
    home, results = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("browser") / "results"
    command = [str(Path(sys.executable).with_name("stillpoint")), "run", str(ROOT / "experiments/quickstart.yaml")]
    command += ["--results", str(results), "--set", f"budget.steps={STEPS}"]
    environment = {**os.environ, "HOME": str(home)}
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return results / "quickstart"


@pytest.fixture(scope="session")
def ui(quickstart: Path) -> Iterator[str]:
    """The address of `stillpoint ui` on it."""
    with served_ui(quickstart) as address:
        yield address
