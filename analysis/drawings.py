"""The figures of a report: their names, what is written beside them, and what draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from analysis import descent_figure, diagnostics, theme
from analysis import report_figures as figures
from analysis.captions import (
    counted,
    directions,
    seen_heat,
    seen_laws,
    seen_residuals,
    seen_shares,
    seen_unreached,
)
from analysis.descent import descent_frame, descent_sentences
from analysis.end_points import examined
from analysis.first_passages import ended_passages
from analysis.frames import ENDED, Results, passage_frame, short
from analysis.laws_of_sweep import SweepFit
from analysis.ledger import Verdict
from analysis.ledger_figures import MOST_PANELS, evidence_figure, is_drawn
from analysis.pictures import LEDGER, Picture
from analysis.verdict_words import evidence_sentence


@dataclass(frozen=True)
class Drawing:
    """One figure before it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure | None]
    """None where the results have nothing to show."""


def draw_figures(
    results: Results, fits: list[SweepFit], folder: Path, verdicts: Sequence[Verdict] = ()
) -> list[Picture]:
    """Every figure that these results and verdicts can fill, saved to the folder."""
    pictures = []
    with theme.theme():
        for drawing in [*drawings(results, fits), *_of_ledger(results, verdicts)]:
            figure = drawing.draw()
            if figure is None:
                continue
            theme.save(figure, folder, drawing.name)
            theme.plt.close(figure)
            pictures.append(Picture.load(folder, drawing.name, drawing.title, drawing.caption))
    return pictures


def drawings(results: Results, fits: list[SweepFit]) -> Iterator[Drawing]:
    """Who becomes stationary and when, then what the laws say of that, then the way there."""
    yield from _of_end_points(results, fits)
    yield from _of_laws(results, fits)
    yield from _of_training(results)


def _of_end_points(results: Results, fits: list[SweepFit]) -> Iterator[Drawing]:
    axis, below, note = _axis(results), results.experiment["stationary_below"], _hidden(results)
    scale = figures.layout_of(results).scale
    final = f"scaled G ≤ {below:g} at the end"
    settled = f"that the certificate calls stationary ({final})" if len(examined(results)) else f"with {final}"
    passed = figures.shown_threshold(results, fits).condition if len(results.passages) else "G ≤ ε"
    lines = "; lines join medians of trials that got there" if scale is None or scale.is_numeric else ""
    yield Drawing(
        "shares",
        f"Who becomes stationary, by {axis}",
        f"Left: share of trials {settled}, with its Wilson 95% interval. Right: share "
        f"of steps that lowered the loss by less than half of the promise: {_spread(results)}."
        f"{seen_shares(results)}{note}",
        partial(figures.shares, results),
    )
    yield Drawing(
        "descent",
        "Descent and stationarity",
        "Final scaled G against the share of steps that lowered the loss by less than half of the promise, one "
        "mark per trial, those with a share of exactly 0 side by side in the grey band; dotted is the level "
        f"{below:g}, dashed the limit of the descent regime. {_descent(results)}",
        partial(descent_figure.descent, results),
    )
    yield Drawing(
        "passages",
        f"Time to stationarity against {axis}",
        f"Steps until scaled {passed} for the first time, one mark per trial{lines}. Open triangles are trials "
        f"that did not get there within their budget, at the step where they ended.{_passages(results, fits)}{note}",
        partial(figures.passages, results, fits),
    )
    yield from _of_grid(results, fits)


def _of_grid(results: Results, fits: list[SweepFit]) -> Iterator[Drawing]:
    """The heat map, where two numbers are swept."""
    grid = figures.grid_axes(results)
    if grid is None or results.passages.empty:
        return
    (x, y), shown = grid, figures.shown_threshold(results, fits)
    frame = ended_passages(results, shown.epsilon, relative=shown.relative)
    yield Drawing(
        "grid",
        f"Time to stationarity over {short(x)} and {short(y)}",
        f"Steps until scaled {shown.condition} for the first time, median over the seeds of each cell, a trial that "
        "did not get there counting as longer than all; the darker, the longer. Hatched cells say how many of their "
        "trials got there, because not all did; grey ones have no median, "
        f"because half of them or more did not.{seen_heat(frame, x, y)}",
        partial(figures.heat, results, fits),
    )


