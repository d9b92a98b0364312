"""The report: one self-contained page that opens with the answer, and the files it is made from."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from analysis.end_points import cut_short_words, end_points, unstable_words
from analysis.frames import ENDED, Results, load_results, read_records, short
from analysis.laws_of_sweep import SweepFit, fit_sweep, interval, known_command, number, write_fits
from analysis.layout import groups, main_axes, word
from analysis.ledger import Verdict
from analysis.pictures import LEDGER, Picture, unless_kept
from analysis.thresholds import judged, stationary_shares, thresholds
from analysis.verdict_words import (
    counts_sentence,
    estimate_words,
    names_of,
    range_words,
    record_columns,
    with_evidence,
)

MOST_FAILURES = 20
RECORD_COLUMNS = ("trial_id", "step", "scaled_grad_norm_sq")
"""What the page shows of records."""


@dataclass(frozen=True)
class Report:
    """A report that was written, and what it says."""

    path: Path | str
    """Text where it is an address in a bucket."""
    results: Results
    """Records have the columns that the page shows."""
    fits: list[SweepFit]
    verdicts: list[Verdict]


def write_report(folder: Path | str, *, command: str | None = None, home: Path | str | None = None) -> Report:
    """Fit the laws, draw the figures and write fits.json, figures/ and report.html.

    `command` is that of the run; left out, the last one told, or one that repeats the run from its folder. `home` is
    where the results lie if `folder` is a copy of them.

    Raises:
        ValueError: the folder holds no results.
    """
    results = load_results(folder, record_columns=RECORD_COLUMNS)
    assert results.folder is not None
    command = command or known_command(results.folder) or _repeat(str(home or results.folder))
    fits = fit_sweep(results)
    write_fits(fits, results.folder / "fits.json", command=command, answers=answers(results, fits))
    verdicts = _judge(results, results.folder)
    figures = results.folder / "figures"
    pictures = unless_kept(results, figures, partial(_draw, results, fits, verdicts, figures))
    page = render(results, fits, verdicts, pictures, command=command)
    path = results.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return Report(path, results, fits, verdicts)


def answers(results: Results, fits: list[SweepFit]) -> list[str]:
    """The sentences that the page opens with."""
    return [*(threshold.sentence() for threshold in thresholds(results)), *(fitted.sentence() for fitted in fits)]


def _judge(results: Results, folder: Path) -> list[Verdict]:
    """The verdicts with evidence; what they need of records is read for them alone."""
    names = names_of(results)
    columns = record_columns(names)
    if columns:
        records = read_records(folder, list(dict.fromkeys([*RECORD_COLUMNS, *columns])))
        results = replace(results, records=records)
    return with_evidence(results, names)


def _draw(results: Results, fits: list[SweepFit], verdicts: list[Verdict], folder: Path) -> list[Picture]:
    from analysis.drawings import draw_figures  # which loads what draws: seconds that a kept figure does not cost

    return draw_figures(results, fits, folder, verdicts)


def _repeat(folder: str) -> str:
    """The command that runs a folder's experiment again."""
    return shlex.join(["stillpoint", "run", f"{folder}/experiment.yaml", "--results", folder.rpartition("/")[0] or "."])


def render(
    results: Results, fits: list[SweepFit], verdicts: list[Verdict], pictures: list[Picture], *, command: str
) -> str:
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
        num_judged=len(judged(results)),
        points=end_points(results),
        unstable=unstable_words(results),
        cut_short=cut_short_words(results),
        laws=[law_row(fitted) for fitted in fits],
        pictures=pictures,
        ledger=[ledger_row(verdict, {picture.name for picture in pictures}) for verdict in verdicts],
        ledger_sentence=counts_sentence(verdicts),
        num_judged_predictions=len(names_of(results)),
        failures=_failures(results.trials),
        settings=_settings(results),
        stacks=_stacks(results),
        machine=_machine(results.trials),
        wall=f"{results.trials.wall_seconds.fillna(0).sum() / 60:.1f}",
        price=_price(results),
    )


