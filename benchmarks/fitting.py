"""How long fits take: `python -m benchmarks.fitting` prints an additive law of 250 rows with 1,000 bootstrap tables and
each law on 120 and on 10,000 rows."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from analysis.fitting import fit_law
from analysis.laws import LAWS

THETA = {
    "power": (3.9, 0.5),
    "multiplicative": (7.6, 0.5, 0.8),
    "offset-power": (300.0, 10.3, 1.0),
    "additive": (100.0, 10.3, 1.0, 6.4, 1.2),
    "broken-power": (7.6, 0.2, 1.2, 4.85),
}
"""Parameters in fitted coordinates."""


def table(law: str, rows: int) -> tuple[pd.DataFrame, list[str]]:
    """About so many rows: seeds x 5 widths x 3 depths, or 5 depths of 250 rows."""
    depths = [1.0, 2, 4, 8, 16] if rows == 250 else [1.0, 2, 4]
    seeds = range(max(1, rows // (5 * len(depths))))
    index = pd.MultiIndex.from_product([seeds, 2.0 ** np.arange(5, 10), depths], names=["seed", "width", "depth"])
    frame = index.to_frame(index=False)
    x = ["width", "depth"] if law in ("multiplicative", "additive") else ["width"]
    median = LAWS[law].log_median(np.array(THETA[law]), np.log(frame[x].to_numpy()))
    return frame.assign(y=np.exp(median + 0.15 * np.random.default_rng(0).normal(size=len(frame)))), x


def seconds(law: str, rows: int, **options: int) -> tuple[float, int]:
    """Wall of one fit, and how many rows it had."""
    frame, x = table(law, rows)
    began = time.perf_counter()
    fit_law(frame, law=law, y="y", x=x, **options)  # type: ignore[arg-type]
    return time.perf_counter() - began, len(frame)


def main() -> None:
    """Print all."""
    took, rows = seconds("additive", 250, bootstrap=1000)
    print(f"additive in two variables, {rows} rows, 1,000 bootstrap tables: {took:.2f} s", flush=True)
    for law in LAWS:
        for wanted in (120, 10_000):
            took, rows = seconds(law, wanted)
            print(f"{law}, {rows} rows: {took:.2f} s", flush=True)


if __name__ == "__main__":
    main()
