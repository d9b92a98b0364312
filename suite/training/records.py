"""The log-spaced steps at which a trial is recorded."""

from __future__ import annotations

import math
from functools import lru_cache


def next_record_step(step: int, per_decade: int) -> int:
    """The first step after `step` on the grid 0 and round(10^(k / per_decade)); `step` may be -1.

    The grid does not depend on the budget, so a trial extended later has the records of one long from the start.
    """
    if step < 0:
        return 0
    k = max(0, math.floor(per_decade * math.log10(max(step, 1))) - 1)
    while (candidate := round(10 ** (k / per_decade))) <= step:
        k += 1
    return candidate


def is_record_step(step: int, per_decade: int) -> bool:
    """Whether the grid holds this step."""
    return next_record_step(step - 1, per_decade) == step


@lru_cache(maxsize=4096)
def record_steps(step: int, per_decade: int, *, ended: bool) -> frozenset[int]:
    """The steps that a trial has in its records: those before `step`, and `step` itself if it ended there."""
    steps, at = set(), 0
    while at < step:
        steps.add(at)
        at = next_record_step(at, per_decade)
    return frozenset(steps | {step} if ended else steps)
