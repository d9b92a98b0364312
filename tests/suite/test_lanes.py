"""Lanes: every task in exactly one, slots as measured, and none slow to plan."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from suite.experiment import Budget, Encoder, Experiment, TrialSettings
from suite.lanes import LONGEST_SECONDS, Cost, groups, plan_lanes, shape_key
from suite.trials import Task, expand, missing


def tasks_of(sweep: dict[str, object]) -> tuple[Experiment, list[Task]]:
    experiment = Experiment(name="t", sweep=sweep, budget=Budget(steps=1000))
    return experiment, missing(expand(experiment).trials, {}, experiment)


@settings(deadline=None)
@given(
    widths=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
    seeds=st.integers(1, 40),
    slots=st.sampled_from([1, 4, 16]),
    seconds=st.floats(1e-6, 10),
    workers=st.integers(1, 64),
)
def test_each_task_is_in_one_lane_of_its_shape(widths, seeds, slots, seconds, workers):
    experiment, tasks = tasks_of({"encoder.width": widths, "seed": list(range(seeds))})
    costs = {key: Cost(slots, seconds) for key in groups(tasks)}
    lanes = plan_lanes(tasks, costs, experiment=experiment, num_workers=workers)
    assert sorted(t.trial_id for lane in lanes for t in lane.tasks) == sorted(t.trial_id for t in tasks)
    assert len({lane.name for lane in lanes}) == len(lanes)
    for lane in lanes:
        assert {shape_key(task.settings) for task in lane.tasks} == {lane.shape}
        assert lane.slots == slots
        if len(lane.tasks) > slots:  # a lane that could be cut
            assert lane.seconds <= 1.5 * LONGEST_SECONDS + 1000 * seconds
    assert [lane.seconds for lane in lanes] == sorted((lane.seconds for lane in lanes), reverse=True)


def test_only_what_shapes_the_tensors_or_the_loss_parts_lanes():
    base = TrialSettings()
    same = [base.model_copy(update={"seed": 3}), base]
    other = [
        base.model_copy(update={"encoder": Encoder(width=8)}),
        base.model_copy(update={"precision": "float64"}),
        base.model_copy(update={"epsilons": (0.1,)}),
    ]
    assert len({shape_key(settings) for settings in same}) == 1
    assert len({shape_key(settings) for settings in [base, *other]}) == 4


def test_ten_thousand_trials_are_expanded_identified_and_put_into_lanes_in_linear_time():
    """A ratio against a tenth of them, so that a busy machine does not fail it; quadratic work would give 100."""

    def seconds(seeds: int) -> float:
        began = time.process_time()
        experiment, tasks = tasks_of(
            {"encoder.width": [16, 32, 64, 128], "encoder.depth": [1, 2, 3, 4, 5], "seed": list(range(seeds))}
        )
        costs = {key: Cost(8, 1e-4) for key in groups(tasks)}
        lanes = plan_lanes(tasks, costs, experiment=experiment, num_workers=100)
        assert sum(len(lane.tasks) for lane in lanes) == 20 * seeds
        return time.process_time() - began

    seconds(50)
    assert seconds(500) < 30 * seconds(50)
