"""Frames, figures and the report on real small sweeps, degenerate ones among them."""

import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.console import Console

from analysis import diagnostics, fit_law, load_results, report_figures, theme
from analysis.choice import compare_laws
from analysis.drawings import draw_figures
from analysis.frames import Results, law_frame, passage_frame
from analysis.laws_of_sweep import fit_sweep
from analysis.report import RECORD_COLUMNS, share_table, write_report
from analysis.scales import Scale
from analysis.summary import print_summary
from analysis.thresholds import stationary_shares, thresholds

Train = Callable[[str], Path]

BASE = """
name: {name}
description: Does it <rest> & stay?
data: {{source: sphere, samples: 8, input_dim: 6}}
encoder: {{width: 16, depth: 1, embedding_dim: 4}}
budget: {{steps: {steps}}}
stationary_below: {below}
stationary_below_relative: 1.0
laws:
- {{law: power, y: steps_to_stationarity, x: encoder.width, epsilon: 1e-1, by: depth}}
- {{law: offset-power, y: time_to_stationarity, x: encoder.width, epsilon: 1e-1}}
- {{law: power, y: displacement, x: encoder.width, among: finished}}
sweep: {sweep}
"""
FULL = BASE.format(
    name="full",
    steps=600,
    below=0.02,
    sweep="{encoder.width: [8, 16, 32, 64], encoder.depth: [1, 2], seed: {range: 3}}",
)
DEGENERATE = {
    "one trial": BASE.format(name="one", steps=50, below=0.02, sweep="{}"),
    "one seed": BASE.format(name="seed", steps=50, below=0.02, sweep="{encoder.width: [8, 16, 32]}"),
    "seeds alone": BASE.format(name="seeds", steps=50, below=0.02, sweep="{seed: {range: 3}}"),
    "one width": BASE.format(name="width", steps=50, below=0.02, sweep="{encoder.width: [8], seed: [0, 1]}"),
    "nothing reached": BASE.format(
        name="none", steps=2, below=1e-6, sweep="{encoder.width: [8, 16, 32], seed: {range: 2}}"
    ),
    "all diverged": BASE.format(
        name="diverged", steps=20, below=1e-4, sweep="{encoder.width: [8, 16, 32], seed: {range: 2}}"
    )
    + "loss: {name: infonce, similarity: dot}\noptimizer: {name: gd, learning_rate: {rule: width, c: 1e30}}\n",
    "all at infinity": BASE.format(name="inf", steps=60, below=1e-4, sweep="{seed: {range: 2}}")
    .replace("source: sphere, samples: 8, input_dim: 6", "source: digits, samples: 8")
    .replace("{width: 16, depth: 1", "{activation: gelu, parametrization: standard, width: 8, depth: 3")
    + "loss: spectral\noptimizer: {name: gd, learning_rate: {rule: width, c: 100000}}\n",
    "words as axis": BASE.format(
        name="words", steps=30, below=0.02, sweep="{loss.similarity: [dot, cosine], seed: {range: 2}}"
    ),
    "axes that move together": BASE.format(
        name="zip", steps=30, below=0.02, sweep="{zip: [{encoder.width: [8, 16], data.samples: [4, 8]}]}"
    ),
    "many groups": BASE.format(
        name="many",
        steps=3,
        below=0.02,
        sweep="{encoder.width: [8, 16], encoder.embedding_dim: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]}",
    ),
    "choices as axis": BASE.format(
        name="choices",
        steps=20,
        below=0.02,
        sweep="{loss: [infonce, dcl, {name: infonce, temperature: 0.2}], seed: {range: 2}}",
    ),
    "choices and widths": BASE.format(
        name="both", steps=20, below=0.02, sweep="{loss: [infonce, spectral], encoder.width: [8, 16], seed: {range: 2}}"
    ),
    "yes and no": BASE.format(
        name="flags", steps=20, below=0.02, sweep="{encoder.residual: [false, true], encoder.depth: [1, 2]}"
    ),
    "started stationary": BASE.format(
        name="start", steps=30, below=1e3, sweep="{encoder.width: [8, 16, 32], seed: {range: 2}}"
    ),
}


