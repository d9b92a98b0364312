"""Moments: what is read from a file, and which records of a trial they are, against a scan of the whole grid."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from suite.measurement.catalog import CHOSEN, parse_measure
from suite.measurement.moments import Moments, is_power_of_ten, record_number
from suite.training.records import is_record_step

FORMS = {
    "start": Moments(start=True),
    "end": Moments(end=True),
    "decades": Moments(decades=True),
    "always": Moments(every=1),
    "never": Moments(),
}


def grid_below(steps: int, per_decade: int) -> list[int]:
    """0 and all round(10^(k / per_decade)), in order."""
    powers = {round(10 ** (k / per_decade)) for k in range(per_decade * len(str(steps)) + 1)}
    return [0, *sorted(step for step in powers if step < steps)]


@pytest.mark.parametrize("word", FORMS)
def test_words_are_read_and_written(word: str):
    assert Moments.parse(word) == FORMS[word]
    assert FORMS[word].plain() == str(FORMS[word]) == word


@pytest.mark.parametrize(
    ("form", "expected", "words"),
    [
        ({"every": 7}, Moments(every=7), "every 7 records"),
        (["start", "end"], Moments(start=True, end=True), "start, end"),
        (["end", "decades", {"every": 3}], Moments(end=True, decades=True, every=3), "end, decades, every 3 records"),
        (["always", {"every": 3}], Moments.ALWAYS, "always"),
    ],
)
def test_other_forms_are_read_and_told(form: Any, expected: Moments, words: str):
    assert Moments.parse(form) == Moments.parse(Moments.parse(form)) == expected
    assert str(expected) == words
    assert Moments.parse(expected.plain()) == expected


@pytest.mark.parametrize("form", ["sometimes", 3, None, {"each": 3}, {"every": 3, "end": True}, ["start", "sometimes"]])
def test_a_bad_form_is_refused_with_those_allowed(form: Any):
    with pytest.raises(ValueError, match=r"write start, end, decades, always, never, \{every: k\}, or a list"):
        Moments.parse(form)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "two", None])
def test_a_bad_number_of_records_is_refused(every: Any):
    with pytest.raises(ValueError, match=r"every: got .*a whole number of records, at least 1"):
        Moments.parse({"every": every})


def test_a_mapping_of_measurements_is_read():
    parsed = parse_measure({"curvature": ["start", "end"], "kernel": "decades", "certificate": "never"})
    assert parsed == {
        "curvature": Moments(start=True, end=True),
        "kernel": Moments(decades=True),
        "certificate": Moments.NEVER,
    }
    assert parse_measure("none") == dict.fromkeys(CHOSEN, Moments.NEVER)
    assert parse_measure({}) == {}


@pytest.mark.parametrize(
    ("given_value", "reason"),
    [
        ("all", r"got 'all'; write none, or a mapping"),
        (["curvature"], r"write none, or a mapping"),
        ({"curvatur": "end"}, r"unknown measurement; did you mean 'curvature'\? Known: .*curvature.*kernel"),
        ({"gradient": "never"}, r"it costs nothing and is always made"),
        ({"curvature": "sometimes"}, r"^got 'sometimes'; write start"),
        ({"certificate": "always"}, r"^it is made at the end of a trial: write end or never"),
    ],
)
def test_a_bad_mapping_is_refused_with_what_is_allowed(given_value: Any, reason: str):
    with pytest.raises((ValueError, PydanticCustomError), match=reason):
        parse_measure(given_value)


@profile(deadline=None)
@given(
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    every=st.one_of(st.none(), st.integers(1, 40)),
    steps=st.one_of(st.integers(1, 200), st.integers(1, 20_000), st.sampled_from([1, 10, 100, 1000])),
    per_decade=st.one_of(st.integers(1, 20), st.integers(1, 1000)),
)
def test_due_and_count_are_those_of_a_scan_of_all_records(flags, every, steps, per_decade):
    moments = Moments(start=flags[0], end=flags[1], decades=flags[2], every=every)
    records, total = [*grid_below(steps, per_decade), steps], 0
    for number, step in enumerate(records):
        last = number == len(records) - 1
        expected = (
            (flags[0] and number == 0)
            or (flags[1] and last)
            or (flags[2] and step in (1, 10, 100, 1000, 10_000))
            or (every is not None and (last or number % every == 0))
        )
        assert moments.due(step, per_decade=per_decade, final=last) == expected
        total += expected
    assert moments.count(steps, per_decade=per_decade) == total
    assert moments.at_end == moments.due(steps, per_decade=per_decade, final=True) or (flags[2] and not flags[1])
    assert bool(moments) == (any(flags) or every is not None)


@pytest.mark.parametrize("per_decade", [*range(1, 33), 100, 333, 999, 1000])
def test_powers_of_ten_are_on_every_grid(per_decade: int):
    for exponent in range(8):
        assert is_record_step(10**exponent, per_decade)
        assert is_power_of_ten(10**exponent)
    powers = [step for step in range(20_001) if is_power_of_ten(step)]
    assert powers == [1, 10, 100, 1000, 10_000]


def test_records_are_numbered_along_the_grid():
    for per_decade in (1, 16, 1000):
        grid = grid_below(5000, per_decade)
        assert [record_number(step, per_decade) for step in grid] == list(range(len(grid)))
