"""Whether the share of violating steps tells settled trials apart: the sentence, the best cut and the figure."""

import numpy as np
import pandas as pd
import pytest

from analysis import descent_figure, theme
from analysis.descent import best_cut, descent_frame, descent_sentences
from analysis.frames import Results


def trials(*parts: tuple[float, bool, int]) -> pd.DataFrame:
    """(share, stationary, count) of each part."""
    rows = [(share, settled) for share, settled, count in parts for _ in range(count)]
    return pd.DataFrame(rows, columns=["violating_share", "stationary"])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            [(0.0, True, 20), (0.01, True, 4), (0.75, False, 8)],
            "All 24 trials with up to 1 % of violating steps are stationary; none of the 8 trials above 50 % is "
            "stationary. Any cut from 1 % to 75 % tells the two apart.",
        ),
        (
            [(0.0, True, 20), (0.0, False, 1), (0.2, False, 1), (0.3, True, 1), (0.6, False, 5), (0.7, True, 1)],
            "20 of the 21 trials with up to 1 % of violating steps are stationary; 1 of the 2 trials from 1 % to 50 % "
            "is stationary; 1 of the 6 trials above 50 % is stationary. No cut tells all of them apart: the best, from "
            "0 % to 20 %, leaves 3 of 29 trials on the wrong side, where guessing the more frequent outcome leaves 7.",
        ),
        (
            [(0.0, False, 5), (0.0, True, 5), (0.8, True, 5), (0.8, False, 5)],
            "5 of the 10 trials with up to 1 % of violating steps are stationary; 5 of the 10 trials above 50 % are "
            "stationary. The share of violating steps does not tell the two apart: no cut is better than none.",
        ),
        (
            [(0.0, False, 5), (0.9, True, 2)],
            "None of the 5 trials with up to 1 % of violating steps is stationary; all 2 trials above 50 % are "
            "stationary. The share of violating steps does not tell the two apart: no cut is better than none.",
        ),
        (
            [(0.0, True, 3), (0.1712, True, 1), (0.1734, False, 1), (1.0, False, 1)],
            "All 3 trials with up to 1 % of violating steps are stationary; 1 of the 2 trials from 1 % to 50 % is "
            "stationary; the one trial above 50 % is not stationary. "
            "Any cut from 17.1 % to 17.3 % tells the two apart.",
        ),
        (
            [(0.0, True, 2), (1.0, False, 2)],
            "All 2 trials with up to 1 % of violating steps are stationary; none of the 2 trials above 50 % is "
            "stationary. Any cut from 0 % to 100 % tells the two apart.",
        ),
        (
            [(0.3, False, 1)],
            "The one trial from 1 % to 50 % is not stationary. There is nothing to tell apart.",
        ),
    ],
)
def test_the_sentence_says_what_the_trials_say(parts: list[tuple[float, bool, int]], words: str):
    assert descent_sentences(trials(*parts)) == words


def test_the_best_cut_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(200):
        share = pd.Series(rng.choice([0, 0.001, 0.02, 0.3, 0.8], 12))
        settled = pd.Series(rng.random(12) < 1 - share)
        cut = best_cut(share, settled)
        wrong = {at: int(((share <= at) != settled).sum()) for at in [-1.0, *share]}
        assert cut.num_wrong == min(wrong.values())
        assert ((share <= max(cut.low, -1)) != settled).sum() == cut.num_wrong
        assert not ((share > cut.low) & (share < cut.high)).any()


def sweep(**columns: list) -> Results:
    frame = pd.DataFrame({"encoder.width": [8, 8, 16, 16, 32], "status": "finished"}).assign(**columns)
    return Results(frame, pd.DataFrame(), pd.DataFrame(), {"stationary_below": 1e-4}, ["encoder.width"], None)


MEASURED = {
    "violating_share": [0.0, 0.0, 1e-4, 0.9, 1.0],
    "scaled_grad_norm_sq": [5e-5, 0.0, 2e-4, 0.1, np.nan],
    "stationary": [True, None, False, False, False],
}


def test_trials_that_were_not_judged_or_diverged_are_left_out():
    assert descent_frame(sweep(**MEASURED)).index.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stationary": [None] * 5},
        {"stationary": [True, True, False, False, False], "violating_share": [0.0] * 5},
        {"kind": ["minimum-like", None, "not-stationary", "not-stationary", "diverged"]},
        {"encoder.width": [8] * 5},
        {"encoder.width": ["a", "a", "b", "c", "c"]},
    ],
)
def test_the_figure_is_drawn_of_what_there_is(changes: dict[str, list]):
    results = sweep(**{**MEASURED, **changes})
    with theme.theme():
        figure = descent_figure.descent(results)
        drawn = len(descent_frame(results))
        if figure is None:
            assert drawn == 0
            return
        (ax,) = figure.axes
        points = np.concatenate([np.asarray(marks.get_offsets()) for marks in ax.collections])
        theme.plt.close(figure)
    assert len(points) == drawn
    assert np.isfinite(points).all()
    assert (points[:, 1] > 0).all()
    assert len(np.unique(points, axis=0)) == drawn, "no mark hides another"


def test_kinds_have_a_marker_each_where_all_are_known():
    kinds = ["minimum-like", None, "saddle-like", "not-stationary", "diverged"]
    results = sweep(**{**MEASURED, "kind": kinds})
    with theme.theme():
        figure = descent_figure.descent(results)
        assert figure is not None
        words = [text.get_text() for text in figure.legends[0].get_texts()]
        theme.plt.close(figure)
    assert words == ["end point", "minimum-like", "saddle-like", "not-stationary", "width", "8", "16", "32"]
