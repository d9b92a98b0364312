"""A real sweep, MLflow as `stillpoint ui` serves it, and a browser that looks at both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium, find_chromium
from playwright.sync_api import Browser
from served_ui import ServedUi, served_ui
from small_quickstart import train


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def quickstart(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its results folder; made only where there is a browser to look at it."""
    return train(tmp_path_factory.mktemp("quickstart") / "results", home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def served(quickstart: Path) -> Iterator[ServedUi]:
    """`stillpoint ui` on it."""
    with served_ui(quickstart) as ui:
        yield ui


@pytest.fixture(scope="session")
def ui(served: ServedUi) -> str:
    """The address of MLflow."""
    return served.address
