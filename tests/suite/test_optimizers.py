"""Optimizers, batches and schedules against PyTorch's own, and trials that stop and go on."""

import math

import numpy as np
import pytest
import torch
from reading import read

from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.training.batches import batch_rows
from suite.training.lane import Lane
from suite.training.learning_rates import SharpnessRule, WidthRule
from suite.training.loop import Job, Loop
from suite.training.optimizers import Adam, GradientDescent, Optimizer, StochasticGradientDescent
from suite.training.schedules import SCHEDULES, Constant, Cosine, InverseSqrt, Schedule

N = 8


def settings_of(optimizer: Optimizer, *, seed: int = 1, precision: str = "float64") -> TrialSettings:
    return TrialSettings(
        data=Sphere(samples=N, input_dim=6),
        encoder=Encoder(width=12, depth=2, embedding_dim=4),
        optimizer=optimizer,
        seed=seed,
        precision=precision,
    )


def lane_of(settings: TrialSettings, slots: int = 1) -> Lane:
    lane = Lane(settings, slots=slots, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))
    lane.fill(0, settings)
    return lane


def trained_by_torch(settings: TrialSettings, optimizer: type, steps: int, *, rate=None, **options) -> list:
    """The same weights under a PyTorch optimizer, one at a time, P folded into its rate."""
    pair = lane_of(settings).pair
    eta, factor = settings.optimizer.learning_rate.c, 4 / 12
    other = optimizer(pair.weights, lr=eta * factor, **options)
    scheduler = None if rate is None else torch.optim.lr_scheduler.LambdaLR(other, rate)
    for step in range(steps):
        rows = None
        if settings.optimizer.batch:
            found = batch_rows(settings.seed, samples=N, batch=settings.optimizer.batch, steps=range(step, step + 1))
            rows = torch.from_numpy(found)
        other.zero_grad()
        pair.loss(pair.weights, rows)[0].sum().backward()
        other.step()
        if scheduler is not None:
            scheduler.step()
    return [w.detach() for w in pair.weights]


def assert_like_torch(optimizer: Optimizer, theirs: type, steps: int = 40, *, rtol: float = 1e-11, **options) -> None:
    settings = settings_of(optimizer)
    lane = lane_of(settings)
    for length in (1, 7, steps - 7):
        lane.advance(length)
    expected = trained_by_torch(settings, theirs, steps, **options)
    for ours, other in zip(lane.pair.weights, expected, strict=True):
        torch.testing.assert_close(ours.detach(), other, rtol=rtol, atol=1e-12)


RATE = WidthRule(c=0.3)


def test_momentum_is_that_of_torch():
    assert_like_torch(GradientDescent(learning_rate=RATE, momentum=0.9), torch.optim.SGD, momentum=0.9)


def test_adam_is_that_of_torch():
    options = {"betas": (0.8, 0.99), "eps": 1e-7}
    adam = Adam(learning_rate=WidthRule(c=0.03), beta1=0.8, beta2=0.99, epsilon=1e-7)
    assert_like_torch(adam, torch.optim.Adam, rtol=1e-9, **options)


def test_sgd_sees_its_batches():
    sgd = StochasticGradientDescent(learning_rate=RATE, batch_size=3, momentum=0.5)
    assert_like_torch(sgd, torch.optim.SGD, momentum=0.5)


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        (Constant(warm_up=10), lambda t: min(1, (t + 1) / 10)),
        (InverseSqrt(), lambda t: 1 / math.sqrt(1 + t)),
        (InverseSqrt(steps=20, warm_up=5), lambda t: min(1, (t + 1) / 5) / math.sqrt(1 + t / 20)),
        (Cosine(steps=30, final=0.1), lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * min(t / 30, 1))) / 2),
    ],
)
def test_a_schedule_sets_the_rate_of_every_step(schedule: Schedule, rate):
    assert_like_torch(GradientDescent(learning_rate=RATE, schedule=schedule), torch.optim.SGD, rate=rate)
    sums = np.concatenate([[0], np.cumsum([rate(t) for t in range(200)])])
    for steps in (0, 1, 7, 31, 200):
        assert schedule.elapsed(steps) == pytest.approx(sums[steps], rel=1e-12)
    for duration in (0.3, 2.0, 9.7):
        last = schedule.last_step(duration, most=150)
        assert last == min(150, next((t for t in range(1, 201) if sums[t] >= duration), 150))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_elapsed_time_never_falls_and_comes_to_the_last_step(name: str):
    schedule = SCHEDULES[name](steps=50) if "steps" in SCHEDULES[name].model_fields else SCHEDULES[name]()
    elapsed = [schedule.elapsed(t) for t in range(2100)]
    assert elapsed[0] == 0
    assert elapsed == sorted(elapsed)
    assert schedule.last_step(elapsed[7], most=2000) == 7
    assert schedule.last_step(1e9, most=2000) == 2000


