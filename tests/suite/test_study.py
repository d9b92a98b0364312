"""`stillpoint study`: from a folder of experiments to a page with a verdict on each prediction they name."""

import re
from pathlib import Path

from conftest import Terminal

WIDTH = """
name: width
description: Is this a study in small?
data: {source: sphere, samples: 16, input_dim: 12}
encoder: {depth: 1, embedding_dim: 8, parametrization: allen-zhu}
loss: {name: infonce, similarity: cosine}
budget: {steps: 400, stop_below: 0}
measure: {kernel: [start, decades, end]}
sweep: {encoder.width: [64, 128, 256], seed: {range: 4}}
predictions: [descent, time-eps, rate, grad-width, displacement, rel-displacement, ntk-drift, ntk-init, flips, twin]
profiles:
  study: {budget: {steps: 300}}
"""
ANGLES = """
name: angles
description: Do angles shrink with depth?
data: {source: sphere, samples: 16, input_dim: 12}
encoder: {embedding_dim: 8}
budget: {steps: 20}
sweep: {encoder.depth: [1, 2], encoder.width: [32, 512], seed: {range: 3}}
predictions: [angles]
profiles:
  study: {}
"""


def test_a_study_ends_with_a_page_of_verdicts_from_which_figures_trials_and_commands_are_found(terminal: Terminal):
    folder = terminal.folder / "mine"
    folder.mkdir()
    (folder / "width.yaml").write_text(WIDTH)
    (folder / "angles.yaml").write_text(ANGLES)
    (folder / "other.yaml").write_text(WIDTH.replace("name: width", "name: other").replace("study:", "large:"))
    arguments = ("study", "mine", "--results", "out", "--page", "pages/study.md", "--tracking-uri", "none")
    output = terminal(*arguments)
    assert "2 of 2: width-study: Is this a study in small?" in output
    assert "2 sweeps judged: pages/study.md" in output
    page = (terminal.folder / "pages" / "study.md").read_text()
    verdicts = dict(re.findall(r"\| \[([a-z-]+)\]\(#what-is-predicted\) \| \*\*([a-z -]+)\*\*", page))
    assert len(verdicts) == 17
    assert (verdicts["descent"], verdicts["time-eps"], verdicts["rate"]) == ("consistent", "consistent", "reported")
    assert (verdicts["twin"], verdicts["coupling"]) == ("not-applicable", "not in this study")
    assert "stillpoint run mine/width.yaml --profile study --results out" in page
    pictures = re.findall(r"\]\((study/[^)]+\.png)\)", page)
    assert "study/width-study-displacement.png" in pictures
    for picture in set(pictures):
        assert (terminal.folder / "pages" / picture).stat().st_size > 3000
    results = re.findall(r'load_results\("([^"]+)"\)', page)
    assert [Path(place).name for place in results] == ["angles-study", "width-study"]
    assert all((terminal.folder / place / "trials.parquet").exists() for place in results)
    assert terminal(*arguments).count("trained") == 0


def test_a_study_without_experiments_is_refused(terminal: Terminal):
    (terminal.folder / "mine").mkdir()
    (terminal.folder / "mine" / "width.yaml").write_text(WIDTH)
    assert "no experiment in mine has a profile 'huge'" in terminal("study", "mine", "--profile", "huge", expect=2)
    assert "no experiment in nowhere" in terminal("study", "nowhere", expect=2)
    assert sorted(path.name for path in terminal.folder.iterdir()) == ["mine"]
