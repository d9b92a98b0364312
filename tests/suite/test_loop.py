"""A queue of trials through a lane: no trial's numbers depend on neighbours, slots, restarts or how steps are cut."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.measurement.moments import Moments
from suite.training.learning_rates import WidthRule
from suite.training.loop import CHUNK_SECONDS, Job, Loop, Outcome
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent

TIMES = ("timestamp_ms", "started_ms", "ended_ms", "wall_seconds")
DIVERGING = 1e30


def settings_of(seed: int, *, c: float = 0.2, precision: str = "float32") -> TrialSettings:
    return TrialSettings(
        data=Sphere(samples=8, input_dim=6),
        encoder=Encoder(width=16, depth=2, embedding_dim=4),
        loss=InfoNCE(similarity="dot" if c >= DIVERGING else "cosine"),
        optimizer=GradientDescent(learning_rate=WidthRule(c=c)),
        seed=seed,
        precision=precision,
    )


def dot(seed: int, c: float) -> TrialSettings:
    return settings_of(seed).model_copy(
        update={"loss": InfoNCE(similarity="dot"), "optimizer": GradientDescent(learning_rate=WidthRule(c=c))}
    )


def job(name: str, settings: TrialSettings, state: dict[str, np.ndarray] | None = None) -> Job:
    return Job(trial_id=name, settings=settings, state=state)


def trained(
    jobs: Sequence[Job], *, slots: int, steps: int = 100, time: float | None = None, **stops: float
) -> tuple[dict[str, Outcome], dict[str, list[dict[str, Any]]]]:
    """Outcomes and records by trial, without clock times."""
    loop = Loop(jobs, slots=slots, budget=Budget(steps=steps, time=time), **{"stop_below": 0} | stops)
    while not loop.done:
        loop.run_chunk()
    outcomes, records = loop.take()
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        timeless = {name: value for name, value in record.items() if name not in TIMES}
        rows.setdefault(record["trial_id"], []).append(timeless)
    return {outcome.trial_id: outcome for outcome in outcomes}, rows


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], rtol: float) -> None:
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for name in ("loss", "grad_norm_sq", "scaled_grad_norm_sq", "displacement", "grad_norm_sq_by_layer"):
        a, b = ([row[name] for row in rows] for rows in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12 if name == "displacement" else 0, err_msg=name)


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-4), ("float64", 1e-10)])
def test_a_trial_alone_equals_the_same_trial_among_others(precision: str, rtol: float):
    jobs = [job(str(seed), settings_of(seed, precision=precision)) for seed in range(4)]
    _, together = trained(jobs, slots=4)
    for one in jobs:
        _, alone = trained([one], slots=1)
        assert alone[one.trial_id][-1]["step"] == 100
        assert_close(alone[one.trial_id], together[one.trial_id], rtol)


def test_refilled_slots_give_the_records_of_trials_run_one_by_one():
    """Trials of unequal length, so that slots are refilled at odd moments; equal to the bit at equal stack size."""
    jobs = [job(str(seed), dot(seed, c)) for seed, c in enumerate((0.05, 2.0, 0.3, 0.7, 0.05, 1.5, 0.2))]
    outcomes, together = trained(jobs, slots=3, steps=400, time=60)
    lengths = {outcome.row["steps"] for outcome in outcomes.values()}
    assert len(outcomes) == len(jobs)
    assert len(lengths) >= 5
    for one in jobs:
        alone_outcome, alone = trained([one], slots=3, steps=400, time=60)
        assert together[one.trial_id] == alone[one.trial_id]
        mine, theirs = outcomes[one.trial_id], alone_outcome[one.trial_id]
        assert mine.passages == theirs.passages
        assert {k: v for k, v in mine.row.items() if k not in TIMES} == {
            k: v for k, v in theirs.row.items() if k not in TIMES
        }


def test_a_diverging_trial_leaves_its_neighbours_records_bit_identical():
    good = [job("a", dot(1, 0.2)), job("b", dot(2, 0.2))]
    bad = job("bad", dot(3, DIVERGING))
    outcomes, beside = trained([good[0], bad, good[1]], slots=3)
    assert outcomes["bad"].row["status"] == outcomes["bad"].row["ended_by"] == "diverged"
    assert outcomes["bad"].state is None
    _, calm = trained([good[0], job("calm", dot(3, 0.2)), good[1]], slots=3)
    for name in ("a", "b"):
        assert outcomes[name].row["status"] == "finished"
        assert beside[name] == calm[name]


@pytest.mark.parametrize("halt", [1, 37, 64, 100])
def test_a_trial_continued_from_its_state_equals_one_never_halted(halt: int):
    settings = settings_of(5)
    outcomes, first = trained([job("t", settings)], slots=2, steps=halt)
    state = outcomes["t"].state
    assert state is not None
    again, second = trained([job("t", settings, state)], slots=2, steps=250)
    straight, whole = trained([job("t", settings)], slots=2, steps=250)
    on_grid = {row["step"] for row in whole["t"]}
    joined = {row["step"]: row for row in [*first["t"], *second["t"]] if row["step"] in on_grid}
    expected = [{k: v for k, v in row.items() if k != "final"} for row in whole["t"]]
    assert [{k: row[k] for k in other} for row, other in zip(joined.values(), expected, strict=True)] == expected
    more = [set(row) - set(other) for row, other in zip(joined.values(), whole["t"], strict=True)]
    assert not any(names for row, names in zip(whole["t"], more, strict=True) if row["step"] != halt)  # once its end
    assert again["t"].passages == straight["t"].passages
    for name, value in straight["t"].state.items():
        np.testing.assert_array_equal(again["t"].state[name], value, err_msg=name)


def test_a_trial_halted_in_mid_run_continues_to_the_bit():
    settings = settings_of(6)
    loop = Loop([job("t", settings)], slots=2, budget=Budget(steps=200), stop_below=0)
    for _ in range(9):
        loop.run_chunk()
    state, _ = loop.states()["t"]
    assert 0 < int(state["step"]) < 200
    again, _ = trained([job("t", settings, state)], slots=2, steps=200)
    straight, _ = trained([job("t", settings)], slots=2, steps=200)
    for name, value in straight["t"].state.items():
        np.testing.assert_array_equal(again["t"].state[name], value, err_msg=name)


def test_records_lie_on_the_log_spaced_grid_and_at_the_end():
    outcomes, records = trained([job("t", settings_of(0))], slots=1, steps=90)
    grid = sorted({round(10 ** (k / 16)) for k in range(32)})
    assert [row["step"] for row in records["t"]] == [0, *(step for step in grid if step < 90), 90]
    assert [row["final"] for row in records["t"]] == [False] * (len(records["t"]) - 1) + [True]
    assert outcomes["t"].row["ended_by"] == "steps"


def test_time_ends_a_trial_where_eta_times_step_reaches_it():
    outcomes, records = trained([job("t", settings_of(0, c=0.3))], slots=1, steps=90, time=6.2)
    assert outcomes["t"].row["ended_by"] == "time"
    assert outcomes["t"].row["steps"] == 21
    assert outcomes["t"].row["time"] == pytest.approx(6.3)
    assert records["t"][-1]["step"] == 21


def test_a_trial_stops_at_the_first_step_at_or_below_stop_below():
    _, every = trained([job("t", settings_of(0).model_copy(update={"records_per_decade": 1000}))], slots=1, steps=60)
    g = {row["step"]: row["scaled_grad_norm_sq"] for row in every["t"]}
    limit = g[40]
    expected = next(step for step in sorted(g) if g[step] <= limit)
    outcomes, _ = trained([job("t", settings_of(0))], slots=1, steps=60, stop_below=limit)
    assert outcomes["t"].row["ended_by"] == "stop_below"
    assert outcomes["t"].row["steps"] == expected


@pytest.mark.parametrize("halt", [None, 1, 90])
def test_a_trial_stops_only_where_its_gradient_is_also_a_share_of_its_largest(halt: int | None):
    """Also where it was halted after its largest one."""
    steps = 200
    _, every = trained(
        [job("t", settings_of(0, c=0.5).model_copy(update={"records_per_decade": 1000}))], slots=1, steps=steps
    )
    g = np.array([row["scaled_grad_norm_sq"] for row in every["t"]])
    shares = g / np.maximum.accumulate(g)
    expected, share = int(shares.argmin()), 1.000001 * shares.min()
    stops = {"stop_below": 1e9, "stop_share": share}
    state = None
    if halt is not None:
        halted, _ = trained([job("t", settings_of(0, c=0.5))], slots=1, steps=halt, **stops)
        state = halted["t"].state
    outcomes, _ = trained([job("t", settings_of(0, c=0.5), state)], slots=1, steps=steps, **stops)
    assert outcomes["t"].row["ended_by"] == "stop_below"
    assert outcomes["t"].row["steps"] == expected > 90 > g.argmax()
    unstopped, _ = trained([job("t", settings_of(0, c=0.5))], slots=1, steps=steps, stop_below=0.0, stop_share=share)
    assert unstopped["t"].row["ended_by"] == "steps"


def test_slack_is_the_promised_decrease_over_twice_the_real_one():
    dense = settings_of(0).model_copy(update={"records_per_decade": 1000, "precision": "float64"})
    outcomes, records = trained([job("t", dense)], slots=1, steps=50)
    rows = records["t"]
    assert len(rows) == 51
    promised = 0.2 * sum(row["scaled_grad_norm_sq"] for row in rows[:-1])
    real = rows[0]["loss"] - rows[-1]["loss"]
    assert outcomes["t"].row["slack"] == pytest.approx(promised / (2 * real), rel=1e-10)


def test_a_trial_whose_data_cannot_be_drawn_fails_alone(tmp_path):
    from suite.data.npz import Npz

    missing = settings_of(1).model_copy(update={"data": Npz(path=str(tmp_path / "gone.npz"), samples=8)})
    outcomes, _ = trained([job("bad", missing), job("good", settings_of(2))], slots=1, steps=5)
    assert outcomes["bad"].row["status"] == "failed"
    assert "no such file" in outcomes["bad"].row["error"]
    assert outcomes["good"].row["status"] == "finished"


def test_a_diverging_trial_leaves_its_successor_in_the_slot_as_it_would_be_alone():
    good, bad = job("good", dot(1, 0.2)), job("bad", dot(3, DIVERGING))
    outcomes, after = trained([bad, good], slots=1)
    assert [outcomes[name].row["status"] for name in ("bad", "good")] == ["diverged", "finished"]
    _, alone = trained([good], slots=1)
    assert after["good"] == alone["good"]


@pytest.mark.parametrize("kernel", [False, True])
def test_a_trial_out_of_minutes_ends_as_timeout_and_goes_on_to_the_bit(kernel: bool):
    measure = {"kernel": Moments.parse("decades")} if kernel else {}

    def run(jobs: list[Job], minutes: float | None) -> tuple[list[Outcome], list[dict[str, Any]]]:
        loop = Loop(jobs, slots=2, budget=Budget(steps=60, minutes=minutes), stop_below=0, measure=measure)
        while not loop.done:
            loop.run_chunk()
        return loop.take()

    jobs = [job(f"t{seed}", settings_of(seed)) for seed in range(3)]
    whole, rows = run(jobs, None)
    late, begun = run(jobs, 1e-9)
    assert [(o.row["status"], o.row["ended_by"], o.passages) for o in late] == [("timeout", "minutes", [])] * 3
    assert all("more minutes" in o.row["error"] and o.row["steps"] < 60 for o in late)
    states = {o.trial_id: o.state for o in late}
    again, rest = run([job(j.trial_id, j.settings, states[j.trial_id]) for j in jobs], None)
    assert {o.trial_id: timeless(o.row) for o in again} == {o.trial_id: timeless(o.row) for o in whole}
    key = ("trial_id", "step")
    both = sorted([*begun, *rest], key=lambda row: [row[name] for name in key])
    expected = sorted(rows, key=lambda row: [row[name] for name in key])
    assert [timeless(row) for row in both] == [timeless(row) for row in expected]


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def test_a_chunk_is_no_longer_than_a_lane_may_be_deaf():
    loop = Loop([job("t", settings_of(0))], slots=1, budget=Budget(steps=1000), stop_below=0)
    while loop.steps_done < 100:
        loop.run_chunk()
    before, loop._seconds_per_step = loop.steps_done, CHUNK_SECONDS / 3
    loop.run_chunk()
    assert loop.steps_done - before <= 3
