"""The report as a page: one file that needs nothing else, with the ledger and the grid, for every reader."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis import load_results
from analysis.ledger import judge, ledger
from analysis.report import RECORD_COLUMNS, Report, write_report
from analysis.verdict_words import estimate_words, range_words, record_columns

SWEEP = """
name: page
description: Does it stay?
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 600}
stationary_below: 0.02
stationary_below_relative: 1.0
predictions: [descent, time-eps, displacement, flips, grad-width, rate, ntk-drift, threshold]
laws:
- {law: power, y: steps_to_stationarity, x: encoder.width, epsilon: 1e-1, by: depth}
sweep: {encoder.width: [8, 16, 32, 64], encoder.depth: [1, 2], seed: {range: 3}}
"""
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes and the text directly or deeper inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, {name: value or "" for name, value in attrs}, list[str]())
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, *tags: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of the elements of these tags."""
        return [(attributes, " ".join("".join(t).split())) for tag, attributes, t in self.elements if tag in tags]


@pytest.fixture(scope="module")
def report(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("page") / "page"
    results = trained(SWEEP)
    shutil.copytree(results, folder)
    named = ["descent", "time-eps", "displacement", "flips", "grad-width", "rate", "ntk-drift", "threshold"]
    add_predictions(folder, named)
    return write_report(folder, command="stillpoint run page.yaml")


def add_predictions(folder: Path, names: list[str]) -> None:
    """Say in the tables which predictions the experiment names, as `stillpoint run` does."""
    table = pq.read_table(folder / "trials.parquet")
    metadata = dict(table.schema.metadata)
    experiment = json.loads(metadata[b"experiment"]) | {"predictions": names}
    metadata[b"experiment"] = json.dumps(experiment).encode()
    pq.write_table(table.replace_schema_metadata(metadata), folder / "trials.parquet")


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(Path(report.path).read_text(encoding="utf-8"))


def test_the_page_is_one_small_file_that_asks_for_nothing(report: Report, page: Page):
    assert Path(report.path).stat().st_size < 5e6
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes[name][:80])
    assert not {tag for tag, _, _ in page.elements} & {"script", "link", "iframe", "object", "embed"}
    (style,) = [text for _, text in page.all("style")]
    assert "url(" not in style
    assert "@import" not in style


def test_sections_follow_each_other_without_scripts_and_the_answer_is_first(page: Page):
    assert [text for _, text in page.all("h1")] == ["page"]
    sections = [text for _, text in page.all("h2")]
    expected = ["The theory’s predictions", "Stationary trials", "Figures", "Laws", "How this was made"]
    assert [name for name in sections if name in expected] == expected
    assert sections[-1] == "Versions and hardware"
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert max(np.diff(levels)) <= 1, "no level of headings is left out"
    begun = (tag for tag, attributes, _ in page.elements if attributes.get("class") == "answers" or tag == "h2")
    assert next(begun) == "ul"


def test_every_figure_has_a_text_that_says_what_is_seen(page: Page):
    images = [attributes for attributes, _ in page.all("img")]
    captions = [text for _, text in page.all("figcaption")]
    assert len(images) == len(captions) > 8
    for attributes, caption in zip(images, captions, strict=True):
        assert attributes["alt"].endswith(caption)
        assert re.search(r"\d", caption)


def test_what_scrolls_can_be_reached_by_keys_and_has_a_name_of_its_own(page: Page):
    scrolling = [attributes for _, attributes, _ in page.elements if attributes.get("class") == "scroll"]
    assert scrolling
    assert all(attributes["tabindex"] == "0" for attributes in scrolling)
    names = [attributes["aria-label"] for attributes in scrolling if attributes["role"] == "region"]
    assert len(names) == len(set(names)) > 2
    assert all(text for _, text in page.all("th"))


def test_links_on_the_page_lead_somewhere(page: Page):
    places = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    targets = [attributes["href"].removeprefix("#") for attributes, _ in page.all("a")]
    assert len(places) == len(set(places))
    assert set(targets) <= set(places)
    assert "ledger-displacement" in targets


def test_verdicts_are_those_of_the_ledger_in_words_and_colours(report: Report, page: Page):
    assert report.results.folder is not None
    verdicts = judge(load_results(report.results.folder), report.results.experiment["predictions"])
    applying = [e for verdict in verdicts for e in verdict.evidence if not e.reason]
    cells = [(a["class"], text) for a, text in page.all("td") if "verdict" in a.get("class", "")]
    assert cells == [(f"verdict {e.word}", e.word) for e in applying]
    estimates = [text for a, text in page.all("td") if a.get("class") == "what"]
    assert estimates == [" ".join(f"{e.what}: {estimate_words(e)}".split()) for e in applying]
    assert "consistent" in {word for _, word in cells}
    assert not any("ntk-drift" in text for _, text in page.all("tbody")), "the kernel was not measured"
    assert any(range_words(e.expected) == "−0.6 to −0.4" for e in applying)


def test_a_sweep_that_no_prediction_applies_to_has_no_ledger(trained: Callable[[str], Path], tmp_path: Path):
    folder = tmp_path / "page"
    shutil.copytree(trained(SWEEP), folder)
    add_predictions(folder, ["twin", "lr-width"])
    written = write_report(folder, command="x")
    page = Page(Path(written.path).read_text(encoding="utf-8"))
    assert written.verdicts == []
    assert "The theory’s predictions" not in [text for _, text in page.all("h2")]


@pytest.mark.parametrize("name", ledger())
def test_a_prediction_reads_the_columns_of_records_that_it_names(
    name: str, trained: Callable[[str], Path], tmp_path: Path
):
    folder = trained(SWEEP)
    needed = [*RECORD_COLUMNS, *record_columns([name])]
    few, all_columns = load_results(folder, record_columns=needed), load_results(folder)
    (from_few,), (from_all,) = judge(few, [name]), judge(all_columns, [name])
    assert from_few == from_all
