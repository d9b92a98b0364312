"""What a fit sees: columns of a table, checked and in logarithms."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws import Array


@dataclass(frozen=True)
class Cells:
    """Rows by their x: a law has the same value wherever x is the same, and sweeps have few x and many seeds."""

    log_x: Array
    """Distinct rows (c, k)."""
    index: NDArray[np.intp]
    """(n,): which of them each row has."""

    def sums(self, values: Array | NDArray[np.bool_]) -> Array:
        """Of the values (n,) in each cell: (c,)."""
        return np.bincount(self.index, weights=values, minlength=len(self.log_x)).astype(np.float64)


@dataclass(frozen=True)
class Observations:
    """Rows of a fit. Shapes: n rows, k variables."""

    log_x: Array
    """(n, k)."""
    log_y: Array
    """(n,); the logarithm of the lower bound where censored."""
    censored: NDArray[np.bool_]
    """(n,): y is at least this."""
    cluster: NDArray[np.intp] | None
    """(n,): 0, 1, ... for rows that share their draw; None when all rows are independent."""

    def __len__(self) -> int:
        return len(self.log_y)

    @property
    def num_clusters(self) -> int:
        return 0 if self.cluster is None else int(self.cluster.max()) + 1

    @cached_property
    def cells(self) -> Cells:
        """The rows by their x."""
        distinct, index = np.unique(self.log_x, axis=0, return_inverse=True)
        return Cells(distinct, index)

    def where(self, keep: NDArray[np.bool_]) -> Observations:
        """The rows that are kept, clusters numbered anew."""
        cluster = None
        if self.cluster is not None:
            cluster = np.unique(self.cluster[keep], return_inverse=True)[1]
        return self._rows(keep, cluster)

    def _rows(self, keep: NDArray[np.bool_], cluster: NDArray[np.intp] | None) -> Observations:
        kept = Observations(self.log_x[keep], self.log_y[keep], self.censored[keep], cluster)
        kept.__dict__["cells"] = Cells(self.cells.log_x, self.cells.index[keep])
        return kept

    def drawn(self, units: NDArray[np.intp]) -> Observations:
        """The rows of these clusters, or these rows where there are no clusters; repeated ones count again."""
        rows = units if self.cluster is None else np.concatenate([self._members[unit] for unit in units])
        kept = Observations(self.log_x[rows], self.log_y[rows], self.censored[rows], None)
        kept.__dict__["cells"] = Cells(self.cells.log_x, self.cells.index[rows])
        return kept

    @cached_property
    def _members(self) -> list[NDArray[np.intp]]:
        """Rows of each cluster."""
        assert self.cluster is not None
        return [np.flatnonzero(self.cluster == cluster) for cluster in range(self.num_clusters)]

    def by_cluster(self) -> Iterator[tuple[Observations, Observations]]:
        """Each cluster and the rest of the rows; neither knows its clusters."""
        assert self.cluster is not None
        for cluster in range(self.num_clusters):
            mine = self.cluster == cluster
            yield self._rows(mine, None), self._rows(~mine, None)


def column_name(available: Sequence[str], name: str, *, what: str = "column") -> str:
    """The full path that `name` means: itself, or the one path that ends with it, such as `width` for `encoder.width`.

    Raises ValueError, with the candidates or the nearest names, if there is none or more than one.
    """
    if name in available:
        return name
    endings = [path for path in available if path.endswith(f".{name}")]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ValueError(f"{what} {name!r} could be any of {', '.join(endings)}: give the full path")
    last = {path.rsplit(".", 1)[-1]: path for path in available}
    near = [last.get(match, match) for match in difflib.get_close_matches(name, [*available, *last], n=3)]
    hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"there are {', '.join(available)}"
    raise ValueError(f"there is no {what} {name!r}; {hint}")


def resolve(frame: pd.DataFrame, name: str) -> str:
    """`column_name` among the frame's columns; columns without a single value do not make a name ambiguous."""
    names = [str(column) for column in frame.columns]
    if name in names:
        return name
    return column_name([path for path in names if bool(frame[path].notna().any())], name)


