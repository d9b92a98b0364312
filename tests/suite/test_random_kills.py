"""Kills without rhyme or reason over one sweep: `python -m benchmarks.random_kills` repeats this for hours."""

from pathlib import Path

import pytest

from benchmarks.random_kills import repeat

pytestmark = pytest.mark.cluster


def test_25_random_kills_of_workers_nodes_and_drivers_lose_double_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    right = repeat(tmp_path, seed=0, kills=25)
    assert right, capsys.readouterr().out
