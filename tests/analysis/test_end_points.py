"""Kinds of end points: in the table of the report, on the terminal, and left out where results have none."""

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from analysis.end_points import KINDS, NOT_STATIONARY, STATIONARY, cut_short_words, end_points, end_points_line
from analysis.frames import Results
from analysis.report import write_report
from analysis.summary import print_summary
from analysis.thresholds import judged, stationary_shares

SWEEP = """
name: kinds
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 60}
stationary_below: 0.02
sweep: {encoder.width: [8, 16, 32], encoder.depth: [1, 2], seed: {range: 2}}
"""
HIGHEST = {"minimum-like": True, "saddle-like": True, "not-stationary": False}


def sweep(kinds: list[str | None], unstable: list[bool | None] | None = None, **axes: list) -> Results:
    """One trial per kind; underscores of the axes' names are dots."""
    flags = [None if kind is None else HIGHEST.get(kind) for kind in kinds]
    columns = {name.replace("__", "."): values for name, values in axes.items()}
    trials = pd.DataFrame({**columns, "status": "finished", "kind": kinds, "stationary": flags})
    trials["unstable"] = [None] * len(kinds) if unstable is None else unstable
    return Results(trials, pd.DataFrame(), pd.DataFrame(), {"stationary_below": 1e-4}, list(columns), None)


def rewritten(folder: Path, kinds: list[str | None], unstable: list[bool | None]) -> Path:
    """The folder with these kinds in its table of trials; with no such columns if there are none."""
    table = pq.read_table(folder / "trials.parquet")
    table = table.select([name for name in table.column_names if name not in ("kind", "unstable")])
    if not kinds:
        pq.write_table(table, folder / "trials.parquet")
        return folder
    flags = pa.array([None if kind is None else KINDS[kind].heading == STATIONARY for kind in kinds], pa.bool_())
    table = table.set_column(table.column_names.index("stationary"), "stationary", flags)
    table = table.append_column("kind", pa.array(kinds, pa.string()))
    table = table.append_column("unstable", pa.array(unstable, pa.bool_()))
    pq.write_table(table, folder / "trials.parquet")
    return folder


def test_counts_stand_by_group_and_value_under_the_kinds_that_occur():
    kinds = ["saddle-like", "minimum-like", "not-stationary", None, "minimum-like", "minimum-like"]
    found = end_points(sweep(kinds, encoder__width=[8, 8, 8, 16, 16, 8], encoder__depth=[1, 1, 1, 1, 2, 2]))
    assert found is not None
    assert found.kinds == ["minimum-like", "saddle-like", "not-stationary"]
    assert found.headings == [(STATIONARY, 2), (NOT_STATIONARY, 1)]
    assert [(title, [(row.value, row.counts) for row in rows]) for title, rows in found.groups] == [
        ("depth 1", [("8", [1, 1, 1])]),
        ("depth 2", [("8", [1, 0, 0]), ("16", [1, 0, 0])]),
    ]
    assert (found.num_examined, found.num_without) == (5, 1)


def test_a_sweep_of_seeds_is_one_row_and_a_kind_not_known_here_is_shown():
    found = end_points(sweep(["minimum-like", "strange"], seed=[0, 1]))
    assert found is not None
    assert found.groups[0][1][0].counts == [1, 1]
    assert found.headings[-1] == ("other", 1)
    assert found.legend[-1] == ("strange", "")


def test_the_line_of_the_terminal_tells_kinds_and_unstable_trials():
    kinds = ["saddle-like"] * 2 + ["minimum-like"] * 12 + ["not-stationary"] * 4
    assert end_points_line(sweep(kinds)) == "end points: 12 minimum-like, 4 not-stationary, 2 saddle-like"
    unstable = [True, True, None, *[False] * 15]
    line = end_points_line(sweep(kinds, unstable))
    assert line == "end points: 12 minimum-like, 4 not-stationary, 2 saddle-like; unstable: 2 of 17 (12%)"


def test_trials_without_a_certificate_are_neither_stationary_nor_not():
    results = sweep(["minimum-like", None, "not-stationary", None], encoder__width=[8, 8, 16, 32])
    assert judged(results).stationary.tolist() == [True, False]
    shares = stationary_shares(results, ["encoder.width"])
    assert shares["encoder.width"].tolist() == [8, 16]
    assert shares.share.tolist() == [1.0, 0.0]


def test_without_kinds_there_is_no_table():
    results = sweep([None, None], encoder__width=[8, 16])
    assert end_points(results) is None
    assert end_points_line(results) is None
    results = replace(results, trials=results.trials.drop(columns=["kind", "unstable"]))
    assert end_points(results) is None
    assert end_points_line(results) is None


@pytest.mark.parametrize("case", ["all kinds", "few kinds", "none", "older"])
def test_the_report_and_the_terminal_tell_what_the_results_have(
    case: str, trained: Callable[[str], Path], tmp_path: Path
):
    folder = tmp_path / "copy"
    shutil.copytree(trained(SWEEP), folder)
    names = list(KINDS)
    kinds: list[str | None] = {
        "all kinds": [*names, None, None],
        "few kinds": ["minimum-like", "not-stationary"] * 6,
        "none": [None] * 12,
        "older": [],
    }[case]
    rewritten(folder, kinds, [True, *[None] * 11])
    report = write_report(folder, command="x")
    page = re.sub(r"data:image[^\"]*", "", report.path.read_text())
    console = Console(width=80, record=True, file=io.StringIO())
    print_summary(report, console)
    said = console.export_text()
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith("report"))
    told = [kind for kind in names if kind in kinds]
    known = {"all kinds": "10 trials", "few kinds": "12 trials"}.get(case)
    assert ("What the end points are" in page) == ("end points:" in said) == bool(told)
    assert [kind in page for kind in told] == [True] * len(told)
    assert all(f'title="{KINDS[kind].meaning}"' in page.replace("&#39;", "'") for kind in told)
    if known:
        assert f"Counts of the {known}" in page
        assert "Unstable: 1 of 1 (100%)" in page
    assert "<script" not in page
    assert (folder / "figures" / "descent.svg").exists() == (case != "none")


def test_trials_that_were_stopped_before_they_could_pass_the_relative_level_are_told():
    found = sweep(["flat-start", "flat-start", "undetermined", "not-stationary"], encoder__width=[8, 8, 8, 8])
    found.experiment["stationary_below_relative"] = 0.01
    assert cut_short_words(found) is None  # results that do not say why trials ended
    found.trials["steps"] = [5, 0, 5, 5]
    found.trials["ended_by"] = ["steps", "stop_below", "stop_below", "steps"]  # the second began below
    assert cut_short_words(found) is None
    found.trials["ended_by"] = ["stop_below", "steps", "stop_below", "steps"]
    assert cut_short_words(found).startswith("stop_below ended 1 of the flat starts before G could fall to 0.01")


def test_a_level_that_a_trial_cannot_reach_before_it_stops_is_told_on_both_pages(trained: Callable[[str], Path]):
    long = SWEEP.replace("kinds", "unfit").replace("60", "600").replace("[8, 16, 32]", "[128]")
    stops = long.replace("budget: {", "budget: {stop_below: 0.01, ")
    report = write_report(trained(stops + "stationary_below_relative: 1.0e-4\n"), command="x")
    words = "of the flat starts before G could fall to 0.0001 of its largest"
    console = Console(width=80, record=True, file=io.StringIO())
    print_summary(report, console)
    assert words in " ".join(console.export_text().split())
    assert words in report.path.read_text()
