"""Makes the pictures of MLflow's pages in docs/pictures from a results folder: `make screenshots`."""

import io
import sys
from pathlib import Path

from chromium import chromium, find_chromium
from mlflow_pages import (
    open_chart,
    open_children,
    open_experiment,
    open_report,
    open_run,
    open_sweep,
    opened_page,
)
from PIL import Image
from playwright.sync_api import Page, ViewportSize
from served_ui import served_ui

CHILD = "m128-L2-s1"
SIZE = ViewportSize(width=1280, height=860)
CHART_SIZE = ViewportSize(width=760, height=640)
"""MLflow's charts are small beside a wide page's other columns."""
COLOURS = 128
"""Of a palette, which makes a picture a third as large."""
SETTLE_MILLISECONDS = 1500
"""How long MLflow's pages move after they are there."""


def save(page: Page, path: Path) -> None:
    """What the page shows, as a small PNG, without the folder of whoever makes it."""
    page.mouse.move(0, 0)
    for place in page.get_by_text("Path: file:").all():
        place.evaluate("node => node.style.visibility = 'hidden'")
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main(results: Path, pictures: Path) -> None:
    """Look at the sweep as a newcomer does, and keep what is seen."""
    name = results.name
    with served_ui(results) as ui, chromium() as browser, opened_page(browser) as page:
        page.set_viewport_size(SIZE)
        open_sweep(page, ui.page)
        save(page, pictures / "mlflow-runs.png")
        open_experiment(page, ui.address, name)
        open_children(page)
        run = open_run(page, CHILD)
        page.set_viewport_size(CHART_SIZE)
        open_chart(page, run, "scaled_grad_norm_sq")
        save(page, pictures / "mlflow-chart.png")
        page.set_viewport_size(SIZE)
        open_experiment(page, ui.address, name)
        parent = open_run(page, name)
        save(page, pictures / "mlflow-parent.png")
        open_report(page, parent)
        save(page, pictures / "mlflow-report.png")


if __name__ == "__main__":
    if find_chromium() is None:
        sys.exit("there is no chromium on this machine; apt-get install chromium")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