def frames(trials: pd.DataFrame, axes: list[str]) -> Results:
    return Results(trials, pd.DataFrame(), pd.DataFrame(), {"stationary_below": 1e-4}, axes, None)


@pytest.fixture
def full(trained: Train) -> Path:
    return trained(FULL)


def test_frames_hold_each_trial_threshold_and_record(full: Path):
    results = load_results(full)
    assert len(results.trials) == 24
    assert results.axes == ["encoder.width", "encoder.depth", "seed"]
    assert len(results.passages) == 24 * 11 * 2
    assert results.records.groupby("trial_id").final.sum().eq(1).all()
    assert load_results(full.parent).trials.equals(results.trials)


def test_passages_are_those_that_the_records_show(full: Path):
    """T(eps) lies after the last record above eps before it, and no later than the first record at or below it."""
    results = load_results(full)
    passages = results.passages[(~results.passages.relative) & results.passages.reached]
    curves = dict(iter(results.records.groupby("trial_id")))
    assert len(passages) > 50
    for row in passages.itertuples():
        curve = curves[row.trial_id]
        below = curve[curve.scaled_grad_norm_sq <= row.epsilon].step
        if len(below):
            assert row.steps_to_stationarity <= below.min()
        before = curve[curve.step < row.steps_to_stationarity]
        assert (before.scaled_grad_norm_sq > row.epsilon).all()
        assert row.at_init == (row.steps_to_stationarity == 0)


def test_an_unreached_threshold_is_censored_at_the_end_of_its_trial(full: Path):
    results = load_results(full)
    frame = passage_frame(results, epsilon=[1e-2], among="finished")
    assert 0 < frame.censored.sum() < len(frame)
    assert (frame[frame.censored].steps_to_stationarity == frame[frame.censored].steps).all()
    assert (frame[~frame.censored].steps_to_stationarity <= frame[~frame.censored].steps).all()
    rate = frame.learning_rate * frame.steps_to_stationarity
    np.testing.assert_allclose(frame.time_to_stationarity, rate, rtol=1e-12)


def test_the_report_says_what_the_frames_say(full: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    report = write_report(folder, command="stillpoint run x.yaml")
    page = report.path.read_text()
    assert "Does it &lt;rest&gt; &amp; stay?" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page), "a self-contained page loads nothing"
    for fitted in report.fits:
        assert fitted.fit is not None, fitted.reason
        value = f"{fitted.fit.parameters['a'].value:.3g}".replace("-", "−")
        assert value in page
    for threshold in thresholds(report.results):
        assert threshold.sentence()[1:] in page
    fits = json.loads((folder / "fits.json").read_text())["fits"]
    assert [entry["group"] for entry in fits] == [[1], [2], [], []]
    for entry, fitted in zip(fits, report.fits, strict=True):
        assert entry["choice"] == fitted.choice
        assert fitted.choice in page
    for name in ("curves", "passages", "laws", "residuals", "unreached", "shares", "descent", "displacement"):
        for kind in ("svg", "png", "pdf"):
            assert (folder / "figures" / f"{name}.{kind}").stat().st_size > 1000
        ElementTree.parse(folder / "figures" / f"{name}.svg")