def _of_laws(results: Results, fits: list[SweepFit]) -> Iterator[Drawing]:
    yield Drawing(
        "laws",
        "Fitted laws",
        "Dots are the trials that are fitted, open triangles those that were not there yet. Bands are 95% "
        f"intervals of the fitted median.{seen_laws(fits)}{_left_out(fits)}",
        partial(figures.laws, results, fits),
    )
    yield Drawing(
        "residuals",
        "What the laws leave over",
        "Logarithm of measured over fitted, one mark per trial, open triangles where only a lower bound is known; "
        "the line joins medians, the grey band holds 95% of normal residuals. A line that bends away from 0 is a "
        f"law of the wrong form.{seen_residuals(fits)}",
        partial(diagnostics.residuals, results, fits),
    )
    yield Drawing(
        "unreached",
        f"What was not reached in time, by {_axis(results)}",
        "Share of the trials that ended whose scaled G never came below ε, for every ε that is looked at, with "
        "Wilson 95% intervals."
        f"{seen_unreached(results)}{_hidden(results)}",
        partial(diagnostics.unreached, results),
    )


def _of_training(results: Results) -> Iterator[Drawing]:
    axis, below, note = _axis(results), results.experiment["stationary_below"], _hidden(results)
    yield Drawing(
        "curves",
        f"Scaled gradient norm along training, by {axis}",
        f"Scaled squared gradient norm G at recorded steps: {_spread(results)}; one that stopped early keeps its last "
        f"value. The dotted line is the level {below:g} under which a trial counts as stationary."
        f"{_curves(results)}{note}",
        partial(figures.curves, results),
    )
    yield Drawing(
        "displacement",
        f"Displacement against {axis}",
        "Frobenius distance of all trained weights from their draw at the end of training, one mark per trial; "
        f"slopes are those of trials in the descent regime, with 95% intervals.{_displacement(results)}{note}",
        partial(figures.displacement, results),
    )


def _of_ledger(results: Results, verdicts: Sequence[Verdict]) -> Iterator[Drawing]:
    """What the verdicts that the experiment asks for are made from."""
    for verdict in verdicts:
        if verdict.prediction.name in results.experiment.get("predictions", []):
            drawn = [evidence for evidence in verdict.evidence if is_drawn(evidence)][:MOST_PANELS]
            dashed = " Dashed is what is expected." if any(e.expected for e in drawn) else ""
            seen = "; ".join(evidence_sentence(evidence) for evidence in drawn)
            yield Drawing(
                f"{LEDGER}{verdict.prediction.name}",
                f"Evidence on {verdict.prediction.name}",
                f"{verdict.prediction.claim}{dashed} Seen: {seen}.",
                partial(evidence_figure, verdict),
            )


def _axis(results: Results) -> str:
    scale = figures.layout_of(results).scale
    return "seed" if scale is None else short(scale.axis)


def _spread(results: Results) -> str:
    """What a band of a figure is."""
    seeds = results.trials["seed"].nunique()
    return f"median and range of {seeds} seeds" if seeds > 1 else "one seed"


def _hidden(results: Results) -> str:
    """How many groups the figures have no room for."""
    hidden = figures.num_hidden_groups(results)
    return f" Shown are the first {figures.MOST_GROUPS} of {figures.MOST_GROUPS + hidden} groups." if hidden else ""


def _descent(results: Results) -> str:
    """What the figure shows, in numbers."""
    drawn = descent_frame(results)
    absent = len(results.trials[results.trials.status.isin(ENDED)]) - len(drawn)
    missing = f" Not drawn: {absent} that diverged or were not judged." if absent else ""
    return descent_sentences(drawn) + missing if len(drawn) else ""


def _passages(results: Results, fits: list[SweepFit]) -> str:
    """Where the medians of T(ε) go, and how many trials did not get there."""
    if results.passages.empty:
        return ""
    shown = figures.shown_threshold(results, fits)
    frame = passage_frame(results, epsilon=[shown.epsilon], relative=shown.relative, among="finished")
    reached = frame[~frame.censored]
    seen = directions(results, reached, "steps_to_stationarity", "the median")
    return f"{seen} {len(reached)} of {len(frame)} trials got there; n = {counted(frame)}." if len(frame) else ""


def _curves(results: Results) -> str:
    ended = results.trials[results.trials.status.isin(ENDED)]
    seen = directions(results, ended, "scaled_grad_norm_sq", "at the end the median of G")
    return f"{seen[:-1]}; n = {counted(ended)}." if seen else ""


def _displacement(results: Results) -> str:
    finished = results.trials[results.trials.status == "finished"]
    seen = directions(results, finished, "displacement", "the median")
    return f"{seen[:-1]}; n = {counted(finished)}." if seen else ""


def _left_out(fits: list[SweepFit]) -> str:
    """How many laws the figure has no room for."""
    titles = figures.drawn_laws(fits)
    return f" Shown are {figures.MOST_GROUPS} of {len(titles)}." if len(titles) > figures.MOST_GROUPS else ""