def positive(values: Any, name: str) -> Array:
    """Numbers > 0 as floats, or a ValueError that says how many are not and shows one."""
    series = pd.Series(values)
    numbers = _numbers(series, name)
    for problem, wrong in (("empty (NaN)", np.isnan(numbers)), ("infinite", np.isinf(numbers)), ("<= 0", numbers <= 0)):
        if wrong.any():
            advice = "a logarithm needs > 0" if problem == "<= 0" else "drop those rows, or fill them in"
            raise ValueError(f"{name!r} is {problem} in {wrong.sum()} of {len(numbers)} rows; {advice}")
    return numbers


def _numbers(series: pd.Series[Any], name: str) -> Array:
    """As floats, empty ones NaN; neither text nor truth values count as numbers."""
    numeric = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
    if not numeric:
        others = series.notna() & ~series.map(_is_number)
        if others.any():
            readable = pd.to_numeric(series.where(series.map(lambda v: isinstance(v, str))), errors="coerce").notna()
            bad = series[others & ~readable]
            if bad.empty:
                raise ValueError(f"{name!r} must be numbers; {others.sum()} of {len(series)} are numbers as text")
            row = int(np.flatnonzero(others & ~readable)[0]) + 1
            example = f"{_shown(bad.iloc[0])} in row {row}"
            raise ValueError(f"{name!r} must be numbers; {len(bad)} of {len(series)} are not, such as {example}")
    return np.asarray(series.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _shown(value: object) -> str:
    """As Python writes it, without NumPy's types."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def check_labels(values: pd.Series[Any], name: str) -> None:
    """Raise ValueError unless rows can be told apart by these values: lists cannot."""
    bad = values[values.map(lambda value: not isinstance(value, Hashable))]
    if len(bad):
        raise ValueError(f"{name!r} must be numbers or names; {len(bad)} of {len(values)} rows hold lists")


def flags(values: pd.Series[Any], name: str) -> NDArray[np.bool_]:
    """True and false (or 1 and 0), or a ValueError."""
    valid = values.map(lambda value: isinstance(value, Real | np.bool_) and value in (True, False))
    if not valid.all():
        bad = values[~valid]
        raise ValueError(
            f"{name!r} must be true or false, or 1 and 0; {len(bad)} of {len(values)} are not, such as "
            f"{_shown(bad.iloc[0])}"
        )
    return values.astype(bool).to_numpy()


def log_columns(table: pd.DataFrame | Mapping[str, Any], names: Sequence[str]) -> Array:
    """Logarithms of the named columns of a frame or mapping; scalars are repeated: (n, k)."""
    available = [str(name) for name in table]
    values = [table[_given(available, name)] for name in names]
    columns = np.broadcast_arrays(
        *(np.atleast_1d(positive(np.atleast_1d(v), n)) for v, n in zip(values, names, strict=True))
    )
    return np.log(np.column_stack(columns))


def _given(available: Sequence[str], name: str) -> str:
    """The key under which a variable was given: its path, or an ending of it."""
    shorter = [key for key in available if key == name or name.endswith(f".{key}")]
    return max(shorter, key=len) if shorter else column_name(available, name, what="variable")


def observe(
    frame: pd.DataFrame, *, y: str, x: Sequence[str], cluster: str | None, censored: str | None
) -> Observations:
    """Check the columns of a fit and take logarithms; the names are full ones. Raises ValueError."""
    log_x = np.log(np.column_stack([positive(frame[name], name) for name in x]))
    log_y = np.log(positive(frame[y], y))
    mask = np.zeros(len(frame), dtype=bool) if censored is None else flags(frame[censored], censored)
    if cluster is None:
        return Observations(log_x, log_y, mask, None)
    if frame[cluster].isna().any():
        raise ValueError(
            f"{cluster!r}, whose values tell the clusters, is empty in {frame[cluster].isna().sum()} of {len(frame)} "
            "rows; drop those rows, or name another column"
        )
    check_labels(frame[cluster], cluster)
    return Observations(log_x, log_y, mask, pd.factorize(frame[cluster])[0])