def test_the_fit_in_the_report_is_the_fit_of_its_frame(full: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    report = write_report(folder, command="x")
    fitted = report.fits[0]
    frame = law_frame(report.results, fitted.spec)
    own = fit_law(
        frame[frame["encoder.depth"] == 1],
        law="power",
        y="steps_to_stationarity",
        x=("encoder.width",),
        cluster="seed",
        censored="censored",
    )
    assert own.parameters["a"].value == fitted.fit.parameters["a"].value


def undated(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "DATE", page)


def test_a_report_written_again_differs_in_its_date_alone(full: Path, tmp_path: Path):
    pages = []
    for name in ("one", "two"):
        shutil.copytree(full, tmp_path / name)
        write_report(tmp_path / name, command="stillpoint run x.yaml")
        pages.append(undated((tmp_path / name / "report.html").read_text()))
    assert pages[0] == pages[1]
    figures = [{p.name: p.read_bytes() for p in (tmp_path / n / "figures").iterdir()} for n in ("one", "two")]
    assert figures[0] == figures[1]


def test_figures_are_drawn_anew_only_where_something_changed(full: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    first = write_report(folder, command="x").path.read_text()

    def drawn_at() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}

    before = drawn_at()
    again = write_report(folder, command="x").path.read_text()
    assert drawn_at() == before
    assert undated(again) == undated(first)
    (folder / "figures" / "laws.pdf").unlink()
    write_report(folder, command="x")
    assert all(drawn_at()[name] > moment for name, moment in before.items())
    before = drawn_at()
    trials = pq.read_table(folder / "trials.parquet")
    pq.write_table(trials.slice(0, trials.num_rows - 1), folder / "trials.parquet")
    write_report(folder, command="x")
    assert all(drawn_at()[name] > moment for name, moment in before.items())


def test_a_report_written_later_still_tells_the_command_of_the_run(full: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    write_report(folder)
    again = f"stillpoint run {folder}/experiment.yaml --results {tmp_path}"
    assert f"To repeat it: <code>{again}</code>" in (folder / "report.html").read_text()
    write_report(folder, command="stillpoint run x.yaml")
    write_report(folder)
    assert "To repeat it: <code>stillpoint run x.yaml</code>" in (folder / "report.html").read_text()


def test_each_method_of_the_laws_is_an_item_of_its_own(full: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    report = write_report(folder, command="x")
    methods = {fitted.fit.method for fitted in report.fits if fitted.fit}
    page = (folder / "report.html").read_text()
    assert len(methods) > 1
    assert all(page.count(f"<li>{method}</li>") == 1 for method in methods)


def test_slopes_of_displacement_have_intervals(full: Path):
    results = load_results(full)
    figure = report_figures.displacement(replace(results, trials=results.trials.assign(descent_regime=True)))
    assert figure is not None
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    theme.plt.close(figure)
    assert len(words) == 2
    assert all(re.search(r"slope \S+ \[\S+, \S+\]$", word) for word in words)


def test_groups_stand_side_by_side_within_their_value():
    for count in (2, 3, 8):
        scale = Scale("encoder.width", [32, 64, 128], ["32", "64", "128"], True)
        places = np.log2([scale.at([64], index, count)[0] for index in range(count)])
        assert np.diff(places).min() > 0.04, "wider than a mark"
        assert np.ptp(places) < 0.5, "nearer to its own value than to the next"


@pytest.mark.parametrize("case", DEGENERATE)
def test_a_sweep_that_decides_little_still_has_a_report(case: str, trained: Train, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(trained(DEGENERATE[case]), folder)
    report = write_report(folder, command="x")
    page = report.path.read_text()
    assert "nan" not in re.sub(r"data:image[^\"]*", "", page).lower().replace("nano", "")
    for fitted in report.fits:
        assert fitted.sentence().endswith(".")
        assert (fitted.fit is None) == bool(fitted.reason)
    console = Console(width=80, record=True, file=io.StringIO())
    print_summary(report, console)
    said = console.export_text()
    assert report.results.experiment["name"] in said
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith("report"))


@pytest.mark.parametrize("axis", ["encoder.width", "encoder.depth"])
def test_every_figure_is_drawn_where_all_trials_of_a_value_failed(axis: str, full: Path, tmp_path: Path):
    whole = load_results(full)
    failed = set(whole.trials.trial_id[whole.trials[axis] == whole.trials[axis].min()])
    trials = whole.trials.copy()
    outcome = trials.columns[trials.columns.get_loc("status") :]
    for name in outcome:  # as Parquet gives columns with gaps
        kept = trials[name].astype(object) if trials[name].dtype == bool else trials[name]
        trials[name] = kept.where(~trials.trial_id.isin(failed))
    trials.loc[trials.trial_id.isin(failed), "status"] = "failed"
    tables = [table[~table.trial_id.isin(failed)] for table in (whole.passages, whole.records)]
    results = replace(whole, trials=trials, passages=tables[0], records=tables[1])
    drawn = {picture.name for picture in draw_figures(results, fit_sweep(results), tmp_path, [])}
    assert {"shares", "descent", "passages", "unreached", "curves", "displacement"} <= drawn


def test_choices_are_told_by_name_and_by_what_tells_namesakes_apart(trained: Train, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(trained(DEGENERATE["choices as axis"]), folder)
    table = share_table(load_results(folder))
    assert table is not None
    titles = [title for title, _ in table["rows"]]
    assert titles == ["loss infonce, temperature 0.5", "loss dcl", "loss infonce, temperature 0.2"]
    assert [cells[0][1] for _, cells in table["rows"]] == [2, 2, 2]
    write_report(folder, command="x")
    assert (folder / "figures" / "shares.png").exists()
    assert (folder / "figures" / "curves.png").exists()


def test_a_law_in_epsilon_has_a_panel_and_its_variable_is_named(full: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    results = load_results(folder)
    law = {
        "law": "power",
        "y": "steps_to_stationarity",
        "x": ["epsilon"],
        "by": ["depth", "width"],
        "among": "finished",
    }
    only = replace(results, experiment=results.experiment | {"laws": [law]})
    fits = fit_sweep(only)
    assert [fitted.group.values["encoder.depth"] for fitted in fits] == [1, 2, 1, 2, 1, 2, 1, 2]
    assert fits[0].title == "T(ε) in steps, depth 1, width 8"
    assert fits[0].law_words == "power in ε"
    assert any(fitted.fit is not None for fitted in fits)
    with theme.theme():
        figure = report_figures.laws(only, fits)
        assert figure is not None
        theme.save(figure, tmp_path, "laws")
        theme.plt.close(figure)


def test_a_law_of_two_variables_has_a_line_for_each_value_of_the_second(full: Path):
    results = load_results(full)
    law = {"law": "multiplicative", "y": "displacement", "x": ["width", "depth"], "among": "finished"}
    only = replace(results, experiment=results.experiment | {"laws": [law]})
    with theme.theme():
        figure = report_figures.laws(only, fit_sweep(only))
        assert figure is not None
        (ax,) = figure.axes
        assert ax.get_legend_handles_labels()[1] == ["1", "2"]
        theme.plt.close(figure)


def test_a_law_stands_beside_its_rival_on_the_same_rows(full: Path):
    results = load_results(full)
    compared = 0
    for fitted in fit_sweep(results):
        frame = fitted.group.of(law_frame(results, fitted.spec))
        options = {"y": fitted.y, "x": fitted.x, "censored": "censored" if "censored" in frame else None}
        if fitted.choice:
            both = [fit_law(frame, law=name, **options) for name in ("power", "offset-power")]
            assert fitted.choice == compare_laws(both).sentence
            compared += 1
        else:
            with pytest.raises(ValueError, match="needs at least"):
                fit_law(frame, law="offset-power", **options)
    assert compared


def test_residuals_are_logarithms_of_measured_over_fitted(full: Path):
    results = load_results(full)
    law = {"law": "power", "y": "displacement", "x": ["width"], "among": "finished"}
    only = replace(results, experiment=results.experiment | {"laws": [law]})
    (fitted,) = fits = fit_sweep(only)
    assert fitted.fit is not None
    with theme.theme():
        figure = diagnostics.residuals(only, fits)
        assert figure is not None
        (marks, _) = [np.asarray(artist.get_offsets()) for artist in figure.axes[0].collections]
        theme.plt.close(figure)
    trials = results.trials[results.trials.status == "finished"]
    expected = np.log(trials.displacement) - np.log(fitted.fit.predict(trials))
    assert sorted(marks[:, 1]) == pytest.approx(sorted(expected))


def test_what_was_not_reached_is_told_for_every_threshold(full: Path):
    results = load_results(full)
    with theme.theme():
        figure = diagnostics.unreached(results)
        assert figure is not None
        lines = {(ax.get_title(), line.get_label()): line for ax in figure.axes for line in ax.get_lines()}
        theme.plt.close(figure)
    assert {title for title, _ in lines} == {"depth 1", "depth 2"}
    for (title, width), line in lines.items():
        of = results.trials[
            (results.trials["encoder.width"] == int(width)) & (results.trials["encoder.depth"] == int(title[-1]))
        ]
        passages = results.passages[results.passages.trial_id.isin(of.trial_id) & ~results.passages.relative]
        for epsilon, share in zip(*line.get_data(), strict=True):
            reached = passages[passages.epsilon == epsilon].reached
            assert share == pytest.approx(1 - reached.astype(bool).mean())


def test_shares_are_counts_with_wilson_intervals(full: Path):
    results = load_results(full)
    shares = stationary_shares(results, ["encoder.depth", "encoder.width"])
    assert shares.trials.tolist() == [3] * 8
    by_hand = results.trials.groupby(["encoder.depth", "encoder.width"]).stationary.sum()
    assert shares.stationary.tolist() == by_hand.tolist()
    assert ((shares.low <= shares.share) & (shares.share <= shares.high)).all()


@pytest.mark.parametrize(
    ("counts", "below", "at", "words"),
    [
        ((0, 3, 9, 10), 16, 32, "becomes stationary between width 16 and 32."),
        ((10, 3, 10, 10), 16, 32, "becomes stationary between width 16 and 32."),
        ((0, 0, 0, 8), 64, None, "does not become stationary up to width 64."),
        ((10, 10, 9, 9), None, 8, "is stationary from the smallest width tried, 8, on."),
        ((10, 9, 3, 0), 64, None, "becomes stationary up to width 16, and no longer at 32."),
        ((0, 9, 10, 3), 64, None, "becomes stationary at width 16 and 32 only."),
    ],
)
def test_a_threshold_is_where_most_trials_become_stationary(counts, below, at, words):
    flags = np.concatenate([np.arange(10) < count for count in counts])
    widths = np.repeat([8, 16, 32, 64], 10)
    trials = pd.DataFrame({"encoder.width": widths, "seed": 0, "status": "finished", "stationary": flags})
    (found,) = thresholds(frames(trials, ["encoder.width", "seed"]))
    assert (found.below, found.at) == (below, at)
    assert found.sentence() == f"training {words}"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "passages.parquet").unlink(), "passages.parquet is missing"),
        (lambda folder: (folder / "records.parquet").write_bytes(b"PAR1"), "not a table of results"),
        (lambda folder: shutil.rmtree(folder), "holds no results"),
    ],
)
def test_a_folder_that_is_not_whole_is_told(full: Path, tmp_path: Path, spoil: Callable, words: str):
    folder = tmp_path / "copy"
    shutil.copytree(full, folder)
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        load_results(folder)


def test_a_report_reads_the_columns_of_records_that_it_shows(full: Path):
    assert write_report(full).results.records.columns.tolist() == list(RECORD_COLUMNS)
    some = load_results(full, record_columns=["trial_id", "loss"]).records
    pd.testing.assert_frame_equal(some, load_results(full).records[["trial_id", "loss"]])


@pytest.mark.parametrize("count", [theme.MOST_MARKS, theme.MOST_MARKS + 1])
def test_many_marks_are_one_picture(count: int, tmp_path: Path):
    figure, ax = theme.plt.subplots()
    ax.scatter(np.arange(count - 5), np.arange(count - 5))
    ax.scatter(np.arange(5), np.arange(5))
    theme.save(figure, tmp_path, "marks")
    theme.plt.close(figure)
    svg = (tmp_path / "marks.svg").read_text()
    assert svg.count("<image") == (count > theme.MOST_MARKS)
    assert (svg.count("<use") < 100) == (count > theme.MOST_MARKS)


def test_a_figure_is_laid_out_once_for_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    times = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, f: (times.append(1), execute(self, f))[1])
    with theme.theme():
        figure, _ = theme.plt.subplots()
        theme.save(figure, tmp_path, "empty")
        theme.plt.close(figure)
    assert times == [1]
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png", ".pdf"}


def test_a_legend_of_many_numbers_keeps_the_first_and_the_last():
    texts = [str(number) for number in range(49)]
    shown = report_figures.spread_out(texts, 10)
    assert len(shown) == 10
    assert (shown[0], shown[-1]) == ("0", "48")
    assert shown == sorted(set(shown), key=int)
    assert report_figures.spread_out(texts, 49) == texts