def _price(results: Results) -> str:
    """What lanes occupied while they trained, where that is paid for; empty where it is one's own machine."""
    resources = results.experiment.get("resources", {})
    gpus, per_hour = resources.get("gpus") or 0, resources.get("cost_per_hour")
    hours = results.trials.wall_seconds.fillna(0).sum() / 3600
    words = [f"{hours * gpus:.3g} GPU-hours"] if gpus else []
    words += [f"a cost of {hours * per_hour:,.2f} at {per_hour:g} an hour"] if per_hour else []
    return " and ".join(words)


def share_table(results: Results) -> dict[str, Any] | None:
    """Stationary trials of those judged: a row per group, a column per value of the numeric axis if there is one; None
    where only seeds are swept."""
    axis, others = main_axes(results)
    axes = others if axis is None else [*others, axis]
    if not axes:
        return None
    shares = stationary_shares(results, axes)
    if shares.empty:
        return None
    columns = [] if axis is None else sorted(shares[axis].unique().tolist())
    rows = []
    for group in groups(results, others):
        part = group.of(shares)
        counts = list(zip(part.stationary.astype(int), part.trials.astype(int), strict=True))
        by_value = dict(zip([None] * len(part) if axis is None else part[axis], counts, strict=True))
        rows.append((group.title or "all", [by_value.get(value) for value in columns or [None]]))
    names = ["trials"] if axis is None else [word(value) for value in columns]
    return {"axis": "" if axis is None else short(axis), "columns": names, "rows": rows}


SHOWN_BY = {"threshold": "shares"}
"""Figures of the page that show a prediction's evidence where it has none of its own."""


def ledger_row(verdict: Verdict, drawn: set[str]) -> dict[str, Any]:
    """A prediction with its verdict, a line for each estimate, and the figure of the page that shows them."""
    prediction = verdict.prediction
    own = f"{LEDGER}{prediction.name}"
    figure = own if own in drawn else SHOWN_BY.get(prediction.name, "")
    lines = [
        {"what": e.what, "estimate": estimate_words(e), "expected": range_words(e.expected), "word": e.word}
        | {"trials": str(e.num_trials or "–")}
        for e in verdict.evidence
    ]
    return {
        "name": prediction.name,
        "claim": prediction.claim,
        "source": prediction.source,
        "word": verdict.word,
        "lines": lines,
        "figure": figure if figure in drawn else "",
    }


def law_row(fitted: SweepFit) -> dict[str, Any]:
    """A line of the table of laws."""
    fit = fitted.fit
    if fit is None:
        return {"title": fitted.title, "law": fitted.law_words, "reason": fitted.reason, "parameters": []}
    return {
        "title": fitted.title,
        "law": fitted.law_words,
        "reason": "",
        "parameters": [f"{k} = {number(e.value)} {interval(e, fit.confidence)}" for k, e in fit.parameters.items()],
        "status": fit.status,
        "aic": f"{fit.aic:.1f}",
        "held_out": "–" if fit.extrapolation_error is None else number(fit.extrapolation_error),
        "points": f"{fit.num_points} ({fit.num_censored} not reached)",
        "method": fit.method,
        "choice": fitted.choice or "–",
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


def _stacks(results: Results) -> list[dict[str, str]]:
    """How many trials of each shape were trained side by side, and why; none in results that do not say."""
    return [
        {
            "shape": each["shape"],
            "slots": str(each["slots"]),
            "step": f"{1e6 * each['seconds_per_step']:.3g} µs",
            "alone": f"{1e6 * each['alone']:.3g} µs" if each["alone"] else "",
            "why": each["why"],
        }
        for each in results.experiment.get("slots", [])
    ]


def _machine(trials: pd.DataFrame) -> list[tuple[str, str]]:
    names = ("hardware", "host", "code_version", "torch_version", "python_version", "ray_version")
    return [(name, ", ".join(sorted(trials[name].dropna().unique()))) for name in names if trials[name].notna().any()]
