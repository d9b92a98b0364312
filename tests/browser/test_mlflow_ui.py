"""What someone who opens MLflow on the quickstart sees."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow_pages import (
    chart_points,
    choose_columns,
    open_chart,
    open_children,
    open_experiment,
    open_report,
    open_run,
    open_sweep,
    opened_page,
    rows,
)
from playwright.sync_api import Browser, expect
from served_ui import ServedUi
from small_quickstart import FILE, STEPS

pytestmark = pytest.mark.browser

AXES = {"encoder.width": (32, 64, 128, 256, 512), "encoder.depth": (1, 2), "seed": (0, 1, 2, 3)}
CHILDREN = {f"m{width}-L{depth}-s{seed}": (width, depth, seed) for width, depth, seed in product(*AXES.values())}
NAME = "attributes.`Run Name`"


def test_page_that_is_printed_shows_names_statuses_settings_and_metrics_unasked(
    browser: Browser, served: ServedUi
) -> None:
    with opened_page(browser) as page:
        open_sweep(page, served.page)
        parent, *children = rows(page)
    assert parent[NAME] == "quickstart"
    assert children
    for row in children:
        assert tuple(int(row[f"params.`{axis}`"]) for axis in AXES) == CHILDREN[row[NAME]]
        assert row["tags.`status`"] == "finished"
        assert float(row["metrics.`final_scaled_grad_norm_sq`"]) > 0


def test_all_children_are_in_the_table_with_their_names_and_settings(browser: Browser, ui: str) -> None:
    with opened_page(browser) as page:
        open_experiment(page, ui, "quickstart")
        assert [row[NAME] for row in rows(page)] == ["quickstart"]
        open_children(page)
        choose_columns(page, [*AXES, "scaled_grad_norm_sq"])
        expect(page.get_by_text("41 matching runs")).to_be_visible()
        parent, *children = rows(page)
    assert parent[NAME] == "quickstart"
    assert {row[NAME] for row in children} == set(CHILDREN)
    for row in children:
        assert tuple(int(row[f"params.`{axis}`"]) for axis in AXES) == CHILDREN[row[NAME]]
        assert float(row["metrics.`scaled_grad_norm_sq`"]) > 0


def test_parent_says_what_the_sweep_is_for(browser: Browser, ui: str) -> None:
    described = yaml.safe_load(FILE.read_text())["description"]
    with opened_page(browser) as page:
        open_experiment(page, ui, "quickstart")
        open_run(page, "quickstart")
        expect(page.get_by_text(described).first).to_be_visible()
        for child in page.get_by_role("link", name="m64-L1-s").all():
            assert child.inner_text() in CHILDREN


def test_chart_of_a_child_draws_its_records(browser: Browser, ui: str, quickstart: Path) -> None:
    with opened_page(browser) as page:
        open_experiment(page, ui, "quickstart")
        open_children(page)
        points = chart_points(open_chart(page, open_run(page, "m128-L2-s1"), "scaled_grad_norm_sq"))
    assert {0, 1, 10, STEPS} <= points.keys()
    trials = pd.read_parquet(quickstart / "trials.parquet")
    (trial_id,) = trials.trial_id[(trials[list(AXES)] == list(CHILDREN["m128-L2-s1"])).all(axis=1)]
    records = pd.read_parquet(quickstart / "records.parquet")
    records = records[records.trial_id == trial_id].set_index("step")
    assert records.scaled_grad_norm_sq[list(points)].to_list() == pytest.approx(list(points.values()))


def test_report_is_rendered_among_the_files(browser: Browser, ui: str) -> None:
    with opened_page(browser) as page:
        open_experiment(page, ui, "quickstart")
        report = open_report(page, open_run(page, "quickstart"))
        expect(report.get_by_role("heading", name="quickstart", exact=True)).to_be_visible()
        pictures = report.get_by_role("img")
        assert pictures.count() >= 4
        assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 100 || one.tagName != 'IMG')")
