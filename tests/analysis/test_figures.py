"""Figures of one panel: each takes a frame, gives the Axes it drew on, and shows intervals."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis import figures, fit_law, load_results, report_figures, theme
from analysis.first_passages import ended_passages, median_steps
from analysis.frames import Results, passage_frame
from analysis.intervals import wilson_interval

WIDTH, DEPTH = "encoder.width", "encoder.depth"
SWEEP = """
name: panels
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 600}
stationary_below: 0.02
stationary_below_relative: 1.0
sweep: {encoder.width: [8, 16, 32, 64], encoder.depth: [1, 2], seed: {range: 3}}
"""


@pytest.fixture
def results(trained: Callable[[str], Path]) -> Results:
    return load_results(trained(SWEEP))


@pytest.fixture
def ax() -> Iterator[Axes]:
    with theme.theme():
        figure, ax = theme.plt.subplots()
        yield ax
        theme.plt.close(figure)


def passed(results: Results) -> pd.DataFrame:
    return passage_frame(results, epsilon=[1e-1], among="finished")


def labels(ax: Axes) -> list[str]:
    return [text for text in ax.get_legend_handles_labels()[1] if text != "not reached"]


def test_curves_have_a_band_from_the_smallest_to_the_largest(results: Results, ax: Axes):
    records = results.records.merge(results.trials[["trial_id", WIDTH]], on="trial_id")
    assert figures.gradient_norm_curves(records, hue=WIDTH, ax=ax, level=0.02) is ax
    assert labels(ax) == ["8", "16", "32", "64"]
    first = records[(records[WIDTH] == 8) & (records.step == 1)].scaled_grad_norm_sq
    at_first = [y for x, y in ax.collections[0].get_paths()[0].vertices if x == 1]
    assert (min(at_first), max(at_first)) == pytest.approx((first.min(), first.max()))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_times_have_a_mark_per_trial_and_a_bar_over_their_range(results: Results, ax: Axes):
    frame = passed(results)
    assert figures.steps_to_stationarity(frame, WIDTH, hue=DEPTH, ax=ax) is ax
    marks = sum(len(np.asarray(c.get_offsets())) for c in ax.collections if hasattr(c, "get_sizes"))
    assert marks == len(frame)
    bars = [segment for c in ax.collections if hasattr(c, "get_segments") for segment in c.get_segments()]
    reached = frame[~frame.censored].groupby([DEPTH, WIDTH]).steps_to_stationarity.agg(["min", "max"])
    assert sorted((s[0][1], s[1][1]) for s in bars) == sorted(map(tuple, reached.to_numpy().tolist()))


def test_shares_have_wilson_intervals(results: Results, ax: Axes):
    assert figures.stationary_share(results.trials, WIDTH, ax=ax) is ax
    (bars,) = [container.lines[2][0].get_segments() for container in ax.containers]
    counts = results.trials.groupby(WIDTH).stationary.agg(["sum", "size"])
    expected = [wilson_interval(int(n), int(of)) for n, of in counts.to_numpy()]
    assert [(low[1], high[1]) for low, high in bars] == [pytest.approx(pair) for pair in expected]


def test_displacement_and_violations_return_their_axes(results: Results, ax: Axes):
    assert figures.weight_displacement(results.trials, WIDTH, hue=DEPTH, ax=ax) is ax
    assert labels(ax) == ["1", "2"]
    ax.clear()
    assert figures.violating_share(results.trials, WIDTH, hue=DEPTH, ax=ax) is ax
    assert labels(ax) == ["1", "2"]


def test_words_lie_side_by_side(results: Results, ax: Axes):
    trials = results.trials.assign(kind=np.where(results.trials.seed == 0, "first", "other"))
    figures.weight_displacement(trials, "kind", ax=ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["first", "other"]


def test_a_law_is_drawn_with_its_band_over_its_rows(results: Results, ax: Axes):
    frame = results.trials[results.trials.status == "finished"]
    fit = fit_law(frame, law="power", y="displacement", x=WIDTH)
    assert figures.fitted_law(frame, fit, ax=ax) is ax
    (line,) = ax.get_lines()
    widths = line.get_xdata()
    assert line.get_ydata() == pytest.approx(fit.predict({WIDTH: widths}))
    band = ax.collections[-1].get_paths()[0].vertices
    low, high = fit.interval({WIDTH: widths})
    assert {low.min(), high.max()} <= set(band[:, 1])
    assert line.get_label() == f"power, a = {figures.number(fit.parameters['a'].value)}"


def test_a_law_of_two_variables_is_drawn_at_a_value_of_the_other(results: Results, ax: Axes):
    frame = results.trials[results.trials.status == "finished"]
    fit = fit_law(frame, law="multiplicative", y="displacement", x=(WIDTH, DEPTH))
    figures.fitted_law(frame, fit, ax=ax, at={DEPTH: 2}, label="two")
    marks = np.asarray(ax.collections[0].get_offsets())
    assert sorted(marks[:, 1]) == pytest.approx(sorted(frame[frame[DEPTH] == 2].displacement))


@pytest.mark.parametrize("epsilon", [1e-1, 10**-1.5, 1e-2])
def test_the_heat_map_has_the_medians_counted_by_hand(results: Results, ax: Axes, epsilon: float):
    frame = ended_passages(results, epsilon)
    assert figures.heat_map(frame, WIDTH, DEPTH, ax=ax) is ax
    shown = np.ma.filled(ax.collections[0].get_array().reshape(2, 4), np.nan)
    hatched = {(patch.get_x(), patch.get_y()) for patch in ax.patches if isinstance(patch, Rectangle)}
    words = {text.get_position(): text.get_text() for text in ax.texts}
    near = results.passages[~results.passages.relative & np.isclose(results.passages.epsilon, epsilon, rtol=1e-3)]
    for column, width in enumerate((8, 16, 32, 64)):
        for row, depth in enumerate((1, 2)):
            chosen = results.trials[(results.trials[WIDTH] == width) & (results.trials[DEPTH] == depth)].trial_id
            mine = near[near.trial_id.isin(chosen)]
            times = sorted(
                t if there else np.inf for t, there in zip(mine.steps_to_stationarity, mine.reached, strict=True)
            )
            assert len(times) == 3
            middle = times[1] if np.isfinite(times[1]) else np.nan
            assert shown[row, column] == pytest.approx(max(middle, 1.0), nan_ok=True)
            assert ((column, row) in hatched) == (times[-1] == np.inf)
            count = f"{np.isfinite(times).sum()} of 3"
            assert (count in words[column + 0.5, row + 0.5]) == (times[-1] == np.inf)


def test_a_median_that_is_not_known_is_none():
    frame = pd.DataFrame({"x": 1, "y": 2, "steps_to_stationarity": [5.0, 9.0, 9.0], "censored": [False, True, True]})
    (cell,) = median_steps(frame, "x", "y").to_dict("records")
    assert (cell["reached"], cell["trials"]) == (1, 3)
    assert np.isnan(cell["median"])
    (cell,) = median_steps(frame.assign(censored=[False, False, True]), "x", "y").to_dict("records")
    assert cell["median"] == 9.0


def test_the_grid_of_a_report_is_over_the_first_two_numbers_that_are_swept(results: Results):
    assert report_figures.grid_axes(results) == (WIDTH, DEPTH)
    figure = report_figures.heat(results, [])
    assert figure is not None
    theme.plt.close(figure)
    narrow = Results(results.trials, results.passages, results.records, results.experiment, [WIDTH, "seed"], None)
    assert report_figures.grid_axes(narrow) is None
    assert report_figures.heat(narrow, []) is None


def test_the_current_axes_serve_where_none_are_given(results: Results, ax: Axes):
    assert figures.stationary_share(results.trials, WIDTH) is ax
