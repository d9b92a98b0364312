"""Moments: at which records of a trial something is measured."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, cast

from suite.training.records import next_record_step

WORDS = ("start", "end", "decades", "always", "never")
FORMS = "start, end, decades, always, never, {every: k}, or a list of these"


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A set of a trial's records: the first, the last, those at powers of ten, every k-th."""

    start: bool = False
    end: bool = False
    decades: bool = False
    every: int | None = None
    """Every k-th record, from the first, and the last one; 1 is all of them."""

    NEVER: ClassVar[Moments]
    ALWAYS: ClassVar[Moments]
    END: ClassVar[Moments]

    @classmethod
    def parse(cls, value: Any) -> Moments:
        """The moments that a word, `{every: k}` or a list of these says.

        Raises:
            ValueError: it says none.
        """
        if isinstance(value, Moments):
            return value
        parts = value if isinstance(value, list) else [value]
        if not parts or (len(parts) > 1 and "never" in parts):
            raise ValueError(f"got {value!r}; write {FORMS}")
        said = [_flags(part) for part in parts]
        every = sorted({flags["every"] for flags in said if "every" in flags})
        if len(every) > 1 and every[0] != 1:
            raise ValueError(f"got every {every[0]} and every {every[1]} records; write one of them")
        flags = {name: True for flags in said for name in flags if name != "every"}
        return cls(**flags, every=every[0] if every else None)

    def __bool__(self) -> bool:
        return self.start or self.end or self.decades or self.every is not None

    @property
    def at_end(self) -> bool:
        """Whether a trial's last record is one of them."""
        return self.end or self.every is not None

    def due(self, step: int, *, per_decade: int, final: bool) -> bool:
        """Whether the record at this step is one of them."""
        if final and self.at_end:
            return True
        if step == 0 and self.start:
            return True
        if self.decades and is_power_of_ten(step):
            return True
        return self.every is not None and record_number(step, per_decade) % self.every == 0

    def count(self, steps: int, *, per_decade: int) -> int:
        """How many records of a trial of so many steps are among them."""
        at, number = 0, 0
        while at < steps:
            number += self.due(at, per_decade=per_decade, final=False)
            at = next_record_step(at, per_decade)
        return number + self.due(steps, per_decade=per_decade, final=True)

    def __str__(self) -> str:
        if self.every == 1:
            return "always"
        parts = [name for name in ("start", "end", "decades") if getattr(self, name)]
        parts += [f"every {self.every} records"] if self.every is not None else []
        return ", ".join(parts) or "never"

    def plain(self) -> Any:
        """As a YAML file writes it."""
        if self.every == 1:
            return "always"
        parts: list[Any] = [name for name in ("start", "end", "decades") if getattr(self, name)]
        parts += [{"every": self.every}] if self.every is not None else []
        return parts[0] if len(parts) == 1 else parts or "never"


Moments.NEVER, Moments.ALWAYS, Moments.END = Moments(), Moments(every=1), Moments(end=True)


def _flags(part: Any) -> dict[str, Any]:
    if isinstance(part, dict) and set(part) == {"every"}:
        every = part["every"]
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every: got {every!r}; write a whole number of records, at least 1")
        return {"every": every}
    if part == "always":
        return {"every": 1}
    if part == "never":
        return {}
    if part in ("start", "end", "decades"):
        return {cast(str, part): True}
    raise ValueError(f"got {part!r}; write {FORMS}")


def is_power_of_ten(step: int) -> bool:
    """1, 10, 100, ...; all of them are steps of every records grid."""
    return step > 0 and int(f"1{'0' * (len(str(step)) - 1)}") == step


def record_number(step: int, per_decade: int) -> int:
    """How many steps of the records grid come before this one."""
    return bisect_left(_grid_below(10 ** len(str(step)), per_decade), step)


@lru_cache(maxsize=256)
def _grid_below(limit: int, per_decade: int) -> list[int]:
    steps = [0]
    while steps[-1] < limit:
        steps.append(next_record_step(steps[-1], per_decade))
    return steps
