"""Which module may import which library: a table that the design depends on."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite.reference import ROOT

ONLY = {
    "ray": {"suite/failures.py", "suite/head.py", "suite/ray_metrics.py", "suite/scheduling.py"},
    "mlflow": {"suite/tracking.py", "suite/tracking_store.py", "analysis/mlflow_frames.py"},
    "seaborn": {"analysis/theme.py"},
    "typer": {"suite/cli.py"},
}


def imports(path: Path) -> Iterator[str]:
    """Top-level names of everything a file imports, at its head or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


FILES = sorted(path for package in ("suite", "analysis") for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_imported_by_its_module_alone(library: str):
    users = {str(p.relative_to(ROOT)) for p in FILES if library in {name.partition(".")[0] for name in imports(p)}}
    assert users == ONLY[library]


def test_analysis_needs_neither_torch_nor_the_suite():
    for path in (ROOT / "analysis").rglob("*.py"):
        used = {name.partition(".")[0] for name in imports(path)}
        assert not used & {"torch", "ray", "suite"}, path


def loaded_by(code: str) -> set[str]:
    """Libraries in memory after running this in a fresh interpreter."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in output.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import suite.cli", {"torch", "ray", "mlflow", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib"}),
        (
            "from suite import load_experiment; load_experiment('experiments/quickstart.yaml')",
            {"torch", "ray", "mlflow"},
        ),
        ("from analysis import fit_law", {"torch", "ray", "mlflow", "matplotlib"}),
        ("import suite.measurement.dominance", {"torch", "ray", "mlflow", "scipy", "sklearn"}),
        ("import suite.worker", {"mlflow", "sklearn", "matplotlib"}),
        ("import suite.inspection, suite.planning, suite.delivery", {"torch", "ray", "mlflow", "pandas", "matplotlib"}),
        (
            "import suite.cli, suite.results, suite.delivery, suite.scheduling",
            {"torch", "mlflow", "sqlalchemy", "sklearn", "scipy", "matplotlib"},
        ),
    ],
)
def test_heavy_libraries_are_not_loaded_for_nothing(code: str, heavy: set[str]):
    assert not loaded_by(code) & heavy
