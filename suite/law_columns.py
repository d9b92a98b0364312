"""What a law may name: told before anything is trained, by the names that the analysis looks up afterwards."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from suite.columns import DERIVED, OUTCOMES, PASSAGES, Kind, axis_column
from suite.experiment import LawSpec
from suite.trials import Flattened, Trial, flat_settings

_Problem = tuple[tuple[str | int, ...], str]


def law_problems(laws: Sequence[LawSpec], trials: Sequence[Trial], choices: Iterable[str]) -> Iterable[_Problem]:
    """Names in the laws that are no column of these trials, each with its path in the file and the nearest names.

    `choices` are the settings that a trial spells out, such as `coupling`; a law may go by them where neither they nor
    their parts are swept: all trials are one group.
    """
    columns = _Columns.of(trials) if laws else None
    for index, law in enumerate(laws):
        assert columns is not None
        for part, name, words in columns.problems(law, set(choices)):
            yield ("laws", index, *part), f"laws.{index}.{part[0]}: {name!r} {words}"


@dataclass(frozen=True)
class _Columns:
    """The settings of all trials by their full path."""

    swept: list[str]
    settings: set[str]
    """Those that have a value in some trial."""
    numbers: set[str]
    """Those whose values are numbers."""

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> _Columns:
        """Of these trials, all of one sweep."""
        swept = list(dict.fromkeys(axis_column(path) for trial in trials[:1] for path in trial.axes))
        known, settings, numbers = Flattened(), set[str](), set[str]()
        for trial in trials:
            flat = flat_settings(trial, known)
            settings |= {path for path, value in flat.items() if value is not None}
            numbers |= {path for path, value in flat.items() if type(value) in (int, float)}
        return cls(swept, settings, numbers)

    def problems(self, law: LawSpec, choices: set[str]) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Key of the law, the name given there, and what is wrong with it."""
        passed = _numeric(PASSAGES) - {"epsilon"}
        measured = passed | _numeric(OUTCOMES) | _numeric(DERIVED)
        if law.y not in measured and (words := self._refused(law.y, self.numbers, measured, measured)):
            yield ("y",), law.y, words
        outcomes = _numeric(OUTCOMES)
        for number, name in enumerate(law.x):
            epsilon = {"epsilon"} if law.y in passed else set()
            known = epsilon | {_last(path) for path in self.swept if path in self.numbers}
            if name in epsilon or (name in outcomes and self._meant(name) == []):
                continue
            if words := self._refused(name, self.numbers, known, known | outcomes):
                yield ("x", number), name, words
        for number, name in enumerate(law.by or []):
            known = {_last(path) for path in self.swept}
            if name in choices and not any(f".{name}." in f".{path}." for path in self.swept):
                continue
            if words := self._refused(name, self.settings, known, known):
                yield ("by", number), name, words

    def _refused(self, name: str, allowed: set[str], known: set[str], near: set[str]) -> str:
        """Why a name is none of the allowed settings, with the nearest names and those `known`; empty if it is one."""
        meant = self._meant(name)
        if len(meant) > 1:
            return f"could be any of {', '.join(meant)}; give the full path"
        if meant and meant[0] in allowed:
            return ""
        fault = f"has no numbers; it is the setting {meant[0]}" if meant else "is no column of the results"
        close = difflib.get_close_matches(name, sorted(near | allowed | {_last(path) for path in allowed}), n=1)
        hint = f"; did you mean {close[0]!r}?" if close and not meant else "."
        return f"{fault}{hint} Known: {', '.join(sorted(known))}"

    def _meant(self, name: str) -> list[str]:
        """The settings that a name may mean: a swept one goes before others with the same last component."""
        swept = [path for path in self.swept if _last(path) == name and ".key." not in path]
        if swept or name in self.settings:
            return [name] if name in self.settings and not swept else swept[:1]
        return sorted(path for path in self.settings if path.endswith(f".{name}"))


def _last(path: str) -> str:
    return path.removesuffix(".choice").rpartition(".")[2]


def _numeric(kinds: Mapping[str, Kind]) -> set[str]:
    return {name for name, kind in kinds.items() if kind in ("whole", "number")}
