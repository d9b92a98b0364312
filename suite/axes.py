"""Axes of a sweep: what a user writes for one, and the values it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

FORMS = "a list, {range: n}, {log2: [a, b]} or {geometric: [a, b, n]}"

MOST_VALUES = 1_000_000
SMALLEST, LARGEST = 1e-150, 1e150
"""Ends of generated axes; their ratio is a number too."""


class AxisError(ValueError):
    """An axis that cannot be read; says what is allowed."""


def axis_values(form: Any) -> list[Any]:
    """Values of one axis, in order.

    Raises:
        AxisError: the form is none of FORMS, or stands for no value.
    """
    values = form if isinstance(form, list) else _generated(form)
    if not values:
        raise AxisError(f"the axis is empty; give at least one value as {FORMS}")
    return values


def _generated(form: Any) -> list[Any]:
    if not (isinstance(form, dict) and len(form) == 1 and next(iter(form)) in _GENERATORS):
        raise AxisError(f"{form!r} is not an axis; write {FORMS}")
    ((kind, argument),) = form.items()
    values: list[Any] = list(_GENERATORS[kind](argument))
    return values


def _range(argument: Any) -> list[int]:
    if isinstance(argument, bool) or not isinstance(argument, int) or argument < 1:
        raise AxisError(f"range takes a whole number from 1 up, the number of values 0..n-1; got {argument!r}")
    if argument > MOST_VALUES:
        raise AxisError(f"range makes at most {MOST_VALUES:,} values; got {argument:,}")
    return list(range(argument))


def _log2(argument: Any) -> list[float]:
    first, last = _numbers(argument, 2, "log2 takes [a, b], both positive")
    low, high = min(first, last), max(first, last)
    between = [2**k for k in range(math.floor(math.log2(low)) + 1, math.ceil(math.log2(high)))]
    values = sorted({low, *between, high})
    return values if first <= last else values[::-1]


def _geometric(argument: Any) -> list[float]:
    first, last, number = _numbers(argument, 3, "geometric takes [a, b, n], a and b positive and n from 2 up")
    if number != int(number) or number < 2 or number > MOST_VALUES:
        raise AxisError(f"geometric takes [a, b, n] with a whole n from 2 up; got n = {number!r}")
    return geometric(first, last, int(number))


def _numbers(argument: Any, count: int, allowed: str) -> list[float]:
    if not isinstance(argument, list) or len(argument) != count or not all(_is_positive(v) for v in argument):
        raise AxisError(f"{allowed}, from {SMALLEST:g} to {LARGEST:g}; got {argument!r}")
    return argument


def _is_positive(value: Any) -> bool:
    """Whether it is a number between the ends."""
    return isinstance(value, int | float) and not isinstance(value, bool) and SMALLEST <= value <= LARGEST


def geometric(first: float, last: float, number: int) -> list[float]:
    """`number` values from first to last with equal ratios, both ends exact."""
    ratio = math.log(last / first)
    inner = [first * math.exp(ratio * k / (number - 1)) for k in range(1, number - 1)]
    return [first, *inner, last]


_GENERATORS: dict[str, Callable[[Any], list[Any]]] = {"range": _range, "log2": _log2, "geometric": _geometric}
