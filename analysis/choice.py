"""Which of several laws the same rows prefer, and the words for it when they cannot decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.fitting import Fit

DECISIVE = 2.0
"""Difference in AIC up to which two laws count as equally supported (Burnham & Anderson 2002, section 2.6); a parameter
that brings nothing costs just that."""
CLEARLY = 1.1
"""Ratio of two errors at the scale held out from which on the one counts as larger: it is one scale, with its noise."""
COLUMNS = ["law", "status", "aic", "bic", "extrapolation_error"]


@dataclass(frozen=True)
class Comparison:
    """Fits of several laws to the same rows."""

    table: pd.DataFrame
    """One row per law, lowest AIC first: law, status, aic, delta_aic, bic, extrapolation_error."""
    preferred: str | None
    """The law whose AIC is lowest by more than 2 and that no other extrapolates better than; None when the data cannot
    decide."""
    sentence: str


def compare_laws(fits: Sequence[Fit]) -> Comparison:
    """Which law the data prefer, by AIC and by the error at the scale held out.

    Raises ValueError unless all fits are of the same rows.
    """
    data = {(fit.y, fit.num_points, fit.num_censored) for fit in fits}
    if len(data) != 1:
        raise ValueError(f"need fits of the same rows, given {len(data)} kinds of (y, rows, censored): {sorted(data)}")
    table = pd.DataFrame([{name: getattr(fit, name) for name in COLUMNS} for fit in fits])
    usable = table["status"] != "failed"
    table = table.assign(extrapolation_error=table["extrapolation_error"].astype(float), usable=usable)
    table = table.sort_values(["usable", "aic"], ascending=[False, True], kind="stable", ignore_index=True)
    table.insert(3, "delta_aic", table["aic"] - table["aic"].iloc[0])
    preferred, sentence = _preference(table[table["usable"]])
    return Comparison(table.drop(columns="usable"), preferred, sentence)


def _preference(table: pd.DataFrame) -> tuple[str | None, str]:
    """The preferred law and the words for it, from usable fits sorted by AIC."""
    laws, delta = list(table["law"]), list(table["delta_aic"])
    if len(laws) < 2:
        return None, f"only {laws[0]} could be fitted" if laws else "no law could be fitted"
    close = [law for law, d in zip(laws, delta, strict=True) if d < DECISIVE + 1e-3]
    if len(close) > 1:
        within = f"{' and '.join(close)} are within {DECISIVE:g} of each other in AIC"
        return None, f"cannot be decided by these data: {within}"
    errors = table.set_index("law")["extrapolation_error"]
    farther = str(errors.idxmin()) if errors.notna().any() else laws[0]
    if errors[laws[0]] > CLEARLY * errors[farther]:
        return None, (
            f"cannot be decided by these data: {laws[0]} has the lower AIC (by {delta[1]:.1f}), but {farther} "
            f"extrapolates better to the scale held out (error {errors[farther]:.3g} against {errors[laws[0]]:.3g})"
        )
    return laws[0], f"these data prefer {laws[0]} to {laws[1]} (AIC lower by {delta[1]:.1f})"
