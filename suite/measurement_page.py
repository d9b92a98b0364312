"""docs/measurements.md, made from the registry: every column with its formula, unit, cost and source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from suite.columns import DERIVED_COLUMNS
from suite.measurement.catalog import CHOSEN
from suite.measurement.certificate import KINDS, STATIONARY
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Column, Measurement
from suite.measurement.stationarity import PASSAGE_COLUMNS, TRIAL_COLUMNS

_INTRODUCTION = """# Measurements

This page is generated from the registry of measurements (`make reference`). docs/science.md says why they are what
they are.

A measurement fills columns of `records.parquet`, and those of a trial's last record are also in `trials.parquet`,
lists aside. All are of the full batch, at the weights before the step. G is the scaled squared gradient norm
Σ_l P_l ‖∇_l‖²; hats are unit vectors; ε in a formula of descent is the machine's. Lists "through the query tower, then
the key tower" have an entry per trained weight, bias or layer. A number that is not defined, such as the rank of
embeddings that are all zero, is empty.

**When.** `measure` in the YAML says when each is made: `start`, `end`, `decades` (steps 1, 10, 100, …), `always` (every
record), `never`, `{every: k}` (every k-th record and the last), or a list of these:

```yaml
measure: {curvature: [start, end], kernel: decades, angles: {every: 4}, linearization: never}
```

`measure: none` makes none that can be left out. Nothing in `measure` changes a trial's id or a bit of its training, so
it may be changed between runs: what is asked for at the end is then made from checkpoints, with a notice, and earlier
records stay empty. `certificate` takes `end` or `never`. Costly measurements of trials in one lane are made side by
side, as soon as a lane has as many points that wait as it has slots, or when it commits.

**Cost** is in gradients of the trial itself, of which each step takes one; `stillpoint plan` turns it into time.

**In a notebook**, any of them at any checkpoint, or at the start:

```python
from suite import load_checkpoint, measure

point = load_checkpoint("results/quickstart", "m128-L1-s0")
measure(point, "curvature", "kernel")  # a dict of columns
measure(point, precision="float64")  # all that are made by default, in 64 bits
```
"""

_RULES = """### Kinds of end points

The first rule that applies decides. g is `scaled_grad_norm_sq_float64`, φ is `gradient_noise_sq`; `stationary_below`
(1e-4) and `stationary_below_relative` (1e-2) are settings of the experiment: when they change, kinds are told anew
without training, unless the stop says to go on: that is `budget.stop_below`, or half of both if that is left out.

| kind | rule | meaning |
|---|---|---|
"""

_RULE_OF = {
    "diverged": "the loss or G is not finite",
    "dead": "`dead_share` of a view > 0.5",
    "noise-floor": "g > `stationary_below`, and g ≤ 10 φ",
    "not-stationary": "g > `stationary_below`",
    "flat-start": "g > `stationary_below_relative` · max_t G_t",
    "collapsed": "`least_spread` ≤ 1e-3",
    "escaping": "the loss can fall for ever (dot similarity, or a trained scale), `norm_growth` > 2, and "
    "`lambda_max` < 0.1 `lambda_max_peak`",
    "saddle-like": "`lambda_min` + its residual < −0.05 `lambda_max`",
    "minimum-like": "`lambda_min` − its residual ≥ −1e-3 `lambda_max`, and the residual ≤ 1e-4 `lambda_max`",
    "undetermined": "none of these",
}


def markdown() -> str:
    """The page."""
    known = sorted(MEASUREMENTS.values(), key=lambda m: (m.can_be_left_out, m.default != Moments.ALWAYS, not m.default))
    parts = [_INTRODUCTION, _overview(known)]
    parts += [_section(measurement) for measurement in known]
    parts += ["## Passages\n\nThe columns of `passages.parquet`, one row per trial and threshold.\n"]
    parts += [_table(PASSAGE_COLUMNS), "## Trials\n\nColumns of `trials.parquet` that follow from all steps.\n"]
    parts += [_table(TRIAL_COLUMNS), "## Across trials\n\nColumns that `analysis.load_results` adds.\n"]
    parts += [_table(DERIVED_COLUMNS)]
    return "\n".join(parts)


def write(root: Path) -> None:
    """Write the page where it is committed."""
    (root / "docs" / "measurements.md").write_text(markdown(), encoding="utf-8")


def _overview(known: Iterable[Measurement]) -> str:
    rows = [f"| [`{m.name}`](#{m.name}) | {_default(m)} | {m.cost} |" for m in known]
    return "\n".join(["| measurement | by default | cost of one |", "|---|---|---|", *rows, ""])


def _default(measurement: Measurement) -> str:
    return str(measurement.default) if measurement.name in CHOSEN else "always; cannot be left out"


def _section(measurement: Measurement) -> str:
    head = f"## {measurement.name}\n\n{measurement.summary}\n\nBy default: {_default(measurement)}. "
    cost = f"Cost of one: {measurement.cost}.\n\n"
    kinds = f"\n{_kinds()}" if measurement.of_trial else ""
    return head + cost + _table(measurement.columns) + kinds


def _table(columns: Iterable[Column]) -> str:
    rows = [f"| `{c.name}` | {_cell(c.formula)} | {_cell(c.unit)} | {_cell(c.source)} |" for c in columns]
    return "\n".join(["| column | formula | unit | source |", "|---|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _kinds() -> str:
    rows = [f"| {kind} | {_RULE_OF[kind]} | {meaning} |" for kind, meaning in KINDS.items()]
    counted = f"\nAs stationary count: {', '.join(kind for kind in KINDS if kind in STATIONARY)}.\n"
    return _RULES + "\n".join([*rows, ""]) + counted
