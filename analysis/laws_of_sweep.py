"""The laws an experiment asks for, fitted to its results."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.choice import compare_laws
from analysis.fitting import Estimate, Fit, fit_law
from analysis.frames import Results, law_frame, resolve_axis, short
from analysis.layout import Group, groups

FITS_VERSION = 1
WORDS = {
    "steps_to_stationarity": "T(ε) in steps",
    "time_to_stationarity": "T(ε) in ηt",
    "displacement": "displacement",
    "relative_displacement": "relative displacement",
    "scaled_grad_norm_sq": "scaled G",
    "running_min_scaled_grad_norm_sq": "min scaled G",
}

RIVALS = {"power": "offset-power", "offset-power": "power", "multiplicative": "additive", "additive": "multiplicative"}
"""The law that the same rows are fitted with to see whether they can tell the two apart."""


@dataclass(frozen=True)
class SweepFit:
    """One law for one group of trials: the fit, or in plain words why there is none."""

    spec: dict[str, Any]
    y: str
    x: tuple[str, ...]
    group: Group
    """Fitted to these trials: the values of the columns in `by`; all where the law has none."""
    fit: Fit | None
    reason: str
    choice: str = ""
    """Whether these rows prefer the law to its rival, in words; empty where the rival cannot be fitted."""

    @property
    def title(self) -> str:
        """What is fitted, for people: T(ε) in steps, ε = 0.001, depth 2."""
        parts = [WORDS.get(self.spec["y"], self.spec["y"])]
        if self.spec.get("epsilon") and "epsilon" not in self.x:
            level = " of the largest G" if self.spec.get("relative") else ""
            parts.append("ε = " + ", ".join(f"{epsilon:.3g}" for epsilon in self.spec["epsilon"]) + level)
        return ", ".join([*parts, self.group.title] if self.group.title else parts)

    @property
    def law_words(self) -> str:
        """The law and its variables: power in width."""
        return f"{self.spec['law']} in {', '.join(map(variable, self.x))}"

    def sentence(self) -> str:
        """The answer in one sentence."""
        law = self.spec["law"]
        if self.fit is None:
            return f"{self.title}: no {law} law could be fitted, because {self.reason}."
        fit = self.fit
        parts = [_exponent_words(name, estimate, fit) for name, estimate in fit.parameters.items() if name[0] != "A"]
        counted = f"{fit.num_points} points, {fit.num_clusters} seeds"
        if fit.num_censored:
            counted += f", {fit.num_censored} of them not reached in time"
        note = f" Note: {fit.message}." if fit.message else ""
        return f"{self.title}: {_form(fit)} with {' and '.join(parts)} ({counted}).{note}"


def variable(path: str) -> str:
    """The name of what explains a law: the last component of its path, or ε."""
    return "ε" if path == "epsilon" else short(path)


def _form(fit: Fit) -> str:
    variables = [variable(x) for x in fit.x]
    if fit.law == "broken-power":
        return f"{variables[0]}^−a1, bending to {variables[0]}^−a2 at x0"
    if fit.law == "additive":
        return "E + " + " + ".join(
            f"A{name[1:]} · {v}^−{name}" for v, name in zip(variables, fit.exponents, strict=True)
        )
    if len(variables) == 1:
        power = f"A · {variables[0]}^−a"
        return f"E + {power}" if fit.law == "offset-power" else power
    return "A · " + " · ".join(f"{v}^−a_{v}" for v in variables)


def _exponent_words(name: str, estimate: Estimate, fit: Fit) -> str:
    return f"{name} = {number(estimate.value)} {interval(estimate, fit.confidence)}"


def interval(estimate: Estimate, confidence: float = 0.95) -> str:
    """[low, high] with its level; an open side is said so."""
    low, high = (None if v is None or not isfinite(v) else v for v in (estimate.low, estimate.high))
    if low is None and high is None:
        return "[undecided by these data]"
    sides = ("−∞" if low is None else number(low), "∞" if high is None else number(high))
    return f"[{sides[0]}, {sides[1]}] ({confidence:.0%})"


def number(value: float) -> str:
    """Three significant digits, without an exponent where it reads well."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        return text.replace("-", "−")
    return f"{value:.2e}".replace("-", "−")


