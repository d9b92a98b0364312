"""On a GPU: the same numbers as on a processor, captured steps that go on as slots are refilled, and a real sweep."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Terminal

from suite import calibration
from suite.data.digits import Digits
from suite.experiment import Budget, Encoder, TrialSettings
from suite.failures import is_out_of_memory
from suite.measurement.catalog import CHOSEN, Measure
from suite.measurement.moments import Moments
from suite.training.couplings import Alternating, Momentum, Shared, StopGradient
from suite.training.lane import Lane
from suite.training.learning_rates import SharpnessRule, WidthRule
from suite.training.loop import Job, Loop, Outcome
from suite.training.losses import InfoNCE, NTXent, Sigmoid, Spectral, SupCon
from suite.training.optimizers import Adam, GradientDescent, StochasticGradientDescent
from suite.training.repeated import WARM_UP
from suite.training.schedules import InverseSqrt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine"),
]
DEVICE = "cuda"
TIMES = ("timestamp_ms", "started_ms", "ended_ms", "wall_seconds")
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": {"encoder": Encoder(width=16, depth=3, embedding_dim=4, residual=True)},
    "linearized": {"encoder": Encoder(width=16, depth=2, embedding_dim=4, linearized=True)},
    "ends-and-biases": {"encoder": Encoder(width=16, depth=2, embedding_dim=4, train_ends=True, biases=True)},
    "gelu": {"encoder": Encoder(width=16, depth=2, embedding_dim=4, activation="gelu", parametrization="ntk")},
    "mup-dot": {
        "encoder": Encoder(width=16, depth=2, embedding_dim=4, parametrization="mup"),
        "loss": InfoNCE(similarity="dot", symmetric=True),
    },
    "drawn-negatives": {"loss": InfoNCE(negatives=5)},
    "nt_xent": {"loss": NTXent()},
    "sigmoid": {
        "loss": Sigmoid(trainable=True),
        "optimizer": GradientDescent(learning_rate=WidthRule(c=0.001)),  # at a large one rounding grows fast
    },
    "spectral": {"loss": Spectral()},
    "supcon": {"loss": SupCon()},
    "alternating": {"coupling": Alternating()},
    "stop_gradient": {"coupling": StopGradient()},
    "momentum": {"coupling": Momentum()},
    "shared": {"coupling": Shared()},
    "heavy-ball": {"optimizer": GradientDescent(learning_rate=WidthRule(c=0.05), momentum=0.9)},
    "sharpness": {"optimizer": GradientDescent(learning_rate=SharpnessRule(fraction=0.3))},
    "inverse-sqrt": {"optimizer": GradientDescent(schedule=InverseSqrt(warm_up=3))},
    "sgd": {"optimizer": StochasticGradientDescent(batch_size=6, learning_rate=WidthRule(c=0.05))},
    "adam": {"optimizer": Adam(learning_rate=WidthRule(c=0.001), batch_size=6)},
}


def settings_of(seed: int, *, precision: str = "float64", c: float = 0.1, **changes: Any) -> TrialSettings:
    plain = {
        "data": Digits(samples=16),
        "encoder": Encoder(width=16, depth=2, embedding_dim=4),
        "loss": InfoNCE(),
        "optimizer": GradientDescent(learning_rate=WidthRule(c=c)),
    }
    return TrialSettings(**plain | changes, seed=seed, precision=precision)


def trained(
    jobs: Sequence[Job], *, slots: int, steps: int = 60, device: str = DEVICE, measure: Measure | None = None
) -> tuple[dict[str, Outcome], dict[str, list[dict[str, Any]]]]:
    """Outcomes and records by trial, without clock times."""
    loop = Loop(
        jobs,
        slots=slots,
        budget=Budget(steps=steps),
        stop_below=0,
        measure=measure,
        device=device,
    )
    while not loop.done:
        loop.run_chunk()
    outcomes, records = loop.take()
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault(record["trial_id"], []).append({k: v for k, v in record.items() if k not in TIMES})
    return {outcome.trial_id: outcome for outcome in outcomes}, rows


def near(value: Any) -> Any:
    """A rate that follows from a curvature is rounded too."""
    return pytest.approx(value, rel=1e-9) if isinstance(value, float) else value


@pytest.mark.parametrize("case", CASES)
def test_every_number_is_that_of_a_processor(case: str):
    """In float64: two devices round differently, and training lets that grow."""
    settings = [settings_of(seed, **CASES[case]) for seed in range(2)]
    jobs = [Job(trial_id=str(one.seed), settings=one) for one in settings]
    outcomes, records = trained(jobs, slots=2)
    expected_outcomes, expected = trained(jobs, slots=2, device="cpu")
    for trial_id, rows in expected.items():
        assert [row["step"] for row in records[trial_id]] == [row["step"] for row in rows]
        for mine, theirs in zip(records[trial_id], rows, strict=True):
            assert mine.keys() == theirs.keys()
            for name, value in theirs.items():
                if isinstance(value, (float, list)):
                    close = {"rtol": 1e-6, "atol": 1e-10, "err_msg": f"{name} at step {theirs['step']}"}
                    np.testing.assert_allclose(mine[name], value, **close)
                else:
                    assert mine[name] == value, name
        assert outcomes[trial_id].row["status"] == expected_outcomes[trial_id].row["status"] == "finished"
        for mine, theirs in zip(outcomes[trial_id].passages, expected_outcomes[trial_id].passages, strict=True):
            assert mine == {name: near(value) for name, value in theirs.items()}


def test_what_is_measured_on_request_is_that_of_a_processor():
    jobs = [Job(trial_id=str(seed), settings=settings_of(seed)) for seed in range(2)]
    everything = dict.fromkeys(CHOSEN, Moments.END)
    outcomes, _ = trained(jobs, slots=2, measure=everything)
    expected, _ = trained(jobs, slots=2, measure=everything, device="cpu")
    for trial_id, outcome in expected.items():
        for name, value in outcome.row.items():
            if isinstance(value, float) and name not in TIMES and not name.endswith("residual"):
                np.testing.assert_allclose(outcomes[trial_id].row[name], value, rtol=1e-4, atol=1e-9, err_msg=name)


def lane_of(settings: TrialSettings, *, slots: int) -> Lane:
    lane = Lane(settings, slots=slots, budget=Budget(steps=1000), stop_below=0, device=torch.device(DEVICE))
    for slot in range(slots):
        lane.fill(slot, settings)
    return lane


@pytest.mark.parametrize("case", CASES)
def test_steps_are_captured_as_a_graph(case: str, caplog: pytest.LogCaptureFixture):
    lane = lane_of(settings_of(0, precision="float32", **CASES[case]), slots=2)
    with caplog.at_level(logging.WARNING):
        lane.advance(WARM_UP + 3)
    assert not caplog.records
    assert lane._step_and_evaluate._graph is not None


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_waits_for_no_step():
    lane = lane_of(settings_of(0), slots=2)
    lane.advance(WARM_UP + 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        lane.advance(5)
        with pytest.raises(RuntimeError, match="synchroniz"):
            lane.active.tolist()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", ["plain", "alternating"])
def test_refilled_slots_give_the_bits_of_trials_alone(case: str):
    """Slots are refilled after the capture, and a diverging trial is among them."""
    rates = (0.1, 0.2, 0.05, 1e30, 0.3, 0.02, 0.15)
    loss = InfoNCE(similarity="dot")
    jobs = [
        Job(trial_id=str(seed), settings=settings_of(seed, precision="float32", c=c, loss=loss, **CASES[case]))
        for seed, c in enumerate(rates)
    ]
    outcomes, together = trained(jobs, slots=3)
    assert outcomes["3"].row["status"] == "diverged"
    for job in jobs:
        _, alone = trained([job], slots=3)
        assert json.dumps(together[job.trial_id]) == json.dumps(alone[job.trial_id])


@pytest.mark.parametrize("case", ["plain", "adam", "momentum"])
def test_a_halted_trial_continues_to_the_bit(case: str):
    settings = settings_of(5, precision="float32", **CASES[case])
    halted, _ = trained([Job(trial_id="t", settings=settings)], slots=2, steps=37)
    again, _ = trained([Job(trial_id="t", settings=settings, state=halted["t"].state)], slots=2)
    straight, _ = trained([Job(trial_id="t", settings=settings)], slots=2)
    assert again["t"].passages == straight["t"].passages
    for name, value in straight["t"].state.items():
        np.testing.assert_array_equal(again["t"].state[name], value, err_msg=name)


def test_a_lane_leaves_no_memory_behind():
    lane_of(settings_of(0), slots=2).advance(WARM_UP + 3)  # what libraries take once
    before = torch.cuda.memory_allocated()
    lane = lane_of(settings_of(0, encoder=Encoder(width=512, depth=2, embedding_dim=4)), slots=4)
    lane.advance(WARM_UP + 3)
    assert torch.cuda.memory_allocated() > before + 4 * 512**2 * 8
    del lane
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_a_gpu_that_has_no_room_is_told_as_such():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2**45, device=DEVICE)
    assert is_out_of_memory(caught.value)


def test_narrow_trials_are_stacked():
    settings = settings_of(0, precision="float32")
    timings = calibration.measure(settings, num_trials=64, threads=1, gpus=1)
    assert timings.seconds[64] < timings.seconds[1] / 8


def test_a_sweep_runs_on_a_gpu(terminal: Terminal):
    terminal.write("sweep.yaml", SWEEP)
    output = terminal("run", "sweep.yaml", "--results", "results")
    assert "Traceback" not in output
    trials = pd.read_parquet(terminal.folder / "results" / "sweep" / "trials.parquet")
    assert len(trials) == 40
    assert set(trials.status) == {"finished"}
    assert set(trials.hardware) == {torch.cuda.get_device_name()}
    assert trials.slots.min() > 1
    assert "nothing left to train" in terminal("run", "sweep.yaml", "--results", "results")


SWEEP = """\
name: sweep
description: Two shapes on a GPU.
data: {source: digits, samples: 32}
encoder: {depth: 2, embedding_dim: 8}
budget: {steps: 300}
resources: {gpus: 1}
sweep:
  encoder.width: [16, 32]
  seed: {range: 20}
"""
