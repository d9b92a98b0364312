"""Lanes: every task in exactly one, slots as measured, and none slow to plan."""

import time
from dataclasses import asdict, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from suite.experiment import Budget, Encoder, Experiment, TrialSettings
from suite.lanes import (
    LIMITS,
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    Cost,
    Timings,
    choose_slots,
    groups,
    makespan,
    plan_lanes,
    read_costs,
    read_timings,
    shape_key,
)
from suite.run import shape_costs
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
            assert lane.seconds <= 1.5 * LONGEST_SECONDS + 1000 * seconds * slots
    assert [lane.seconds for lane in lanes] == sorted((lane.seconds for lane in lanes), reverse=True)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    slots=st.integers(1, 20),
    seconds=st.floats(1e-6, 1e-2),
    workers=st.integers(1, 16),
)
def test_lanes_are_whole_stacks_but_for_the_last_of_a_shape(sizes, slots, seconds, workers):
    experiment, tasks = tasks_of({"encoder.width": [8 + i for i in range(len(sizes))], "seed": list(range(70))})
    few = [task for task in tasks if task.settings.seed < sizes[task.settings.encoder.width - 8]]
    costs = {key: Cost(slots, seconds) for key in groups(few)}
    lanes = plan_lanes(few, costs, experiment=experiment, num_workers=workers)
    for key, members in groups(few).items():
        counts = [len(lane.tasks) for lane in lanes if lane.shape == key]
        assert sum(count % slots != 0 for count in counts) == (len(members) % slots != 0)
        assert sum(-(-count // slots) for count in counts) == -(-len(members) // slots)  # no step more than needed


timings = st.builds(
    lambda seconds, limit: Timings({2**i: each for i, each in enumerate(seconds)}, limit),
    st.lists(st.floats(1e-6, 1e-1), min_size=1, max_size=8),
    st.sampled_from(["speed", "memory", "trials"]),
)


@given(timing=timings, trials=st.integers(1, 300), steps=st.integers(1, 10_000), workers=st.integers(1, 64))
def test_slots_are_never_slower_than_one_trial_after_another(timing, trials, steps, workers):
    cost = choose_slots({"a": timing}, {"a": trials}, steps=steps, workers=workers)["a"]
    assert cost.slots in timing.seconds
    assert cost.seconds_per_step == timing.seconds[cost.slots] <= timing.seconds[1] == cost.alone
    assert cost.slots <= max(1, trials)
    assert cost.limit in LIMITS


@given(
    measured=st.lists(timings, min_size=1, max_size=4),
    trials=st.lists(st.integers(1, 60), min_size=4, max_size=4),
    workers=st.integers(1, 16),
)
def test_sweeps_do_not_end_later_than_with_any_one_bound_on_stacks(measured, trials, workers):
    tables = {str(i): timing for i, timing in enumerate(measured)}
    numbers = {str(i): trials[i] for i in range(len(measured))}
    steps = 10_000

    def end(slots: dict[str, int]) -> float:
        lanes = [
            tables[key].seconds[slots[key]] * slots[key] * steps
            for key in tables
            for _ in range(-(-numbers[key] // slots[key]))
        ]
        return makespan(sorted(lanes, reverse=True), workers)

    chosen = choose_slots(tables, numbers, steps=steps, workers=workers)
    mine = end({key: cost.slots for key, cost in chosen.items()})
    assert mine <= end(dict.fromkeys(tables, 1)) + 0.1 * SHORTEST_SECONDS
    free = choose_slots(tables, numbers, steps=steps, workers=1)
    assert mine <= end({key: cost.slots for key, cost in free.items()}) + 0.1 * SHORTEST_SECONDS


def test_why_a_stack_is_as_large_as_it_is():
    seconds = {1: 1e-4, 2: 6e-5, 4: 4e-5, 8: 3e-5}

    def limit(measured: dict[int, float], why: str, *, trials: int = 1000, steps: int = 100_000, workers: int = 1):
        cost = choose_slots({"a": Timings(measured, why)}, {"a": trials}, steps=steps, workers=workers)["a"]
        return cost.slots, cost.limit

    assert limit(seconds, "memory") == (8, "memory")
    assert limit(seconds, "trials", trials=8) == (8, "trials")
    assert limit(seconds, "trials", trials=8, workers=2) == (4, "workers")  # 16 s instead of 24 s
    assert limit(seconds, "trials", trials=8, workers=8) == (1, "workers")
    assert limit({**seconds, 16: 3e-5, 32: 3.1e-5}, "speed") == (8, "speed")
    assert limit(seconds, "memory", trials=5) == (4, "trials")
    assert limit({3: 1e-4}, "prescribed") == (3, "prescribed")


def test_more_trials_than_calibration_had_ask_for_another():
    tried = {1: 3e-4, 2: 2e-4, 4: 1e-4}
    assert Timings(tried, "trials").serve(7)
    assert not Timings(tried, "trials").serve(8)
    assert Timings(tried, "speed").serve(10**6)
    assert Timings(tried, "memory").serve(10**6)


def table(slots_of_best: int) -> Timings:
    return Timings({2**i: 1e-4 / min(2**i, slots_of_best) for i in range(8)}, "speed")


def chosen(
    sweep: dict[str, object], *, left: int | None = None, earlier: dict | None = None, checkpoint: bool = False
) -> dict[str, Cost]:
    """As `plan` and `run` choose for the last `left` trials of a sweep on two workers."""
    experiment, tasks = tasks_of(sweep)
    trials = expand(experiment).trials
    tasks = tasks if left is None else tasks[-left:]
    if checkpoint:
        tasks = [replace(task, checkpoint="lanes/0/00000/1/0.zip", step=10) for task in tasks]
    return shape_costs(
        tasks,
        trials,
        experiment,
        earlier=earlier or {},
        calibrate=lambda requests: {key: table(16) for key in requests},
        workers=2,
    )


def test_more_trials_are_stacked_higher_but_an_interruption_changes_no_slots(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few, many = {"seed": list(range(4))}, {"seed": list(range(66))}
    (key, first), *_ = chosen(few).items()
    again = chosen(many, earlier={key: first})[key]
    assert first.slots < again.slots == chosen(many)[key].slots
    assert chosen(many, left=3, earlier={key: again})[key] == again  # all but three have ended
    assert chosen(many, left=3)[key].slots == again.slots  # and nothing was kept
    assert chosen(many, earlier={key: first}, checkpoint=True)[key] == first  # they go on with the bits they have
    assert chosen(few, earlier={key: again})[key] == again


def test_costs_of_other_versions_and_damaged_ones_are_chosen_again():
    sound = Cost(4, 1e-4, 2e-4, "speed", 8)
    entries = {"a": asdict(sound), "b": {**asdict(sound), "new": 1}, "c": {"slots": 2, "seconds_per_step": 1e-3}}
    read = read_costs(entries)
    assert read["a"] == read["b"] == sound
    assert read["c"].limit == "earlier"
    assert not read["c"].serves(1, prescribed=None)
    for entry in (None, [], 3, {}, {"slots": "x", "seconds_per_step": 1}, {**asdict(sound), "limit": "moon"}):
        assert read_costs({"a": entry}) == {}
    for entry in ({"slots": 0}, {"seconds_per_step": -1.0}, {"seconds_per_step": float("nan")}, {"limit": ["speed"]}):
        assert read_costs({"a": {**asdict(sound), **entry}}) == {}
    assert read_costs(None) == read_costs([1]) == {}


def test_a_table_of_timings_that_is_none_counts_as_not_measured():
    assert read_timings({"seconds": {"1": 1e-3, "2": 6e-4}, "limit": "speed"}) == Timings({1: 1e-3, 2: 6e-4}, "speed")
    for seconds in (
        {},
        {"one": 1},
        {"0": 1e-5},
        {"-3": 1e-5},
        {"1": 0.0},
        {"1": None},
        {"1": float("nan")},
        {"1": "a"},
        3,
    ):
        assert read_timings({"seconds": seconds, "limit": "speed"}) is None
    for entry in ([], "a", None, {"seconds": {"1": 1.0}}, {"limit": "speed"}, {"seconds": {"1": 1.0}, "limit": "moon"}):
        assert read_timings(entry) is None
    assert read_timings({"seconds": {"1": 1.0}, "limit": ["speed"]}) is None


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
