"""The ledger: verdicts on sweeps made up with a known truth, on either side of what theory expects."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.frames import Results
from analysis.ledger import Evidence, judge, ledger
from analysis.ledger_figures import evidence_figure
from analysis.segments import segments
from suite.experiment import PREDICTIONS

WIDTHS, SEEDS = (64, 128, 256, 512, 1024), range(8)
STEPS = np.unique(np.round(10 ** np.arange(0, 3.01, 1 / 16))).astype(int)
LEVELS = (1e-2, 1e-3, 1e-4)


def sweep(
    *,
    grad: float = 1.0,
    displacement: float = -0.5,
    spectral: float = -0.5,
    relative: float = -1.0,
    flips: float = -0.4,
    drift: float = -0.5,
    trace_spread: float = -0.5,
    twin: float = -0.3,
    floor: float = 0.0,
    noise: float = 0.05,
    parametrization: str = "allen-zhu",
    descends: bool = True,
    slack: float = 0.2,
    bound: float = 0.5,
    angle_error: float = 0.0,
    stationary: bool = True,
    seeds: int = 8,
) -> Results:
    """A sweep over widths and seeds in which every measurement follows a power of width, with noise of each trial."""
    draws = np.random.default_rng(0)
    trials, records, passages = [], [], []
    for width in WIDTHS:
        for seed in range(seeds):
            name = f"m{width}-s{seed}"

            def power(exponent: float, amplitude: float = 1.0, width: int = width) -> float:
                return amplitude * width**exponent * math.exp(noise * draws.normal())

            levels = {column: power(e) for column, e in (
                ("displacement", displacement), ("relative_spectral_displacement", spectral),
                ("relative_displacement", relative), ("flipped_share", flips),
            )}  # fmt: skip
            drifts, start = power(drift), power(grad)
            trace = 10 * (1 + width**trace_spread * draws.normal())
            angle = [1.2]
            angle.append(float(np.arccos((np.sin(1.2) + (np.pi - 1.2) * np.cos(1.2)) / np.pi)) * (1 + angle_error))
            eta = 1 / width
            for step in (0, *STEPS):
                grown = max(step, 1) ** 0.3
                records.append(
                    {"trial_id": name, "step": step, "time": eta * step, "grad_norm_sq": start, "violating_share": 0.0}
                    | {column: level * grown for column, level in levels.items()}
                    | {f"kernel_drift_{view}": drifts * (eta * max(step, 1)) ** 0.3 for view in ("query", "key")}
                    | {f"kernel_trace_{view}": trace if step == 0 else np.nan for view in ("query", "key")}
                    | {"median_angle_by_layer": angle * 2, "loss": 4 - 0.01 * step / 1000}
                    | {"running_min_scaled_grad_norm_sq": floor + max(step, 1) ** -1.5, "kernel_smallest_query": 1.0}
                )
            for level in LEVELS:
                steps = round(level ** (-1 / 1.5))
                passages.append(
                    {"trial_id": name, "epsilon": level, "relative": False, "at_init": False, "reached": True}
                    | {"steps_to_stationarity": steps, "time_to_stationarity": eta * steps}
                )
            drop = max(level * round(level ** (-1 / 1.5)) for level in LEVELS) * eta / (2 * bound)
            trials.append(
                {"trial_id": name, "name": name, "encoder.width": width, "encoder.depth": 1, "seed": seed}
                | {"encoder.parametrization": parametrization, "loss.similarity": "cosine", "encoder.train_ends": False}
                | {"optimizer.name": "gd", "status": "finished", "steps": 1000, "time": 1000 * eta}
                | {"descent_regime": descends, "violating_share": 0.0, "slack": slack, "learning_rate": eta}
                | {"loss_init": 4.0, "loss": 4.0 - drop, "twin_distance": power(twin), "stationary": stationary}
            )
    described = {"name": "made-up", "stationary_below": 1e-4}
    frames = (pd.DataFrame(trials), pd.DataFrame(passages), pd.DataFrame(records))
    return Results(*frames, described, ["encoder.width", "seed"], None)


def verdict(results: Results, name: str) -> str:
    (found,) = judge(results, [name])
    return found.word


def test_the_ledger_has_the_lines_that_an_experiment_may_name():
    assert set(ledger()) == PREDICTIONS
    with pytest.raises(ValueError, match="no prediction 'nonsense'; there are descent"):
        judge(sweep(seeds=3), ["nonsense"])


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("descent", {}, "consistent"),
        ("descent", {"slack": 1.2}, "inconsistent"),
        ("time-eps", {}, "consistent"),
        ("time-eps", {"bound": 1.5}, "inconsistent"),
        ("rate", {}, "reported"),
        ("grad-width", {}, "consistent"),
        ("grad-width", {"grad": 0.5}, "inconsistent"),
        ("grad-width", {"grad": 0.0, "parametrization": "ntk"}, "consistent"),
        ("grad-width", {"parametrization": "mup"}, "reported"),
        ("displacement", {}, "consistent"),
        ("displacement", {"displacement": -0.2}, "inconsistent"),
        ("displacement", {"displacement": -0.6, "noise": 0.3}, "undecided"),
        ("displacement", {"descends": False}, "not-applicable"),
        ("displacement", {"seeds": 2}, "not-applicable"),
        ("rel-displacement", {}, "consistent"),
        ("rel-displacement", {"spectral": -0.8}, "inconsistent"),
        ("rel-displacement", {"relative": -0.5}, "inconsistent"),
        ("ntk-drift", {}, "consistent"),
        ("ntk-drift", {"drift": -0.1}, "inconsistent"),
        ("ntk-init", {"trace_spread": 0.2, "seeds": 40}, "inconsistent"),
        ("flips", {}, "consistent"),
        ("flips", {"flips": 0.0}, "inconsistent"),
        ("angles", {}, "consistent"),
        ("angles", {"angle_error": 0.1}, "inconsistent"),
        ("width-floor", {}, "consistent"),
        ("width-floor", {"floor": 1e-4}, "undecided"),
        ("similarity", {}, "not-applicable"),
        ("coupling", {}, "consistent"),
        ("coupling", {"stationary": False}, "inconsistent"),
        ("coupling", {"seeds": 4}, "not-applicable"),
        ("threshold", {}, "not-applicable"),
        ("twin", {}, "consistent"),
        ("twin", {"twin": 0.3}, "inconsistent"),
        ("separation", {}, "not-applicable"),
        ("lr-width", {}, "not-applicable"),
    ],
)
def test_a_verdict_follows_from_the_truth(name: str, settings: dict, word: str):
    assert verdict(sweep(**settings), name) == word


LEVELS_OF = {  # the estimate as it follows from the points
    "descent": lambda y: y.max(),
    "time-eps": lambda y: y.max(),
    "rate": lambda y: y.median(),
    "angles": lambda y: y.mean(),
    "width-floor": lambda y: y.max(),
}


@pytest.mark.parametrize("name", LEVELS_OF)
def test_a_level_is_drawn_through_its_points(name: str):
    (found,) = judge(sweep(), [name])
    figure = evidence_figure(found)
    for ax, evidence in zip(figure.axes, found.evidence, strict=True):
        assert evidence.value == pytest.approx(LEVELS_OF[name](evidence.points.y), rel=1e-9)
        (line,) = [line for line in ax.lines if line.get_linestyle() == "-"]
        assert line.get_ydata() == pytest.approx([evidence.value] * 2)
        limits = [] if evidence.expected is None else [e for e in evidence.expected if math.isfinite(e)]
        assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] == limits


def test_angles_are_judged_at_the_farthest_layer_of_either_tower():
    results = sweep(seeds=5)
    follows = [1.2]
    for _ in range(2):
        angle = follows[-1]
        follows.append(float(np.arccos((np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi)))
    off = [*follows[:2], 1.1 * follows[2]]
    angles = [follows + off] * len(results.records)
    (found,) = judge(replace(results, records=results.records.assign(median_angle_by_layer=angles)), ["angles"])
    (evidence,) = found.evidence
    assert evidence.what.endswith("at its farthest layer (2 of the key tower)")
    assert evidence.value == pytest.approx(1.1)
    assert evidence.points.y.to_numpy() == pytest.approx([1.1] * 5)
    assert set(evidence.points.trial_id) <= set(results.trials.trial_id)


def test_what_is_not_judged_is_not_drawn():
    (found,) = judge(sweep(seeds=2), ["angles"])
    assert found.word == "not-applicable"
    assert evidence_figure(found) is None


def test_values_whose_width_is_outside_those_tried_are_named():
    results = sweep()
    trials = []
    for samples, least in ((16, WIDTHS[1]), (32, WIDTHS[2]), (64, 10**9)):
        settled = results.trials["encoder.width"] >= least
        names = results.trials.trial_id + f"-n{samples}"
        trials.append(results.trials.assign(**{"data.samples": samples, "stationary": settled, "trial_id": names}))
    axes = ["data.samples", *results.axes]
    (found,) = judge(replace(results, trials=pd.concat(trials, ignore_index=True), axes=axes), ["threshold"])
    (evidence,) = found.evidence
    assert evidence.what.endswith("; left out: samples 64, whose width is outside those tried")
    assert len(evidence.points) == 2


def test_a_coupling_is_compared_with_joint_training_unless_none_of_its_trials_got_there():
    joint = sweep()
    found = {}
    for other, reached in (("alternating", True), ("frozen", False)):
        trials = joint.trials.assign(coupling=other, trial_id=joint.trials.trial_id + other)
        passages = joint.passages.assign(trial_id=joint.passages.trial_id + other, reached=reached)
        passages = passages.assign(steps_to_stationarity=passages.steps_to_stationarity * 2)
        both = [pd.concat([joint.trials.assign(coupling="joint"), trials], ignore_index=True)]
        both.append(pd.concat([joint.passages, passages], ignore_index=True))
        results = Results(*both, joint.records, joint.experiment, ["coupling", *joint.axes], None)
        found[other] = judge(results, ["coupling"])[0].evidence[1]
        panels = evidence_figure(judge(results, ["coupling"])[0]).axes
        assert len([ax for ax in panels if ax.axison]) == 1 + reached  # shares, and how much longer it takes
        for ax in panels:
            assert [label.get_text() for label in ax.get_xticklabels()] == ["joint", other]
            assert ax.get_xlabel() == "coupling"
    assert found["alternating"].value == pytest.approx(math.log(2), rel=1e-3)
    assert found["frozen"].word == "not-applicable"
    assert found["frozen"].reason == "none of 40 trials under frozen reached it"


def test_a_value_at_a_passage_is_interpolated_and_its_slope_is_exact_without_noise():
    (found,) = judge(sweep(noise=1e-9), ["displacement"])
    (evidence,) = found.evidence
    assert evidence.value == pytest.approx(-0.5, abs=1e-6)
    at = evidence.points[evidence.points.x == 64].y
    assert at.to_numpy() == pytest.approx(64**-0.5 * round(1e-4 ** (-1 / 1.5)) ** 0.3, rel=1e-6)


@given(low=st.floats(-2, 2), width=st.floats(0, 2), bounds=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_a_verdict_is_consistent_only_inside_and_inconsistent_only_outside(low, width, bounds):
    expected = (min(bounds), max(bounds))
    word = Evidence(what="x", value=low + width / 2, low=low, high=low + width, expected=expected).word
    inside = expected[0] <= low and low + width <= expected[1]
    outside = low > expected[1] or low + width < expected[0]
    assert word == ("consistent" if inside else "inconsistent" if outside else "undecided")


def learning_rates(exponent: float, *, rates: int = 60, brackets: bool = True, rule: str = "allen-zhu") -> Results:
    """Trials of which those above a largest rate of their weights, as a power of the width, raise their loss."""
    inherent = {"allen-zhu": -1, "standard": -1, "ntk": 0}[rule]
    trials, records = [], []
    draws = np.random.default_rng(1)
    for width in WIDTHS:
        for seed in range(4):
            largest = 20 * (width / 256) ** (exponent - inherent) * math.exp(0.03 * draws.normal())
            factor = 16 * float(width) ** inherent  # of the rate, by the parametrization
            gradient = {"scaled_grad_norm_sq_query": 3.0 * factor, "grad_norm_sq_query": 3.0}
            for c in np.geomspace(1, 400 if brackets else 1.5, rates):
                name = f"m{width}-c{c:.6g}-s{seed}"
                trials.append(
                    {"trial_id": name, "encoder.width": width, "seed": seed, "optimizer.learning_rate.c": c}
                    | {"encoder.parametrization": rule, "loss.similarity": "dot", "status": "finished"}
                    | {"learning_rate": c, "loss_init": 1.0}
                )
                losses = {step: 1.0 if c <= largest else 1.0 + step for step in (0, 50, 100)}
                records += [{"trial_id": name, "step": step, "loss": loss} | gradient for step, loss in losses.items()]
    axes = ["optimizer.learning_rate.c", "encoder.width", "seed"]
    return Results(pd.DataFrame(trials), pd.DataFrame(), pd.DataFrame(records), {}, axes, None)


def test_the_largest_learning_rate_is_found_on_its_axis():
    assert verdict(learning_rates(-1.0), "lr-width") == "consistent"
    assert verdict(learning_rates(-0.5), "lr-width") == "inconsistent"
    assert verdict(learning_rates(-1.0, brackets=False), "lr-width") == "not-applicable"
    assert verdict(learning_rates(-1.0, rule="standard"), "lr-width") == "consistent"
    assert verdict(learning_rates(0.0, rule="ntk"), "lr-width") == "consistent"
    assert verdict(learning_rates(-1.0, rule="ntk"), "lr-width") == "inconsistent"


@pytest.mark.parametrize("rates", [5, 8, 16, 32])
@pytest.mark.parametrize("exponent", [-1.0, -0.5])
def test_an_axis_of_few_learning_rates_cannot_make_an_interval_narrow(exponent: float, rates: int):
    """All seeds have the same largest rate there, or two; their spread alone would say that the slope is certain."""
    ((evidence,),) = [found.evidence for found in judge(learning_rates(exponent, rates=rates), ["lr-width"])]
    assert evidence.low <= exponent <= evidence.high
    step = math.log(400) / (rates - 1)
    assert evidence.high - evidence.low > step / math.log(1024 / 64)


def test_pieces_of_a_curve_are_found_and_those_that_violate_descent_are_marked():
    steps = np.unique(np.round(10 ** np.arange(0, 5.01, 1 / 16)))
    g = np.where(steps < 300, 0.5, 0.5 * (steps / 300) ** -2.0) * np.exp(
        0.01 * np.random.default_rng(0).normal(size=len(steps))
    )
    curve = pd.DataFrame({"step": steps, "running_min_scaled_grad_norm_sq": g, "violating_share": 0.0})
    found = segments(curve)
    assert [round(piece.slope, 1) for piece in found] == [0.0, -2.0]
    assert 200 < found[0].last_step < 450
    wild = curve.assign(violating_share=np.where(steps < 100, 0.0, (steps - 100) / steps / 2).clip(0))
    *before, after = segments(wild)
    assert not any(piece.violates for piece in before)
    assert after.violates
    assert before[-1].last_step <= 100 < after.first_step
    assert segments(curve.head(3)) == []
