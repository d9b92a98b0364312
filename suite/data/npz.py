"""The user's own arrays from a NumPy .npz file: one array per tower, or one that is seen through two views."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator

from suite.data.source import SOURCES, Source
from suite.data.views import VIEWS, GaussianNoise, View
from suite.registry import named


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
    views: Annotated[View, VIEWS, BeforeValidator(named)] = GaussianNoise()
    """How one array becomes two views; used only where `key` is null."""

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two views of `samples` rows drawn without replacement: (n, p), (n, p')."""
        arrays = self._load()
        rows = {name: len(array) for name, array in arrays.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"{self.path}: mismatched views, the rows must pair up one to one, but there are {rows}")
        available = len(arrays[self.query])
        if available < 2:
            raise ValueError(f"{self.path}: {available} row; a contrastive loss needs at least 2")
        if self.samples > available:
            raise ValueError(f"{self.path}: data.samples is {self.samples}, but the file has {available} rows")
        chosen = rng.permutation(available)[: self.samples]
        if self.key is None:
            samples = arrays[self.query]
            return self.views(samples[chosen].reshape(len(chosen), -1), samples.shape[1:], rng)
        return arrays[self.query][chosen], arrays[self.key][chosen]

    def _load(self) -> dict[str, np.ndarray]:
        if not Path(self.path).is_file():
            raise ValueError(f"{self.path}: no such file (data.path is relative to {Path.cwd()})")
        if not zipfile.is_zipfile(self.path):
            raise ValueError(f"{self.path}: not a readable .npz file; numpy.savez writes one")
        wanted = [self.query] if self.key is None else [self.query, self.key]
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
        return {name: self._checked(name, array) for name, array in arrays.items()}

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
