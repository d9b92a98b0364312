"""The pages of MLflow's UI on which a sweep is looked at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

PATIENCE_MILLISECONDS = 30_000
NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
"""MLflow's assistant takes a quarter of a new user's first page."""
ATTRIBUTE_COLUMNS = ("Dataset", "Source", "Models")
"""Columns that MLflow shows unasked, which are empty for a sweep."""
READ_ROWS = r"""
() => {
    const rows = {};
    for (const cell of document.querySelectorAll("[role=gridcell]")) {
        const index = cell.closest(".ag-row").getAttribute("row-index");
        (rows[index] ??= {})[cell.getAttribute("col-id")] = cell.innerText.trim().split("\n").pop();
    }
    return Object.keys(rows).sort((a, b) => a - b).map((index) => rows[index]);
}
"""
"""MLflow keeps the cells of one row in several places, and the colour of a run before its name."""


@contextmanager
def opened_page(browser: Browser, *, width: int = 1440, height: int = 1000) -> Iterator[Page]:
    """A page of a new user, whose browser remembers nothing."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    context.add_init_script(NO_ASSISTANT)
    try:
        yield context.new_page()
    finally:
        context.close()


def open_experiment(page: Page, address: str, name: str) -> None:
    """From the list of experiments to the table of the runs of one."""
    page.goto(f"{address}/#/experiments")
    page.get_by_role(
        "button", name="Model training"
    ).click()  # else MLflow shows traces of agents, of which there are none
    page.get_by_test_id("experiment-list-item-link").and_(page.get_by_title(name, exact=True)).click()
    page.locator(".ag-row").get_by_role("link").first.wait_for()


def open_sweep(page: Page, address: str) -> None:
    """The page that `stillpoint ui` prints."""
    page.goto(address)
    page.locator(".ag-row").get_by_role("link").nth(1).wait_for()


def open_children(page: Page) -> None:
    """Unfold the parent run in the table."""
    page.locator(".ag-row [role=button], .ag-row button").first.click()


def choose_columns(page: Page, names: Sequence[str], *, hidden: Sequence[str] = ATTRIBUTE_COLUMNS) -> None:
    """Show these columns in place of others."""
    menu = page.get_by_role("button", name="Columns")
    menu.click()
    for name in (*hidden, *names):
        page.get_by_placeholder("Search columns").fill(name)
        node = page.locator("[class*=tree-treenode]").filter(has=page.get_by_text(name, exact=True)).last
        node.locator("[class*=tree-checkbox]").first.click()
    page.keyboard.press("Escape")
    page.locator("[role=columnheader]", has_text=names[-1]).first.wait_for()


def rows(page: Page) -> list[dict[str, str]]:
    """The table as it is shown: the text of every cell by its column's id."""
    return list(page.evaluate(READ_ROWS))


def open_run(page: Page, name: str) -> str:
    """From the table to the page of one run; gives its address."""
    page.locator(".ag-row").get_by_role("link", name=name, exact=True).click()
    page.get_by_role("heading", name=name).wait_for()
    return page.url.partition("?")[0]


def open_chart(page: Page, run: str, metric: str) -> Locator:
    """The chart of one metric on the page of a run."""
    page.goto(f"{run}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill(f"^{metric}$")
    chart = page.locator(".js-plotly-plot")
    expect(chart).to_have_count(1, timeout=PATIENCE_MILLISECONDS)
    return chart


def chart_points(chart: Locator) -> dict[int, float]:
    """What a chart draws: values by step."""
    trace: dict[str, Any] = chart.evaluate("plot => ({x: Array.from(plot.data[0].x), y: Array.from(plot.data[0].y)})")
    return {round(float(step)): float(value) for step, value in zip(trace["x"], trace["y"], strict=True)}


def open_report(page: Page, run: str) -> Any:
    """The report among the files of a run, as MLflow renders it."""
    page.goto(f"{run}/artifacts")
    page.get_by_text("report.html", exact=True).first.click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading").first.wait_for()
    return frame
