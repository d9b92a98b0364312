"""The user's own arrays from a NumPy .npz file: one array per tower, or one that is seen through two views."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import model_validator

from suite.data.composition import Views
from suite.data.source import SOURCES, Pairs, Source
from suite.data.views import GaussianNoise
from suite.registry import located


@SOURCES
class Npz(Source):
    """Rows of arrays in an .npz file; row i of `query` and row i of `key` are a positive pair."""

    source: Literal["npz"] = "npz"
    path: str
    """The .npz file, relative to the folder the command runs in."""
    query: str = "query"
    """Name of the query tower's array, shape (rows, p)."""
    key: str | None = "key"
    """Name of the key tower's array, shape (rows, p'); `null` makes both views from `query` with `views`."""
    views: Views = GaussianNoise()
    """How one array becomes two views, where `key` is null; refused where both arrays are in the file."""
    labels: str | None = None
    """Name of an array of classes, whole numbers of shape (rows,), for losses and measurements that need them."""

    @model_validator(mode="after")
    def _views_have_a_use(self) -> Npz:
        if self.key is not None and self.views != GaussianNoise():
            raise located(
                ("data", "views"),
                f"the views are arrays {self.query!r} and {self.key!r} of the file, so {self.views.name} would not be "
                "used: set key: null, or leave views out",
            )
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The one file."""
        return (self.path,)

    @property
    def has_labels(self) -> bool:
        """Where an array of labels is named."""
        return self.labels is not None

    def draw(self, rng: np.random.Generator) -> Pairs:
        """Two views of `samples` rows drawn without replacement, (n, p) and (n, p'), and their labels if there are."""
        arrays = self._load()
        rows = {name: len(arrays[name]) for name in self._views}
        if len(set(rows.values())) > 1:
            raise ValueError(f"{self.path}: mismatched views, the rows must pair up one to one, but there are {rows}")
        available = len(arrays[self.query])
        if available < 2:
            raise ValueError(f"{self.path}: {available} row; a contrastive loss needs at least 2")
        if self.samples > available:
            raise ValueError(f"{self.path}: data.samples is {self.samples}, but the file has {available} rows")
        labels = None if self.labels is None else self._checked_labels(arrays[self.labels], available)
        chosen = rng.permutation(available)[: self.samples]
        query = arrays[self.query][chosen]
        views = self.views(query, query, rng) if self.key is None else (query, arrays[self.key][chosen])
        return Pairs(*views, None if labels is None else labels[chosen])

    @property
    def _views(self) -> list[str]:
        return [self.query] if self.key is None else [self.query, self.key]

    def _load(self) -> dict[str, np.ndarray]:
        if Path(self.path).is_dir():
            raise ValueError(f"{self.path}: is a folder; data.path names an .npz file")
        if not Path(self.path).is_file():
            raise ValueError(f"{self.path}: no such file (data.path is relative to {Path.cwd()})")
        if not zipfile.is_zipfile(self.path):
            raise ValueError(f"{self.path}: not a readable .npz file; numpy.savez writes one")
        wanted = self._views if self.labels is None else [*self._views, self.labels]
        try:
            with Path(self.path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                absent = [name for name in wanted if name not in stored]
                arrays = {name: stored[name] for name in wanted if name in stored}
                known = ", ".join(stored) or "none"
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            reason = "an array of objects, which only pickle can store" if "Object arrays" in str(error) else error
            raise ValueError(f"{self.path}: not a readable .npz file of numbers ({reason})") from error
        if absent:
            raise ValueError(f"{self.path}: no array {absent[0]!r}; the file has {known}")
        return {name: self._checked(name, arrays[name]) if name in self._views else arrays[name] for name in arrays}

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{self.path}: array {name!r} holds {array.dtype}, it must hold numbers")
        if array.ndim < 2:
            raise ValueError(f"{self.path}: array {name!r} has shape {array.shape}, it must be (rows, features)")
        array = array.astype(np.float64)
        if self.key is not None:
            array = array.reshape(len(array), -1)
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{self.path}: array {name!r} has NaN or infinity in {bad.sum()} rows, first in row {bad.argmax()}"
            )
        return array

    def _checked_labels(self, labels: np.ndarray, rows: int) -> np.ndarray:
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{self.path}: array {self.labels!r} holds {labels.dtype}, labels must be whole numbers")
        if labels.shape != (rows,):
            raise ValueError(
                f"{self.path}: array {self.labels!r} has shape {labels.shape}, one label for each row is ({rows},)"
            )
        return labels.astype(np.int64)
