"""The report, opened from its file with the network off."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage

pytestmark = pytest.mark.browser

LEVEL_A = ["wcag2a", "wcag21a"]
WIDTHS = (390, 1280)


@pytest.mark.parametrize("width", WIDTHS)
def test_report_needs_no_network_and_says_nothing_on_the_console(
    browser: Browser, quickstart: Path, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True)
    page = context.new_page()
    requested: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: said.append(_words(message)))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((quickstart / "report.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert page.get_by_role("heading", name="quickstart", exact=True).is_visible()
    assert requested
    assert [url[:100] for url in requested if not url.startswith(("file:", "data:"))] == []
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_report_has_no_accessibility_violation_of_level_a(
    browser: Browser, quickstart: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto((quickstart / "report.html").as_uri())
    found = Axe().run(page, options={"runOnly": LEVEL_A})
    assert len(found.response["passes"]) > 5
    assert found.violations_count == 0, found.generate_report()
    context.close()


def _words(message: ConsoleMessage) -> str:
    return f"{message.type}: {message.text}"
