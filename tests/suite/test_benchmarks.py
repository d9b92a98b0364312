"""The benchmarks compare like with like: the same losses, the same products, and a page that says what was measured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import ensemble, pair
from benchmarks.command import Sweep
from benchmarks.growth import fitted
from benchmarks.lane import _calls, train_lane
from benchmarks.overheads import ending, tail
from benchmarks.page import NO_GPU, NOT_YET, page
from benchmarks.peers import train_share, within_rounding
from benchmarks.products import Products
from benchmarks.saved import FULL, NARROW, ROOT, origin, read
from benchmarks.starts import start_of, trials_of
from suite.experiment import Budget
from suite.loading import load_experiment
from suite.training.arithmetic import flops_per_step
from suite.training.loop import Job, Loop
from suite.training.records import record_steps

STEPS = 30


@pytest.mark.parametrize(
    "shape", [{"encoder__width": 16, "encoder__depth": 1}, {"encoder__width": 24, "encoder__depth": 3}]
)
def test_the_suite_and_its_peers_reach_the_same_losses(shape: dict[str, int]):
    trials = trials_of(NARROW, **shape, seed="{range: 2}")
    jobs = [Job(trial_id=trial.trial_id, settings=trial.settings) for trial in trials]
    loop = Loop(jobs, slots=2, budget=Budget(steps=STEPS), stop_below=0)
    while not loop.done:
        loop.run_chunk()
    _, rows = loop.take()
    records = pd.DataFrame(rows).pivot(index="step", columns="trial_id")
    ids, starts = [trial.trial_id for trial in trials], [start_of(trial) for trial in trials]
    alone = [pair.train(start, STEPS) for start in starts]
    stacked = ensemble.train(starts, STEPS)
    for column, field in (("loss", "losses"), ("scaled_grad_norm_sq", "scaled_grad_norm_sq")):
        ours = records[column][ids]
        in_turn = torch.stack([getattr(trained, field) for trained in alone], dim=1).numpy()
        np.testing.assert_allclose(in_turn[ours.index], ours, rtol=1e-4)
        np.testing.assert_allclose(getattr(stacked, field).numpy()[ours.index], ours, rtol=1e-4)


def test_a_share_of_the_trials_gives_losses_and_seconds_of_each():
    starts = [
        start_of(trial) for trial in trials_of(NARROW, encoder__width="[8, 12]", encoder__depth=1, seed="{range: 2}")
    ]
    tables = train_share((starts, 12), lambda: None)
    assert set(tables) == {"loop", "ensemble"}
    for rows in tables.values():
        assert sorted(rows.index) == sorted(start.trial_id for start in starts)
        assert (rows.seconds > 0).all()
    np.testing.assert_allclose(tables["loop"].loss, tables["ensemble"].loss[tables["loop"].index], rtol=1e-4)


def test_losses_that_are_no_numbers_or_far_apart_are_no_agreement():
    found = {"loss_10_most": 1e-6, "loss_median": 1e-3, "loss_most": 0.1}
    assert within_rounding(found)
    assert not within_rounding(found | {"loss_10_most": 1e-3})
    assert not within_rounding(found | {"loss_median": float("nan")})


@pytest.mark.parametrize(
    "shape", [{"encoder__width": 24, "encoder__depth": 3}, {"encoder__width": 16, "encoder__depth": 1}]
)
def test_the_ceiling_makes_the_products_of_a_step(shape: dict[str, int]):
    settings = trials_of(NARROW, **shape, seed=0)[0].settings
    products = Products(settings, slots=2)
    assert products.flops == 2 * flops_per_step(settings)
    assert products.rate(0.01) > 0


def test_a_lane_is_timed_as_if_it_were_longer():
    words = ["encoder.width=8", "encoder.depth=1", "seed={range: 2}", "budget.steps=20"]
    settings = [trial.settings for trial in trials_of(NARROW, encoder__width=8, encoder__depth=1, seed="{range: 2}")]
    experiment = load_experiment(NARROW, overrides=words)
    time = train_lane(settings, slots=2, experiment=experiment, as_if=1000)
    assert time.training > 0
    assert time.total > time.training
    loop = Loop([Job(trial_id="a", settings=settings[0])], slots=1, budget=Budget(steps=20), stop_below=0)
    assert _calls(loop, 1000)["trajectory"] == len(record_steps(1000, 16, ended=True))
    assert _calls(loop, 1000)["certificate"] == 1


def test_start_up_training_and_tail_are_read_off_the_tables(tmp_path: Path):
    lanes = {"a": (2.0, 9.0), "b": (2.5, 5.0), "c": (5.0, 8.0)}
    ends = [(lane, *(pd.Timestamp(t, unit="s", tz="UTC").isoformat() for t in both)) for lane, both in lanes.items()]
    trials = pd.DataFrame(ends, columns=["lane", "started_at", "ended_at"]).assign(epoch=1)
    trials.to_parquet(tmp_path / "trials.parquet")
    records = pd.DataFrame({"step": [0, 1, 2], "timestamp_ms": [2000, 2250, 2500]})
    records.to_parquet(tmp_path / "records.parquet")
    sweep = Sweep(began=1.0, wall=10.0, folder=tmp_path)
    assert sweep.start_up == 1.25
    assert sweep.training == 7.0
    assert tail(sweep, cores=2) == 1.0
    assert ending(sweep) == 2.0


def test_a_power_law_gives_its_exponent():
    assert fitted([1, 2, 4, 8, 16], [9, 9, 3 * 4**1.5, 3 * 8**1.5, 3 * 16**1.5])["exponent"] == pytest.approx(1.5)


def test_the_page_says_what_was_measured_and_what_was_not():
    empty = page({}, picture="ceiling.png")
    assert empty.count(NOT_YET) == 15
    rows = [
        {"width": w, "slots": 1, "steps": 9, "training": 7e9, "loop": 2e9, "loop_threads": 3e9, "ensemble": 1e9}
        | {"suite": suite, "ceiling": 8e9, "parts": {"flips": 0.02}}
        for w, suite in ((16, 6e9), (512, 6.4e9), (1024, 7e9), (2048, 6.96e9))
    ]
    lanes = {
        "nodes": 20,
        "lanes": 2000,
        "task_seconds": [6, 4, 5],
        "lane_seconds": [11, 12, 20],
        "grown": [3e6, 4e6, 2e6],
    }
    parts = {"ceiling": {**origin(), "rows": rows, "rounds": 3}, "gpu": {**origin(), "device": None}}
    parts["many_lanes"] = {**origin(), **lanes}
    text = page(parts, picture="pictures/ceiling.png")
    assert "| never below 0.97x | 2.33x, at width 16; with default measurements 2.00x, at width 16 |" in text
    assert "| 0.75 | 0.80, at width 512 |" in text
    assert "| 0.85 | 0.87, at width 2048 |" in text
    assert "| 16 | 1 | 8 | 0.75 | 0.88 | 0.25 | 0.38 | 0.12 |" in text
    assert "| flips | 2.0% | 2.0% | 2.0% | 2.0% |" in text
    assert "| at most 5 ms | 3.5 ms |" in text
    assert "| less than 20 MB | 4.0 MB |" in text
    assert "| 3 | 2.5 | 10.0 | 2.0 |" in text
    assert text.count(NO_GPU) == 2
    assert "](pictures/ceiling.png)" in text
    assert "## Beside its peers" not in text


def test_the_page_in_the_documentation_is_made_of_the_results():
    assert (ROOT / "docs" / "performance.md").read_text() == page(read(FULL), picture="pictures/ceiling.png")
