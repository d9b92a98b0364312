"""Verdicts of the ledger in words, for pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.frames import Results
from analysis.laws_of_sweep import number
from analysis.ledger import Evidence, Verdict, judge, ledger

ALWAYS = ("descent", "threshold")
"""Judged where an experiment names no prediction: they apply to any sweep and take no time."""
WORDS = ("inconsistent", "undecided", "consistent", "reported")


def names_of(results: Results) -> tuple[str, ...]:
    """The predictions that the experiment names, else those that always apply."""
    named = tuple(results.experiment.get("predictions") or ALWAYS)
    return tuple(name for name in ledger() if name in named)


def record_columns(names: Iterable[str]) -> tuple[str, ...]:
    """What these predictions read of records, beside the trial and the step."""
    return tuple(dict.fromkeys(column for name in names for column in ledger()[name].records))


def with_evidence(results: Results, names: Iterable[str]) -> list[Verdict]:
    """Verdicts on the predictions of these names that apply to these results, without the evidence that does not."""
    found = judge(results, names)
    applying = [Verdict(v.prediction, tuple(e for e in v.evidence if not e.reason)) for v in found]
    return [verdict for verdict in applying if verdict.evidence]


def counts_sentence(verdicts: Sequence[Verdict]) -> str:
    """`Of 3 predictions of theory, 2 are consistent with these trials and 1 is undecided`; empty without verdicts."""
    if not verdicts:
        return ""
    words = [verdict.word for verdict in verdicts]
    told = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    noun = "prediction" if len(words) == 1 else "predictions"
    return f"Of {len(words)} {noun} of the theory with evidence here: {', '.join(told)}."


def evidence_sentence(evidence: Evidence) -> str:
    """What was estimated, the estimate, what is expected and the verdict."""
    expected = "" if evidence.expected is None else f", expected {range_words(evidence.expected)}"
    trials = f", n = {evidence.num_trials} trials" if evidence.num_trials else ""
    return f"{evidence.what}: {estimate_words(evidence)}{expected}{trials}: {evidence.word}"


def estimate_words(evidence: Evidence) -> str:
    """The estimate with its interval, or why there is none."""
    if evidence.reason:
        return evidence.reason
    if evidence.low == evidence.high:
        return number(evidence.value)
    low, high = ("−∞" if e == -np.inf else "∞" if e == np.inf else number(e) for e in (evidence.low, evidence.high))
    return f"{number(evidence.value)} [{low}, {high}]"


def range_words(expected: tuple[float, float] | None) -> str:
    """`−0.6 to −0.4`, `at most 1`, `above 0`; a dash where nothing is expected."""
    if expected is None:
        return "–"
    low, high = expected
    if np.isinf(low):
        return f"at most {number(high)}"
    return f"at least {number(low)}" if np.isinf(high) else f"{number(low)} to {number(high)}"
