"""The report: one self-contained page that opens with the answer, and the files it is made from."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from analysis.frames import ENDED, Results, load_results
from analysis.laws_of_sweep import SweepFit, fit_sweep, interval, number, short, word, write_fits
from analysis.thresholds import main_axes, stationary_shares, thresholds

MOST_FAILURES = 20


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    name: str
    title: str
    caption: str
    image: str
    """SVG as a data URI."""


@dataclass(frozen=True)
class Report:
    """A report that was written, and what it says."""

    path: Path
    results: Results
    fits: list[SweepFit]


def write_report(folder: Path | str, *, command: str) -> Report:
    """Fit the laws, draw the figures and write fits.json, figures/ and report.html.

    Raises:
        ValueError: the folder holds no results.
    """
    results = load_results(folder)
    assert results.folder is not None
    fits = fit_sweep(results)
    write_fits(fits, results.folder / "fits.json")
    pictures = draw_figures(results, fits, results.folder / "figures")
    page = render(results, fits, pictures, command=command)
    path = results.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return Report(path, results, fits)


def draw_figures(results: Results, fits: list[SweepFit], folder: Path) -> list[Picture]:
    """Every figure that these results can fill, saved to the folder."""
    from analysis import figures

    pictures = []
    with figures.theme():
        for name, title, caption, draw in _drawings(results, fits):
            figure = draw()
            if figure is None:
                continue
            figures.save(figure, folder, name)
            figures.plt.close(figure)
            image = "data:image/svg+xml;base64," + base64.b64encode((folder / f"{name}.svg").read_bytes()).decode()
            pictures.append(Picture(name, title, caption, image))
    return pictures


def _drawings(results: Results, fits: list[SweepFit]) -> list[tuple[str, str, str, Callable[[], Any]]]:
    from analysis import figures

    axis = short(main_axes(results)[0] or "setting")
    below = results.experiment["stationary_below"]
    epsilon = f"{figures.shown_epsilon(results, fits):g}" if len(results.passages) else "ε"
    seeds = results.trials["seed"].nunique()
    return [
        (
            "shares",
            f"Who becomes stationary, by {axis}",
            f"Left: share of trials with scaled G ≤ {below:g} at the end, with its Wilson 95% interval. Right: share "
            f"of steps that lowered the loss by less than half of the promise: median and range of {seeds} seeds.",
            lambda: figures.shares(results),
        ),
        (
            "passages",
            f"Time to stationarity against {axis}",
            f"Steps until scaled G first came to {epsilon} or below, one mark per trial; lines join medians of trials "
            "that got there. Open triangles are trials that did not within their budget, at the step where they ended.",
            lambda: figures.passages(results, fits),
        ),
        (
            "laws",
            "Fitted laws",
            "Dots are trials in the descent regime, open triangles trials that were not there yet. Bands are 95% "
            "intervals of the fitted median.",
            lambda: figures.laws(results, fits),
        ),
        (
            "curves",
            f"Scaled gradient norm along training, by {axis}",
            f"Scaled squared gradient norm G at recorded steps: median and range of {seeds} seeds; one that stopped "
            "early keeps its last value. The dotted line is "
            f"the level {below:g} under which a trial counts as stationary.",
            lambda: figures.curves(results),
        ),
        (
            "displacement",
            f"Displacement against {axis}",
            "Frobenius distance of all trained weights from their draw at the end of training, one mark per trial.",
            lambda: figures.displacement(results),
        ),
    ]


def render(results: Results, fits: list[SweepFit], pictures: list[Picture], *, command: str) -> str:
    """The page as HTML; the date stands in one place."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    counts = results.trials.status.value_counts()
    return environment.get_template("report.html").render(
        experiment=results.experiment,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        answers=[fitted.sentence() for fitted in fits],
        thresholds=[threshold.sentence() for threshold in thresholds(results)],
        counts=[(status, int(counts[status])) for status in sorted(counts.index)],
        num_trials=len(results.trials),
        num_incomplete=int((~results.trials.status.isin(ENDED)).sum()),
        shares=share_table(results),
        laws=[law_row(fitted) for fitted in fits],
        pictures=pictures,
        failures=_failures(results.trials),
        settings=_settings(results),
        machine=_machine(results.trials),
        wall=f"{results.trials.wall_seconds.fillna(0).sum() / 60:.1f}",
    )


def share_table(results: Results) -> dict[str, Any] | None:
    """Stationary trials of trials that ended: a row per group of the other axes, a column per width."""
    axis, others = main_axes(results)
    if axis is None:
        return None
    shares = stationary_shares(results, [*others, axis])
    if shares.empty:
        return None
    columns = sorted(shares[axis].unique().tolist())
    groups = shares.groupby(others, observed=True) if others else [((), shares)]
    rows = []
    for values, part in groups:
        values = values if isinstance(values, tuple) else (values,)
        cells = {v: (int(s), int(n)) for v, s, n in zip(part[axis], part.stationary, part.trials, strict=True)}
        title = ", ".join(f"{short(a)} {word(v)}" for a, v in zip(others, values, strict=True)) or "all"
        rows.append((title, [cells.get(value) for value in columns]))
    return {"axis": short(axis), "columns": [word(value) for value in columns], "rows": rows}


def law_row(fitted: SweepFit) -> dict[str, Any]:
    """A line of the table of laws."""
    fit = fitted.fit
    if fit is None:
        return {"title": fitted.title, "law": fitted.spec["law"], "reason": fitted.reason, "parameters": []}
    return {
        "title": fitted.title,
        "law": fitted.spec["law"],
        "reason": "",
        "parameters": [f"{k} = {number(e.value)} {interval(e, fit.confidence)}" for k, e in fit.parameters.items()],
        "status": fit.status,
        "aic": f"{fit.aic:.1f}",
        "held_out": "–" if fit.extrapolation_error is None else number(fit.extrapolation_error),
        "points": f"{fit.num_points} ({fit.num_censored} not reached)",
        "method": fit.method,
    }


def _failures(trials: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    failed = trials[trials.status.isin(["failed", "timeout"])].head(MOST_FAILURES)
    texts = failed[["trial_id", "name", "status", "error"]].fillna("")
    return [
        (str(r.trial_id), str(r.name_), str(r.status), str(r.error))
        for r in texts.rename(columns={"name": "name_"}).itertuples()
    ]


def _settings(results: Results) -> list[tuple[str, str]]:
    """Every setting with its values over the sweep, swept ones first."""
    names = list(results.trials.columns[2 : results.trials.columns.get_loc("status")])
    ordered = [n for n in names if n in results.axes] + [n for n in names if n not in results.axes]
    described = []
    for name in ordered:
        values = results.trials[name].dropna().unique().tolist()
        if values:
            shown = ", ".join(word(value) for value in values[:12])
            described.append((name, shown + (f", … ({len(values)} values)" if len(values) > 12 else "")))
    return described


def _machine(trials: pd.DataFrame) -> list[tuple[str, str]]:
    names = ("hardware", "host", "code_version", "torch_version", "python_version", "ray_version")
    return [(name, ", ".join(sorted(trials[name].dropna().unique()))) for name in names if trials[name].notna().any()]
