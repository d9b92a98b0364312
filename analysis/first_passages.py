"""When the trials of each cell of a grid first came below a threshold on G."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.frames import ENDED, Results


def ended_passages(results: Results, epsilon: float, *, relative: bool = False) -> pd.DataFrame:
    """One row per trial that ended with its settings and T(ε) in `steps_to_stationarity`, 0 where it starts below ε.

    Trials that did not get there, diverged ones among them, are `censored` at their last step.
    """
    passages = results.passages
    chosen = passages[(passages.relative.astype(bool) == relative) & ((passages.epsilon / epsilon - 1).abs() < 1e-4)]
    rows = chosen.merge(results.trials[results.trials.status.isin(ENDED)], on="trial_id", validate="one_to_one")
    there = rows.reached.astype(bool) | rows.at_init.astype(bool)
    steps = rows.steps_to_stationarity.astype(float).where(~rows.at_init.astype(bool), 0.0).where(there, rows.steps)
    return rows.assign(censored=~there, steps_to_stationarity=steps)


def median_steps(passages: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """For each value of x and y: `trials`, how many `reached` ε, and the `median` T(ε) over all of them.

    A trial that did not get there counts as longer than all, so that the median is NaN where it is not known.
    """
    steps = passages.steps_to_stationarity.astype(float).where(~passages.censored.astype(bool), np.inf)
    table = passages[[x, y]].assign(steps=steps, reached=~passages.censored.astype(bool))
    cells = table.groupby([x, y]).agg(trials=("steps", "size"), reached=("reached", "sum"), median=("steps", "median"))
    return cells.reset_index().assign(median=lambda cell: cell["median"].where(np.isfinite(cell["median"])))
