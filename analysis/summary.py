"""The closing table on the terminal: the same answers as the report, in 80 columns."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.end_points import cut_short_words, end_points_line
from analysis.laws_of_sweep import SweepFit, interval, number
from analysis.report import Report, share_table
from analysis.thresholds import thresholds


def print_summary(report: Report, console: Console) -> None:
    """Counts, stationary trials, kinds of end points, thresholds, exponents with intervals, where the report is."""
    results, fits = report.results, report.fits
    counts = results.trials.status.value_counts()
    words = ", ".join(f"{counts[status]} {status}" for status in sorted(counts.index))
    console.print(f"\n{results.experiment['name']}: {len(results.trials)} trials ({words})", highlight=False)
    for trial in results.trials[results.trials.status.isin(["failed", "timeout"])].head(5).itertuples():
        console.print(f"  {trial.trial_id}: {trial.error}", highlight=False, markup=False)
    shares = share_table(results)
    if shares is not None:
        by = f", by {shares['axis']}" if shares["axis"] else ""
        title = f"stationary trials{by}"
        table = Table("", *shares["columns"], title=title, title_justify="left", min_width=len(title))
        for title, cells in shares["rows"]:
            table.add_row(title, *["" if cell is None else f"{cell[0]}/{cell[1]}" for cell in cells])
        console.print(table)
    if (line := end_points_line(results)) is not None:
        console.print(line, highlight=False, markup=False)
    if (line := cut_short_words(results)) is not None:
        console.print(line, highlight=False, markup=False)
    for threshold in thresholds(results):
        console.print(threshold.sentence(), highlight=False, markup=False)
    if fits:
        console.print(_laws(fits))
    console.print(f"report  {_short(report.path)}", highlight=False, soft_wrap=True)


def _laws(fits: list[SweepFit]) -> Table:
    table = Table("what", "law", "exponent and 95% interval", title="fitted laws", title_justify="left")
    several = len({fitted.x for fitted in fits}) > 1
    for fitted in fits:
        law = fitted.law_words if several else fitted.spec["law"]
        if fitted.fit is None:
            table.add_row(fitted.title, law, f"not fitted: {fitted.reason}")
            continue
        exponents = {name: fitted.fit.parameters[name] for name in fitted.fit.exponents}
        words = [f"{name} = {number(e.value)} {interval(e).removesuffix(' (95%)')}" for name, e in exponents.items()]
        status = "" if fitted.fit.status == "converged" else f" ({fitted.fit.status})"
        table.add_row(fitted.title, law, "\n".join(words) + status)
    return table


def _short(path: Path | str) -> str:
    return str(path.absolute() if isinstance(path, Path) else path).removeprefix(f"{Path.cwd()}/")