def fit_sweep(results: Results) -> list[SweepFit]:
    """Every law of the experiment, once for each value of its `by`."""
    known = dict[tuple[Any, ...], Fit]()
    return [fitted for spec in results.experiment.get("laws", []) for fitted in _fits(results, spec, known)]


def _fits(results: Results, spec: dict[str, Any], known: dict[tuple[Any, ...], Fit]) -> list[SweepFit]:
    try:
        frame = law_frame(results, spec)
        x = tuple("epsilon" if name == "epsilon" else resolve_axis(results, results.trials, name) for name in spec["x"])
        named = [name for name in _listed(spec.get("by")) if not _is_unswept_choice(results, name)]
        by = [resolve_axis(results, results.trials, name) for name in named]
    except ValueError as error:
        return [SweepFit(spec, spec["y"], tuple(spec["x"]), Group("", {}), None, str(error))]
    return [_fit(frame, spec, x, group, known) for group in groups(results, by)]


def _is_unswept_choice(results: Results, name: str) -> bool:
    """Whether trials have settings below this name, but no axis of it or below it: they are one group."""
    is_swept = any(f".{name}." in f".{axis}." for axis in results.axes)
    return not is_swept and any(f".{name}." in f".{column}" for column in results.trials)


def _listed(by: str | list[str] | None) -> list[str]:
    return [] if by is None else [by] if isinstance(by, str) else by


def _fit(
    frame: pd.DataFrame, spec: dict[str, Any], x: tuple[str, ...], group: Group, known: dict[tuple[Any, ...], Fit]
) -> SweepFit:
    part = group.of(frame)
    rows = [str(spec.get(key)) for key in ("y", "epsilon", "relative", "among")]

    def fit(law: str) -> Fit:
        key = (law, x, *rows, str(group.values))
        if key not in known:
            known[key] = fit_law(part, law=law, y=spec["y"], x=x, cluster="seed", censored=censored)
        return known[key]

    censored = "censored" if "censored" in part.columns else None
    try:
        if part.empty:
            raise ValueError("no trial of this group is among those to fit")
        if censored and bool(part["censored"].all()):
            raise ValueError("no trial reached the threshold")
        fitted = fit(spec["law"])
    except ValueError as error:
        return SweepFit(spec, spec["y"], x, group, None, str(error))
    choice = ""
    if spec["law"] in RIVALS:
        with suppress(ValueError):
            choice = compare_laws([fitted, fit(RIVALS[spec["law"]])]).sentence
    return SweepFit(spec, spec["y"], x, group, fitted, "", choice)


def known_command(folder: Path) -> str | None:
    """The command of the run that fits.json was first written for, if it tells."""
    try:
        command = json.loads((folder / "fits.json").read_text(encoding="utf-8")).get("command")
    except (OSError, ValueError, AttributeError):
        return None
    return command if isinstance(command, str) else None


def write_fits(fits: list[SweepFit], path: Path, *, command: str, answers: list[str]) -> None:
    """fits.json: every law with its parameters, or the reason why there are none; the report's sentences and the
    command of the run."""
    entries = [
        {
            **{key: f.spec.get(key) for key in ("law", "y", "epsilon", "relative", "among")},
            "x": list(f.x),
            "by": list(f.group.values),
            "group": [None if pd.isna(value) else value for value in f.group.values.values()],
            "fit": None if f.fit is None else f.fit.to_dict(),
            "reason": f.reason,
            "choice": f.choice,
        }
        for f in fits
    ]
    content = {"format_version": FITS_VERSION, "command": command, "answers": answers, "fits": entries}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
