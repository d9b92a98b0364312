"""A law fitted to any table in a file: what `stillpoint fit` does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.censoring import Times
from analysis.choice import compare_laws
from analysis.fitting import Fit, fit_law
from analysis.laws import LAWS, law_named
from analysis.laws_of_sweep import interval, number
from analysis.layout import word
from analysis.observations import check_labels, resolve

KINDS = (".csv", ".parquet")


@dataclass(frozen=True)
class TableFit:
    """The fit of a law to one group of rows, or why there is none."""

    group: str
    """`depth = 2`; empty if all rows are one group."""
    law: str
    fit: Fit | None
    reason: str
    choice: str = ""
    """Which law the group's rows prefer; told by the last of its laws, if there are several."""

    def text(self) -> str:
        """For people: parameters with intervals, then how they were found and how far to trust them."""
        head = f"{self.group}: " if self.group else ""
        choice = [f"  choice: {self.choice}"] if self.choice else []
        if self.fit is None:
            return "\n".join([f"{head}{self.law} not fitted: {self.reason}", *choice])
        fit = self.fit
        counted = f"{fit.num_points} rows"
        counted += f", {fit.num_clusters} clusters" if fit.num_clusters else ""
        counted += f", {fit.num_censored} of them censored" if fit.num_censored else ""
        lines = [f"{head}{fit.y} = {LAWS[fit.law].formula}, x: {', '.join(fit.x)} ({counted})"]
        width = max(len(name) for name in fit.parameters)
        lines += [
            f"  {k:<{width}} = {number(e.value)} {interval(e, fit.confidence)}" for k, e in fit.parameters.items()
        ]
        none = "none: too little is left, or all of it censored"
        error = none if fit.extrapolation_error is None else number(fit.extrapolation_error)
        far = "smallest" if fit.x[0].rsplit(".", 1)[-1] == "epsilon" else "largest"
        return "\n".join(
            [
                *lines,
                f"  status: {fit.status}{f' ({fit.message})' if fit.message else ''}",
                f"  objective: {fit.method}; log-likelihood {fit.log_likelihood:.2f}, AIC {fit.aic:.2f}, "
                f"BIC {fit.bic:.2f}, spread of log y {number(fit.sigma)}",
                f"  extrapolation error: {error} (RMSLE at the {far} {fit.x[0]}, from a fit without it)",
                *choice,
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        fit = None if self.fit is None else self.fit.to_dict()
        return {"group": self.group, "law": self.law, "reason": self.reason, "fit": fit, "choice": self.choice}


def fit_table(
    path: Path,
    *,
    y: str,
    x: Sequence[str],
    laws: Sequence[str],
    group: str | None = None,
    censored: str | None = None,
    cluster: str | None = None,
    times: Times = "log-normal",
    bootstrap: int = 0,
) -> list[TableFit]:
    """Fit each law to the rows of a CSV or Parquet file, for each value of `group` by itself.

    Clusters are the values of `cluster`, or of a column `seed` if there is one.

    Raises:
        ValueError: the file, a name, or the values of every group cannot be used.
    """
    frame = read_table(path)
    laws = [law_named(name).name for name in dict.fromkeys(laws)]
    x = [resolve(frame, name) for name in x]
    if resolve(frame, y) in x:
        raise ValueError(f"{y!r} is y and x at once: a column cannot explain itself")
    if cluster is not None:
        resolve(frame, cluster)
    parts = [("", frame)]
    if group is not None:
        column = resolve(frame, group)
        check_labels(frame[column], column)
        parts = [(f"{group} = {word(value)}", part) for value, part in frame.groupby(column, dropna=False)]
    options = {"cluster": cluster or "seed", "censored": censored, "times": times, "bootstrap": bootstrap}
    found = []
    for title, part in parts:
        fits = [_fit(part, title, law, y=y, x=x, **options) for law in laws]
        if len(laws) > 1:
            fits[-1] = replace(fits[-1], choice=_choice(fits))
        found += fits
    if all(each.fit is None for each in found):
        first = found[0]
        raise ValueError(f"{path}: {f'{first.group}: ' if first.group else ''}{first.reason}")
    return found


def _fit(part: pd.DataFrame, title: str, law: str, **options: Any) -> TableFit:
    try:
        return TableFit(title, law, fit_law(part, law=law, **options), "")
    except ValueError as error:
        return TableFit(title, law, None, str(error))


def _choice(found: Sequence[TableFit]) -> str:
    """Which law the rows prefer."""
    fits = [each.fit for each in found if each.fit is not None]
    return compare_laws(fits).sentence if fits else "no law could be fitted"


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file as a frame.

    Raises:
        ValueError: it is absent, of another kind, empty, or cannot be read.
    """
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: tables are {' or '.join(KINDS)} files, told by the ending of their name")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one file")
    try:
        frame = _read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}") from None
    if frame.empty:
        raise ValueError(f"{path} has no rows")
    return frame.rename(columns=str)


def _read_csv(path: Path) -> pd.DataFrame:
    """The file as it is: a row with more fields than the header would else move its values to other columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, index_col=False)
        except pd.errors.ParserWarning:
            raise ValueError("rows have more fields than the header names") from None


def to_json(fits: Sequence[TableFit]) -> str:
    """All fits; numbers that are infinite become null."""
    return json.dumps([fit.to_dict() for fit in fits], indent=1, allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)