def records_of(settings: TrialSettings, *, steps: int, slots: int = 1, others: int = 0) -> list[dict]:
    jobs = [Job(trial_id=str(s), settings=settings.model_copy(update={"seed": s})) for s in range(1, 2 + others)]
    loop = Loop(jobs, slots=slots, budget=Budget(steps=steps), stop_below=0)
    while not loop.done:
        loop.run_chunk()
    rows = [row for row in loop.take()[1] if row["trial_id"] == "1"]
    return [{key: value for key, value in row.items() if key != "timestamp_ms"} for row in rows]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_sgd_on_all_samples_is_gd_to_the_bit(precision: str):
    gd = records_of(settings_of(GradientDescent(learning_rate=RATE), precision=precision), steps=60)
    whole = StochasticGradientDescent(learning_rate=RATE, batch_size=N)
    sgd = records_of(settings_of(whole, precision=precision), steps=60)
    for a, b in zip(gd, sgd, strict=True):
        for name in ("loss", "grad_norm_sq", "scaled_grad_norm_sq", "displacement", "grad_norm_sq_by_layer"):
            assert a[name] == b[name], (name, a["step"])


def test_g_is_that_of_the_full_batch_whatever_the_batch():
    settings = settings_of(StochasticGradientDescent(learning_rate=RATE, batch_size=2))
    lane = lane_of(settings)
    lane.advance(9)
    full = lane.pair.gradients()
    expected = 4 / 12 * sum(float(g.square().sum()) for g in full)
    assert read(lane)["scaled_grad_norm_sq"].item() == pytest.approx(expected, rel=1e-12)


def test_batches_of_an_epoch_are_disjoint_and_epochs_differ():
    rows = batch_rows(3, samples=10, batch=3, steps=range(6))
    for epoch in (rows[:3], rows[3:]):
        assert len(set(epoch.ravel().tolist())) == 9
    assert not np.array_equal(rows[:3], rows[3:])
    assert (np.diff(rows, axis=1) > 0).all()
    np.testing.assert_array_equal(batch_rows(3, samples=10, batch=3, steps=range(4, 6)), rows[4:])
    assert not np.array_equal(batch_rows(4, samples=10, batch=3, steps=range(6)), rows)


STATEFUL = [
    GradientDescent(learning_rate=RATE, momentum=0.9),
    StochasticGradientDescent(learning_rate=RATE, batch_size=3, momentum=0.8),
    Adam(learning_rate=WidthRule(c=0.02), batch_size=4, schedule=Cosine(steps=100)),
]


@pytest.mark.parametrize("optimizer", STATEFUL, ids=lambda o: o.name)
@pytest.mark.parametrize("halt", [1, 37])
def test_a_trial_goes_on_to_the_bit(optimizer: Optimizer, halt: int):
    settings = settings_of(optimizer, precision="float32")
    first = Loop([Job(trial_id="t", settings=settings)], slots=2, budget=Budget(steps=halt), stop_below=0)
    straight = Loop([Job(trial_id="t", settings=settings)], slots=2, budget=Budget(steps=90), stop_below=0)
    states = []
    for loop in (first, straight):
        while not loop.done:
            loop.run_chunk()
        states.append(loop.take()[0][0].state)
    again = Loop(
        [Job(trial_id="t", settings=settings, state=states[0])], slots=2, budget=Budget(steps=90), stop_below=0
    )
    while not again.done:
        again.run_chunk()
    resumed = again.take()[0][0]
    for name, value in states[1].items():
        np.testing.assert_array_equal(resumed.state[name], value, err_msg=name)


@pytest.mark.parametrize("optimizer", STATEFUL, ids=lambda o: o.name)
def test_refilled_slots_carry_nothing_over(optimizer: Optimizer):
    settings = settings_of(optimizer, precision="float32")
    assert records_of(settings, steps=30, slots=2) == records_of(settings, steps=30, slots=2, others=4)


def test_a_state_of_another_optimizer_starts_the_trial_anew():
    plain, heavy = settings_of(GradientDescent(learning_rate=RATE)), settings_of(STATEFUL[0])
    loop = Loop([Job(trial_id="t", settings=plain)], slots=1, budget=Budget(steps=5), stop_below=0)
    while not loop.done:
        loop.run_chunk()
    state = loop.take()[0][0].state
    again = Loop([Job(trial_id="t", settings=heavy, state=state)], slots=1, budget=Budget(steps=5), stop_below=0)
    again.run_chunk()
    assert again.records[0]["step"] == 0


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (StochasticGradientDescent(batch_size=9), "write at most 8"),
        (Adam(learning_rate=SharpnessRule()), "largest stable rate of full-batch gradient descent"),
    ],
)
def test_optimizers_that_make_no_sense_are_refused(optimizer: Optimizer, reason: str):
    with pytest.raises(ValueError, match=reason):
        settings_of(optimizer)
