"""Images in the format of MNIST, from the user's files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from suite.data.composition import Views
from suite.data.source import SOURCES, Pairs, Source
from suite.data.views import Halves

_KINDS = {1: "labels, idx1-ubyte", 3: "images, idx3-ubyte"}
_UNSIGNED_BYTES = 0x0800
"""A magic number is the type of the items, and in its last byte the number of axes."""


@SOURCES
class Idx(Source):
    """Images of a file in MNIST's format (idx3-ubyte, plain or gzipped), each seen through two views."""

    source: Literal["idx"] = "idx"
    path: str
    """The file of images, such as train-images-idx3-ubyte.gz, relative to the folder the command runs in."""
    labels: str | None = None
    """The file of their labels, such as train-labels-idx1-ubyte.gz, for losses and measurements that need classes."""
    views: Views = Halves()
    """`halves` shows the left half to one tower and the right half to the other."""
    center: bool = True
    """Subtract each view's mean image over the samples; all-positive inputs have tiny angles between them."""

    @property
    def files(self) -> tuple[str, ...]:
        """The images, and the labels if given."""
        return (self.path,) if self.labels is None else (self.path, self.labels)

    @property
    def has_labels(self) -> bool:
        """Where a file of labels is named."""
        return self.labels is not None

    def draw(self, rng: np.random.Generator) -> Pairs:
        """Views of `samples` images (n, height, width) drawn without replacement, and their labels if there are."""
        images = _read(self.path, "data.path", num_axes=3)
        labels = None if self.labels is None else _read(self.labels, "data.labels", num_axes=1)
        if labels is not None and len(labels) != len(images):
            raise ValueError(
                f"{self.labels}: {len(labels)} labels, but {self.path} has {len(images)} images; "
                "name files that belong together"
            )
        if self.samples > len(images):
            raise ValueError(f"{self.path}: data.samples is {self.samples}, but the file has {len(images)} images")
        chosen = rng.permutation(len(images))[: self.samples]
        samples = images[chosen].astype(np.float64)
        return Pairs(*self.views(samples, samples, rng), None if labels is None else labels[chosen].astype(np.int64))


def _read(path: str, field: str, *, num_axes: int) -> np.ndarray:
    """The file's array of bytes."""
    content = _content(path, field)
    wanted = _UNSIGNED_BYTES + num_axes
    length = 4 + 4 * num_axes
    magic = int.from_bytes(content[:4], "big") if len(content) >= 4 else None
    if magic != wanted:
        found = "it is shorter than a magic number" if magic is None else f"it starts with 0x{magic:08x}"
        kind = _KINDS.get((magic or 0) - _UNSIGNED_BYTES)
        raise ValueError(
            f"{path}: {field} needs a file of {_KINDS[num_axes]}, which starts with the magic number 0x{wanted:08x}; "
            + found
            + (f", a file of {kind}" if kind else "")
        )
    if len(content) < length:
        raise ValueError(f"{path}: truncated: {len(content)} bytes, and the header alone has {length}")
    shape = struct.unpack(f">{num_axes}I", content[4:length])
    if len(content) - length != math.prod(shape):
        fault = "truncated" if len(content) - length < math.prod(shape) else "damaged"
        raise ValueError(
            f"{path}: {fault}: its header announces {' x '.join(map(str, shape))} bytes of data, "
            f"and {len(content) - length} follow"
        )
    return np.frombuffer(content, np.uint8, offset=length).reshape(shape)


def _content(path: str, field: str) -> bytes:
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; {field} names a file")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file ({field} is relative to {Path.cwd()})")
    content = Path(path).read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable gzip file, perhaps truncated ({error}); fetch it again") from error
