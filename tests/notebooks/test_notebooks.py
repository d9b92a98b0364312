"""Every notebook runs top to bottom on the quickstart's results, with no library's words, and is kept stripped."""

from pathlib import Path

import nbformat
import pytest
from notebooks import NOTEBOOKS, execute, prepare


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path):
    content = nbformat.read(notebook, 4)
    nbformat.validate(content)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    assert cells
    assert not [cell for cell in cells if cell.outputs or cell.execution_count is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebooks beside the results of a quickstart."""
    return prepare(tmp_path_factory.mktemp("quickstart"))


@pytest.mark.notebooks
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_runs_and_shows_what_it_says(folder: Path, name: str):
    content = execute(folder / name)
    outputs = [(cell, output) for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for _, output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    assert any(output.output_type == "stream" for _, output in outputs), "it says in words what it found"
    pictures = [cell for cell in content.cells if "picture" in cell.metadata.get("tags", [])]
    shown = [cell for cell, output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert shown == pictures


@pytest.mark.notebooks
def test_the_law_of_ones_own_finds_the_truth_and_is_preferred(folder: Path):
    words = "".join(
        output.text
        for cell in execute(folder / "06_your_own_law.ipynb").cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )
    assert words.count("holds the true") == 3
    assert "preferred by AIC: exponential-decay" in words
