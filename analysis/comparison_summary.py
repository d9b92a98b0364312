"""A comparison of two sweeps on the terminal."""

from __future__ import annotations

from pathlib import PurePath

from rich.console import Console
from rich.table import Table

from analysis.comparison import Comparison, Difference
from analysis.fitting import Estimate
from analysis.laws_of_sweep import interval, number

EXPLAINED = (
    "One is larger or smaller where the 95% interval of the difference excludes 0 (of a ratio: 1); of lines in which "
    "nothing differs, one in twenty is called so. Exponents and shares are taken as independent{shared}."
)
SHARED = "; the sweeps share {} seeds, so these intervals are too wide rather than too narrow"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Settings that differ, statuses, then every quantity of both with its difference in words."""
    names = _names(comparison)
    for name, place, counts in zip(names, comparison.names, comparison.statuses, strict=True):
        words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        console.print(f"{name}: {place} ({words})", highlight=False, markup=False, soft_wrap=True)
    if comparison.num_common:
        console.print(f"{comparison.num_common} trials are in both", highlight=False)
    if comparison.settings:
        console.print(_settings(comparison, names))
    else:
        console.print("no setting differs", highlight=False)
    if comparison.differences:
        console.print(_differences(comparison, names))
        shared = SHARED.format(comparison.num_common_seeds) if comparison.num_common_seeds else ""
        console.print(EXPLAINED.format(shared=shared), highlight=False)
    else:
        console.print("nothing is comparable", highlight=False)
    for reason in comparison.left_out:
        console.print(f"not compared: {reason}", highlight=False, markup=False)


def _settings(comparison: Comparison, names: tuple[str, str]) -> Table:
    table = Table("setting", *names, title="settings that differ", title_justify="left")
    for row in comparison.settings:
        table.add_row(*row)
    return table


def _differences(comparison: Comparison, names: tuple[str, str]) -> Table:
    table = Table("what", *names, "difference", f"{names[1]} is", title="outcomes", title_justify="left")
    for each in comparison.differences:
        what = f"{each.what}\n({each.note})" if each.note else each.what
        table.add_row(what, _value(each.first), _value(each.second), _change(each), each.verdict)
    return table


def _value(estimate: Estimate) -> str:
    """With its interval, where it has one."""
    if estimate.low == estimate.high:
        return number(estimate.value)
    return f"{number(estimate.value)}\n{interval(estimate).removesuffix(' (95%)')}"


def _change(each: Difference) -> str:
    sign = "×" if each.unchanged else "+" if each.difference.value > 0 else ""
    return f"{sign}{_value(each.difference)}"


def _names(comparison: Comparison) -> tuple[str, str]:
    """The folders' own names, if these tell them apart."""
    first, second = (PurePath(name).name for name in comparison.names)
    return (first, second) if first != second else ("first", "second")
