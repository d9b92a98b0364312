"""docs/study.md: the whole ledger with its verdicts, and for each sweep its figures, trials and command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from analysis.drawings import draw_figures
from analysis.end_points import cut_short_words
from analysis.frames import Results, load_results
from analysis.laws_of_sweep import fit_sweep
from analysis.ledger import Verdict, judge, ledger
from analysis.ledger_figures import evidence_figure, is_drawn
from analysis.verdict_words import estimate_words, range_words

SHOWN = ("shares", "passages", "curves")
"""Figures of a sweep's report that the page shows beside those of its verdicts."""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep of the study."""

    name: str
    command: str
    results: Results
    verdicts: list[Verdict]

    @property
    def anchor(self) -> str:
        """Of its section on the page."""
        return self.name.lower()

    @property
    def counts(self) -> str:
        """Trials by status, in words."""
        counts = self.results.trials.status.value_counts()
        return ", ".join(f"{counts[status]} {status}" for status in sorted(counts.index))

    @property
    def cut_short(self) -> str | None:
        """Trials that were stopped before they could be stationary, in words; None if none was."""
        return cut_short_words(self.results)

    @property
    def hardware(self) -> str:
        """What it was trained on."""
        return ", ".join(sorted(self.results.trials.hardware.dropna().unique()))

    @property
    def minutes(self) -> float:
        """Of training, over all trials."""
        return float(self.results.trials.wall_seconds.fillna(0).sum() / 60)


def write_page(folders: Mapping[Path, str], page: Path, *, command: str) -> list[Verdict]:
    """Judge the sweeps in these folders, each with the command that made it, and write the page with its figures in a
    folder of the page's name beside it.

    Raises:
        ValueError: a folder holds no results.
    """
    sweeps = []
    for folder, made_by in folders.items():
        results = load_results(folder)
        verdicts = judge(results, results.experiment.get("predictions", []))
        sweeps.append(Sweep(folder.name, made_by, results, verdicts))
    drawn = {sweep.name: _draw(sweep, page.with_suffix("")) for sweep in sweeps}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("study.md.jinja").render(
        command=command,
        rows=[
            row for sweep in sweeps for verdict in sweep.verdicts for row in _rows(verdict, sweep, drawn[sweep.name])
        ],
        summary=summary(sweeps),
        claims=[(p.name, p.claim, p.source) for p in ledger().values()],
        missing=[name for name in ledger() if not any(v.prediction.name == name for s in sweeps for v in s.verdicts)],
        sweeps=sweeps,
        drawn=drawn,
        folder=page.stem,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return [verdict for sweep in sweeps for verdict in sweep.verdicts]


def _draw(sweep: Sweep, folder: Path) -> dict[str, str]:
    """Captions by the names of the figures of one sweep, saved as PNG."""
    from analysis import theme

    captions = {}
    with theme.theme():
        for verdict in sweep.verdicts:
            if (figure := evidence_figure(verdict)) is not None:
                name = f"{sweep.name}-{verdict.prediction.name}"
                _save(figure, folder, name)
                expected = any(e.expected is not None and is_drawn(e) for e in verdict.evidence)
                dashed = " Dashed is what is expected." if expected else ""
                captions[name] = f"{verdict.prediction.name}: {verdict.prediction.claim}{dashed}"
    for picture in draw_figures(sweep.results, fit_sweep(sweep.results), folder / "all"):
        if picture.name in SHOWN:
            (folder / "all" / f"{picture.name}.png").replace(folder / f"{sweep.name}-{picture.name}.png")
            captions[f"{sweep.name}-{picture.name}"] = f"{picture.title}. {picture.caption}"
    for leftover in (folder / "all").glob("*"):
        leftover.unlink()
    if (folder / "all").exists():
        (folder / "all").rmdir()
    return captions


def _save(figure: object, folder: Path, name: str) -> None:
    from analysis import theme

    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110)  # type: ignore[attr-defined]
    theme.plt.close(figure)  # type: ignore[arg-type]


def _rows(verdict: Verdict, sweep: Sweep, drawn: Iterable[str]) -> list[dict[str, str]]:
    figure = f"{sweep.name}-{verdict.prediction.name}"
    return [
        {
            "prediction": verdict.prediction.name,
            "what": evidence.what,
            "estimate": estimate_words(evidence),
            "expected": range_words(evidence.expected),
            "trials": str(evidence.num_trials or "–"),
            "verdict": evidence.word,
            "sweep": sweep.name,
            "figure": figure if figure in drawn and is_drawn(evidence) else "",
        }
        for evidence in verdict.evidence
    ]


def summary(sweeps: Sequence[Sweep]) -> list[tuple[str, str, str]]:
    """Each prediction once: name, its verdict over all sweeps, and links to the sweeps."""
    lines = list[tuple[str, str, str]]()
    for name, prediction in ledger().items():
        found = [(s.name, v) for s in sweeps for v in s.verdicts if v.prediction.name == name]
        together = Verdict(prediction, tuple(e for _, v in found for e in v.evidence))
        links = ", ".join(f"[{sweep}](#{sweep.lower()})" for sweep, _ in found)
        lines.append((name, together.word if found else "not in this study", links))
    return lines
