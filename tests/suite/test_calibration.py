"""Calibration on the real device: what is tried, when it ends, and that a copied trial costs what a drawn one does."""

import pytest
import torch

from suite import calibration
from suite.calibration import measure
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, Resources, TrialSettings
from suite.training.lane import Lane
from suite.training.losses import InfoNCE, Sigmoid
from suite.training.optimizers import Adam


def settings_of(width: int = 8, **changes: object) -> TrialSettings:
    changes = {"data": Sphere(samples=8, input_dim=4)} | changes
    return TrialSettings(encoder=Encoder(width=width, depth=1, embedding_dim=4), **changes)


def tried(**arguments: object):
    return measure(settings_of(), **{"num_trials": 10**6, "threads": 1, "gpus": 0} | arguments)


def test_stacks_double_until_they_gain_nothing():
    timings = tried()
    assert list(timings.seconds) == [2**i for i in range(len(timings.seconds))]
    assert timings.limit == "speed"
    assert timings.seconds[8] < timings.seconds[1]  # of so small a trial, a step is calls and little else


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_no_stack_is_larger_than_there_are_trials(number: int):
    timings = tried(num_trials=number)
    assert max(timings.seconds) <= number < 2 * max(timings.seconds)
    assert timings.limit == "trials"


def test_no_stack_is_larger_than_memory(monkeypatch: pytest.MonkeyPatch):
    room = 5 * calibration.slot_bytes(settings_of(), itemsize=4)
    monkeypatch.setattr(calibration, "_memory_bytes", lambda *given: room)
    timings = tried()
    assert max(timings.seconds) == 4
    assert timings.limit == "memory"


def test_a_trial_alone_may_be_larger_than_planned_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "_memory_bytes", lambda *given: 1)
    assert list(tried().seconds) == [1]


def test_a_number_that_is_prescribed_is_taken():
    timings = tried(slots=3)
    assert list(timings.seconds) == [3]
    assert timings.limit == "prescribed"


def test_a_long_step_ends_the_search(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "LONG_STEP", 1e-9)
    assert list(tried().seconds) == [1]


@pytest.mark.parametrize(
    "changes", [{}, {"loss": Sigmoid(trainable=True)}, {"loss": InfoNCE(negatives=3)}, {"optimizer": Adam()}]
)
def test_a_repeated_trial_is_the_same_in_every_slot(changes: dict):
    settings = settings_of(**changes)
    lane = Lane(settings, slots=3, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))
    lane.fill(0, settings)
    lane.repeat(0)
    lane.advance(20)
    assert lane.step.tolist() == [19] * 3
    for stack in [*lane.pair.tensors(), lane.eta]:
        assert torch.equal(stack, stack[:1].expand_as(stack))
    alone = Lane(settings, slots=3, budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))
    alone.fill(0, settings)
    alone.advance(20)
    for mine, theirs in zip(lane.pair.weights, alone.pair.weights, strict=True):
        assert torch.equal(mine[0], theirs[0])


def test_a_lane_may_use_its_part_of_memory():
    assert Resources().cpus == 1
    whole, part = calibration._memory_bytes(10**6, 0, None), calibration._memory_bytes(1, 0, None)
    assert 0 < part <= whole
