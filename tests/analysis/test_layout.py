"""What lies along x, which groups there are, and what they are called."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis.frames import Results
from analysis.layout import NOTHING_SPECIAL, groups, labels, main_axes
from analysis.scales import ROOM, Scale, readable_log, scale_of


def results(**axes: list) -> Results:
    """Results with one trial per row; underscores of names are dots."""
    columns = {name.replace("__", "."): values for name, values in axes.items()}
    trials = pd.DataFrame(columns)
    return Results(trials, pd.DataFrame(), pd.DataFrame(), {}, list(columns), None)


CONTROLS = {
    "encoder__linearized": [False, True, False, False],
    "encoder__train_hidden": [True, True, False, True],
    "encoder__train_ends": [False, False, True, False],
    "data__shuffled_positives": [False, False, False, True],
}


@pytest.mark.parametrize(
    ("axes", "along", "others"),
    [
        ({"encoder__depth": [1, 2, 1, 2], "encoder__width": [8, 8, 16, 16]}, "encoder.depth", ["encoder.width"]),
        ({"coupling": ["a", "b", "a", "b"], "encoder__width": [8, 8, 16, 16]}, "encoder.width", ["coupling"]),
        ({"coupling": ["a", "b"]}, None, ["coupling"]),
        ({"encoder__width": [8, 8], "coupling": ["a", "b"]}, None, ["coupling"]),
        ({"encoder__width": [8, 16], "data__samples": [4, 8]}, "encoder.width", []),
        ({"coupling": ["a", "b"], "encoder__width": [8, 16]}, None, ["coupling"]),
        ({"seed": [0, 1]}, None, []),
        (CONTROLS, None, ["encoder.linearized", "encoder.train_hidden", "data.shuffled_positives"]),
    ],
)
def test_the_first_numeric_axis_lies_along_x_and_those_that_follow_another_are_left_out(axes, along, others):
    assert main_axes(results(**axes)) == (along, others)


def test_yes_or_no_settings_are_told_where_they_are_unusual():
    found = results(**CONTROLS)
    titles = [group.title for group in groups(found, main_axes(found)[1])]
    assert titles == [NOTHING_SPECIAL, "linearized", "no train_hidden", "shuffled_positives"]
    halves = results(encoder__residual=[False, True])
    assert [group.title for group in groups(halves, ["encoder.residual"])] == ["no residual", "residual"]


def test_groups_are_in_the_order_of_the_sweep_and_hold_their_rows():
    found = results(coupling=["shared", "joint", "shared", "joint"], encoder__key__width=[8, 8, np.nan, np.nan])
    parts = groups(found, ["coupling", "encoder.key.width"])
    assert [part.title for part in parts][:2] == ["coupling shared, width 8", "coupling joint, width 8"]
    assert [len(part.of(found.trials)) for part in parts] == [1, 1, 1, 1]
    (everything,) = groups(found, [])
    assert len(everything.of(found.trials)) == 4
    assert everything.title == ""


def test_choices_are_told_by_the_settings_in_which_namesakes_differ():
    found = results(
        optimizer=["gd-c=0.2", "gd-momentum=0.9-c=0.02", "adam-c=0.02"],
        optimizer__name=["gd", "gd", "adam"],
        optimizer__learning_rate__c=[0.2, 0.02, 0.02],
        optimizer__momentum=[0.0, 0.9, np.nan],
    )
    assert list(labels(found, "optimizer").values()) == ["gd, momentum 0, c 0.2", "gd, momentum 0.9, c 0.02", "adam"]


def test_a_choice_without_a_telling_name_keeps_its_word():
    found = results(data__views=["halves+shift", "halves"], data__views__name=["composition", "halves"])
    assert list(labels(found, "data.views").values()) == ["halves+shift", "halves"]


def test_groups_at_one_value_lie_side_by_side_and_in_order():
    for scale in (
        scale_of(results(encoder__width=[8, 16, 64]), "encoder.width"),
        scale_of(results(loss__temperature=[0.5, 0.6, 0.7]), "loss.temperature"),
        scale_of(results(coupling=["b", "a", "c"]), "coupling"),
    ):
        places = np.array([scale.at(scale.values, index, 4) for index in range(4)])
        assert (np.diff(places, axis=0) > 0).all()
        assert (places[-1, :-1] < places[0, 1:]).all(), "groups of neighbouring values do not mix"
        assert (np.diff(scale.at(scale.values)) > 0).all()


def test_ticks_have_room():
    values = [10.0**-k for k in range(12, -1, -1)]
    scale = Scale("epsilon", values, [f"{value:.3g}" for value in values], True)
    _, ax = plt.subplots()
    ax.plot(values, values)
    scale.draw(ax)
    shown = [f"{value:.3g}" for value in ax.get_xticks()]
    assert len(shown) >= 3
    assert len("  ".join(shown)) <= ROOM
    plt.close()


@pytest.mark.parametrize("limits", [(2.3101, 2.3102), (2.31, 2.35), (3, 40), (1e-7, 3e-7), (1e-3, 1e5)])
def test_a_log_axis_has_ticks_however_narrow(limits):
    _, ax = plt.subplots()
    ax.set_yscale("log")
    ax.set_ylim(*limits)
    readable_log(ax)
    low, high = limits
    assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 2
    plt.close()
