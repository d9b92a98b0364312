"""What kind of point a trial ended at: every kind at real points, against independent gradients and whole spectra."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from suite.data.digits import Digits
from suite.data.sphere import Sphere
from suite.experiment import Budget, Encoder, TrialSettings
from suite.measurement.catalog import CHOSEN, parse_measure
from suite.measurement.certificate import KINDS, STATIONARY, Levels, kind_of, lacks_curvature
from suite.measurement.curvature import CHECK_EVERY, MOST_STEPS, Extremes, extremes
from suite.measurement.moments import Moments
from suite.training.couplings import Joint, Momentum, Shared
from suite.training.lane import Lane, State
from suite.training.learning_rates import WidthRule
from suite.training.loop import Job, Loop, Outcome
from suite.training.losses import InfoNCE, Loss, Sigmoid, Spectral
from suite.training.optimizers import Adam, GradientDescent, StochasticGradientDescent
from suite.training.pair import Pair

Row = dict[str, Any]
TIMES = ("timestamp_ms", "started_ms", "ended_ms", "wall_seconds")
ANY = Levels(math.inf, math.inf)
"""Levels that every point is below, so that its kind always depends on curvature."""
DOT = InfoNCE(similarity="dot")
ESCAPING_RATE = 5.0


def settings_of(
    loss: Loss, *, c: float = 0.2, samples: int = 6, seed: int = 0, precision: str = "float64", **encoder: Any
) -> TrialSettings:
    return TrialSettings(
        data=Sphere(samples=samples, input_dim=6),
        encoder=Encoder(**{"width": 16, "depth": 1, "embedding_dim": 4} | encoder),
        loss=loss,
        optimizer=GradientDescent(learning_rate=WidthRule(c=c)),
        seed=seed,
        precision=precision,
    )


def jobs_of(*settings: TrialSettings, states: Sequence[State] | None = None) -> list[Job]:
    starts: Sequence[State | None] = [None] * len(settings) if states is None else states
    return [
        Job(trial_id=str(index), settings=one, state=state)
        for index, (one, state) in enumerate(zip(settings, starts, strict=True))
    ]


def loop_of(jobs: Sequence[Job], *, steps: int = 1, slots: int | None = None, **options: Any) -> Loop:
    budget = Budget(steps=steps, time=options.pop("time", None))
    return Loop(jobs, slots=slots or len(jobs), budget=budget, **{"stop_below": 0.0} | options)


def finished(loop: Loop) -> tuple[dict[str, Outcome], dict[str, list[Row]]]:
    """Outcomes and records by trial, without clock times."""
    while not loop.done:
        loop.run_chunk()
    outcomes, records = loop.take()
    rows: dict[str, list[Row]] = {}
    for record in records:
        rows.setdefault(record["trial_id"], []).append(timeless(record))
    return {outcome.trial_id: outcome for outcome in outcomes}, rows


def timeless(row: Mapping[str, Any]) -> Row:
    return {name: value for name, value in row.items() if name not in TIMES}


def ended(settings: TrialSettings, *, state: State | None = None, **options: Any) -> Outcome:
    job = Job(trial_id="0", settings=settings, state=state)
    return finished(loop_of([job], **options))[0]["0"]


def ended_at(settings: TrialSettings, state: State | None = None, *, levels: Levels) -> Row:
    """The row of a trial that ends where it stands: at its start, or at this state."""
    return ended(settings, state=state, levels=levels, stop_below=math.inf).row


def moved(state: State | None, **weights: np.ndarray) -> State:
    """The same trial, with all that it met before, at other weights."""
    assert state is not None
    return {**state, **{f"weight.{name[1:]}": value for name, value in weights.items()}}


def assert_kind(row: Row, kind: str, levels: Levels) -> None:
    assert kind_of(row, levels) == kind
    assert not lacks_curvature(row, levels)


@lru_cache
def rounded(seed: int, precision: str) -> Row:
    """A trial of the spectral loss at its minimum, as far as its arithmetic takes it, with the kind of no other use."""
    settings = settings_of(Spectral(), c=0.5, seed=seed, precision=precision)
    return ended(settings, steps=1500, levels=Levels(1e-14)).row


@lru_cache
def through_saddles(steps: int, levels: Levels, *, in_full: bool = True) -> Row:
    """mup starts near z = 0, a saddle, passes by another one of rank 3, and ends at a minimum."""
    settings = settings_of(Spectral(), parametrization="mup", width=64)
    measure = parse_measure({"curvature": "end"} if in_full else {})
    return ended(settings, steps=steps, levels=levels, measure=measure).row


def test_a_trial_that_is_no_number_any_more_has_diverged():
    row = ended(settings_of(DOT, c=1e30, samples=8, depth=2, seed=3), steps=50).row
    assert_kind(row, "diverged", Levels())
    assert "scaled_grad_norm_sq_float64" not in row


@pytest.mark.parametrize(("seed", "stuck"), [(1, True), (4, False)])
def test_embeddings_that_are_zero_are_dead_however_small_the_gradient(seed: int, stuck: bool):
    row = ended(settings_of(InfoNCE(), samples=8, width=2, depth=3, seed=seed), steps=3).row
    assert (row["scaled_grad_norm_sq"] == 0) == stuck
    assert max(row["dead_share_query"], row["dead_share_key"]) > 0.5
    assert_kind(row, "dead", Levels())


def test_where_rounding_is_all_that_is_left_of_the_gradient_it_is_at_its_noise_floor():
    row, twin = rounded(0, "float32"), rounded(0, "float64")
    assert row["scaled_grad_norm_sq_float64"] > 1e-14 > 1e3 * twin["scaled_grad_norm_sq_float64"]
    assert_kind(row, "noise-floor", Levels(1e-14))
    assert kind_of(row, Levels(1e-6)) == "undetermined"  # no curvature was measured for this level
    assert lacks_curvature(row, Levels(1e-6))
    assert kind_of(twin, Levels(1e-14)) in STATIONARY


def test_double_precision_has_no_noise_floor():
    assert rounded(0, "float64")["gradient_noise_sq"] == 0


def test_a_trial_at_its_start_is_not_stationary():
    row = ended_at(settings_of(InfoNCE()), levels=Levels())
    assert row["steps"] == 0
    assert_kind(row, "not-stationary", Levels())


def test_a_deep_network_whose_embeddings_point_one_way_from_the_start_is_flat_rather_than_collapsed():
    settings = settings_of(InfoNCE(), depth=64, width=64, seed=1)
    settings = settings.model_copy(update={"data": Digits(samples=16, center=False)})
    row = ended_at(settings, levels=Levels(0.5))
    assert row["least_spread"] < 1e-3
    assert_kind(row, "flat-start", Levels(0.5))


def test_a_loss_too_soft_to_tell_embeddings_apart_starts_flat():
    settings = settings_of(InfoNCE(temperature=50.0), depth=16)
    row = ended(settings, steps=20).row
    assert row["scaled_grad_norm_sq_float64"] < 1e-4
    assert_kind(row, "flat-start", Levels())


def test_weights_of_rank_one_collapse_all_embeddings_onto_a_ray():
    settings = settings_of(InfoNCE(), samples=8)
    state = ended(settings, steps=50).state
    rng = np.random.default_rng(0)
    m = settings.encoder.width
    rank_one = [np.outer(rng.normal(size=m), rng.uniform(1, 2, size=m)) + 1e-4 * rng.normal(size=(m, m)) for _ in "qk"]
    row = ended_at(settings, moved(state, w0=rank_one[0], w1=rank_one[1]), levels=Levels())
    assert 0 < row["scaled_grad_norm_sq_float64"] < 1e-4
    assert 0 < row["least_spread"] < 1e-3
    assert row["loss"] == pytest.approx(math.log(8), rel=1e-3)
    assert_kind(row, "collapsed", Levels())


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_loss_whose_infimum_nothing_attains_is_escaped(precision: str):
    row = ended(settings_of(DOT, c=ESCAPING_RATE, precision=precision), steps=300).row
    assert row["loss"] < 0.005
    assert row["norm_growth"] > 4
    assert row["lambda_max"] < 0.05 * row["lambda_max_peak"]
    assert_kind(row, "escaping", Levels())
    assert kind_of({**row, "lambda_max_peak": None}, Levels()) != "escaping"


def test_where_the_loss_trains_its_scale_it_escapes_by_that_alone():
    growing = settings_of(Sigmoid(scale=1.0, bias=0.0, trainable=True), c=2.0, samples=4, embedding_dim=6)
    outcome = ended(growing, steps=1500)
    assert outcome.state is not None
    assert outcome.row["loss"] < 1e-4
    assert outcome.row["norm_growth"] == pytest.approx(math.exp(outcome.state["weight.2"].item()), rel=1e-12)
    assert_kind(outcome.row, "escaping", Levels())


def test_embeddings_that_grow_where_only_their_cosine_counts_do_not_escape():
    vanishing = settings_of(Sigmoid(scale=10.0, bias=-10.0, trainable=True), c=1.0, samples=4, embedding_dim=6)
    row = ended(vanishing, steps=400).row
    norms = ended(vanishing, steps=400, measure=none() | {"embeddings": Moments.parse(["start", "end"])})
    assert norms.row["embedding_norm_query"] > 2
    assert row["loss"] > 2
    assert row["norm_growth"] < 1e-6
    assert kind_of(row, Levels()) != "escaping"


def test_a_loss_that_has_a_minimum_is_never_escaped():
    row = through_saddles(600, Levels())
    assert row["norm_growth"] > 2
    assert "lambda_max_peak" not in row


def test_near_zero_the_spectral_loss_has_a_saddle():
    settings = settings_of(Spectral())
    state = ended(settings, steps=30).state
    assert state is not None
    near = moved(state, w0=1e-4 * state["weight.0"], w1=1e-4 * state["weight.1"])
    row = ended_at(settings, near, levels=Levels())
    assert 0 < row["scaled_grad_norm_sq_float64"] < 1e-6
    assert row["lambda_min"] == pytest.approx(-row["lambda_max"], rel=0.1)  # bilinear in the two towers
    assert_kind(row, "saddle-like", Levels())


def test_training_passes_by_a_saddle_and_a_point_of_no_clear_kind_to_a_minimum():
    start = through_saddles(1, Levels(0.04, 0.05))
    assert_kind(start, "flat-start", Levels(0.04, 0.05))
    saddle = through_saddles(154, Levels(0.01, 0.05))
    assert saddle["loss"] == pytest.approx(-3, abs=0.05)
    assert_kind(saddle, "saddle-like", Levels(0.01, 0.05))
    between = through_saddles(487, Levels(1e-3))
    assert -0.05 < between["lambda_min"] / between["lambda_max"] < -1e-3
    assert_kind(between, "undetermined", Levels(1e-3))
    minimum = through_saddles(600, Levels())
    assert minimum["loss"] == pytest.approx(-4, abs=1e-3)
    assert_kind(minimum, "minimum-like", Levels())
    for steps, levels in ((487, Levels(1e-3)), (520, Levels(1e-3)), (600, Levels())):
        assert_kind(through_saddles(steps, levels, in_full=False), "undetermined", levels)


def test_a_larger_level_asks_for_curvature_that_was_not_measured():
    row = through_saddles(154, Levels(), in_full=False)
    assert_kind(row, "not-stationary", Levels())
    looser = Levels(0.01, 0.05)
    assert kind_of(row, looser) == "undetermined"
    assert lacks_curvature(row, looser)


def dense_hessians(pair: Pair) -> np.ndarray:
    """P^1/2 H P^1/2 of every slot, (S, P, P), column by column."""
    multiply, gradient = pair.hessian_product(pair.weights)
    slots, size = gradient.shape
    columns = [multiply(torch.eye(size, dtype=torch.float64)[i].expand(slots, -1)) for i in range(size)]
    return torch.stack(columns, dim=-1).numpy()


@pytest.mark.parametrize("in_full", [False, True], ids=["few products", "curvature in full"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_products_that_decide_decide_as_the_whole_spectrum_does(seed: int, in_full: bool):
    """A few leave open what a minimum takes many to show."""
    settings = settings_of(Spectral(), seed=seed, width=12)
    states, at = [], [1, 5, 20, 50, 80, 120, 200, 300, 600, 1500]
    for steps in at:
        outcome = ended(settings, state=states[-1] if states else None, steps=steps, measure=none())
        assert outcome.state is not None
        states.append(outcome.state)
    wanted = parse_measure({"curvature": "end"} if in_full else {})
    loop = loop_of(jobs_of(*[settings] * len(at), states=states), levels=ANY, stop_below=math.inf, measure=wanted)
    outcomes, _ = finished(loop)
    kinds, open_kinds = [], set() if in_full else {("minimum-like", "undetermined")}
    for index, matrix in enumerate(dense_hessians(loop.lane.pair)):
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        row, exact = outcomes[str(index)].row, {"lambda_min": values[0], "lambda_max": values[-1]}
        kinds.append(kind_of(row, ANY))
        truth = kind_of({**row, **exact, "lambda_min_residual": 1e-12}, ANY)
        assert kinds[-1] == truth or (truth, kinds[-1]) in open_kinds
        assert values[0] - 1e-9 <= row["lambda_min"] <= row["lambda_max"] <= values[-1] + 1e-9
    assert {"saddle-like", "undetermined"} <= set(kinds)
    assert not in_full or ("minimum-like" in kinds) == (seed == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1], ids=["minimum", "maximum"])
def test_what_is_found_stays_when_no_direction_is_left(dtype: torch.dtype, sign: int):
    """A Hessian's rank is small; a slot that is never known well enough goes on after all of its range is seen."""
    settings = settings_of(Spectral(), c=0.5, width=32)
    loop = loop_of([Job(trial_id="0", settings=settings)], steps=1500, measure=none())
    finished(loop)
    pair = loop.lane.pair.mapped(lambda tensor: tensor.to(dtype))
    multiply, gradient = pair.hessian_product(pair.weights)
    start = torch.from_numpy(np.random.default_rng(0).normal(size=gradient.shape)).to(dtype)
    looks: list[float] = []

    def never(found: Extremes) -> np.ndarray:
        looks.append(found.largest[0] if sign > 0 else -found.smallest[0])
        return np.zeros(1, dtype=bool)

    extremes(lambda v: sign * multiply(v), start, enough=never)
    assert len(looks) == MOST_STEPS // CHECK_EVERY
    np.testing.assert_allclose(looks[20:], looks[20], rtol=1e-4)


@pytest.mark.parametrize(("seed", "rounding_hides_it"), [(0, True), (1, False)])
def test_only_the_gradient_in_double_precision_counts(seed: int, rounding_hides_it: bool):
    row = rounded(seed, "float32")
    single, double = row["scaled_grad_norm_sq"], row["scaled_grad_norm_sq_float64"]
    assert (single < double) == rounding_hides_it
    assert abs(single / double - 1) > 0.05
    between = Levels(math.sqrt(single * double))
    assert (kind_of(row, between) in STATIONARY) == (not rounding_hides_it)


def test_without_a_certificate_a_trial_that_ended_has_no_kind():
    row = ended(settings_of(InfoNCE()), steps=2, measure=none()).row
    assert kind_of(row, Levels()) is None
    assert not lacks_curvature(row, Levels())


def none() -> dict[str, Moments]:
    return dict.fromkeys(CHOSEN, Moments.NEVER)


sizes = st.sampled_from([0.0, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.5, 0.6, 1.0, 2.0, 3.0, 100.0])
curvatures = st.fixed_dictionaries(
    {"lambda_max": st.one_of(sizes, sizes.map(lambda x: -x)), "below": sizes, "lambda_min_residual": sizes},
    optional={"lambda_max_peak": sizes},
).map(lambda d: {**{k: v for k, v in d.items() if k != "below"}, "lambda_min": d["lambda_max"] - d["below"]})
bare_rows = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["finished", "finished", "finished", "diverged"]),
        "dead_share_query": sizes.map(lambda x: min(x, 1.0)),
        "dead_share_key": sizes.map(lambda x: min(x, 1.0)),
        "scaled_grad_norm_sq_float64": st.one_of(st.none(), sizes, sizes),
        "gradient_noise_sq": sizes,
        "running_max_scaled_grad_norm_sq": sizes,
        "least_spread": sizes,
        "norm_growth": sizes,
    }
)
levels = st.builds(Levels, below=sizes, relative=sizes)


def first_rule(row: Row, levels: Levels) -> str | None:
    """The rules as docs/science.md lists them."""
    if row["status"] == "diverged":
        return "diverged"
    g = row["scaled_grad_norm_sq_float64"]
    if g is None:
        return None
    largest, smallest = row.get("lambda_max"), row.get("lambda_min")
    known = smallest is not None
    peak, residual = row.get("lambda_max_peak", -math.inf), row.get("lambda_min_residual", 0)
    rules = {
        "dead": max(row["dead_share_query"], row["dead_share_key"]) > 0.5,
        "noise-floor": levels.below < g <= 10 * row["gradient_noise_sq"],
        "not-stationary": levels.below < g,
        "flat-start": g > levels.relative * row["running_max_scaled_grad_norm_sq"],
        "collapsed": row["least_spread"] <= 1e-3,
        "escaping": known and row["norm_growth"] > 2 and largest < 0.1 * peak,
        "saddle-like": known and smallest + residual < -0.05 * max(largest, 0),
        "minimum-like": known and smallest - residual >= -1e-3 * max(largest, 0) and residual <= 1e-4 * max(largest, 0),
        "undetermined": True,
    }
    return next(kind for kind, holds in rules.items() if holds)


@profile(deadline=None, max_examples=500)
@given(row=bare_rows, curvature=st.one_of(st.just({}), curvatures), levels=levels)
def test_every_row_has_the_kind_of_the_first_rule_that_applies(row: Row, curvature: Row, levels: Levels):
    row |= curvature
    kind = kind_of(row, levels)
    assert kind == first_rule(row, levels)
    assert kind in KINDS or (kind is None and row["scaled_grad_norm_sq_float64"] is None)
    below = row["scaled_grad_norm_sq_float64"] is not None and row["scaled_grad_norm_sq_float64"] <= min(
        levels.below, levels.relative * row["running_max_scaled_grad_norm_sq"]
    )
    alive = row["status"] != "diverged" and max(row["dead_share_query"], row["dead_share_key"]) <= 0.5
    assert (kind in STATIONARY) == (below and alive)


def test_rules_are_told_in_their_order():
    assert list(KINDS)[:2] == ["diverged", "dead"]
    assert [kind for kind in KINDS if kind in STATIONARY] == list(KINDS)[5:]


@profile(deadline=None, max_examples=300)
@given(row=bare_rows, curvature=curvatures, levels=levels)
def test_curvature_is_lacking_exactly_where_the_kind_would_depend_on_it(row: Row, curvature: Row, levels: Levels):
    minimum = {"lambda_max": 1.0, "lambda_min": 0.0, "lambda_min_residual": 0.0}
    kinds = {kind_of({**row, **minimum, "lambda_min": smallest}, levels) for smallest in (0.0, -0.01, -1.0)}
    assert lacks_curvature(row, levels) == (len(kinds) > 1)
    assert not lacks_curvature({**row, **curvature}, levels)


@profile(deadline=None, max_examples=300)
@given(row=bare_rows, curvature=curvatures, tight=levels, factors=st.tuples(sizes, sizes))
def test_a_looser_level_makes_nothing_less_stationary(row: Row, curvature: Row, tight: Levels, factors: tuple):
    loose = Levels(tight.below + factors[0], tight.relative + factors[1])
    row |= curvature
    kind = kind_of(row, tight)
    if kind in STATIONARY:
        assert kind_of(row, loose) == kind


CELLS: list[tuple[Loss, dict[str, Any]]] = [
    (InfoNCE(), {}),
    (DOT, {"parametrization": "mup", "train_ends": True}),
    (Spectral(), {"parametrization": "ntk", "biases": True, "depth": 2}),
    (Sigmoid(trainable=True), {"parametrization": "standard", "activation": "tanh", "residual": True}),
    (InfoNCE(), {"coupling": Shared()}),
    (InfoNCE(negatives=2), {"linearized": True}),
]


@pytest.mark.parametrize(("loss", "kind"), CELLS, ids=str)
def test_numbers_of_the_certificate_are_their_formulas(loss: Loss, kind: dict):
    coupling = {"coupling": kind.get("coupling", Joint())}
    encoder = {name: value for name, value in kind.items() if name != "coupling"}
    settings = [settings_of(loss, seed=s, precision="float32", **encoder).model_copy(update=coupling) for s in (3, 4)]
    loop = loop_of(jobs_of(*settings), steps=40, levels=Levels(0.0))
    outcomes, _ = finished(loop)
    single = loop.lane.pair
    double = [one.model_copy(update={"precision": "float64"}) for one in settings]
    lane = Lane(double[0], slots=2, budget=Budget(steps=1), stop_below=0, device=torch.device("cpu"))
    for slot, one in enumerate(double):
        lane.fill(slot, one)
        lane.pair.copy_slot(single, start=slot, to=slot)
    pairs = list(zip(single.gradients(), lane.pair.gradients(), lane.pair.factors, strict=True))
    now = lane.pair.embeddings(lane.pair.weights)
    start = lane.pair.embeddings(lane.pair.at_start)
    for slot in range(2):
        row = outcomes[str(slot)].row
        g = sum(p * exact[slot].square().sum().item() for _, exact, p in pairs)
        noise = sum(p * (ours[slot].double() - exact[slot]).square().sum().item() for ours, exact, p in pairs)
        assert row["scaled_grad_norm_sq_float64"] == pytest.approx(g, rel=1e-10)
        assert row["gradient_noise_sq"] == pytest.approx(noise, rel=1e-2)  # the room's rounding may be another
        assert 0 < row["gradient_noise_sq"] < 1e-10
        z, z0 = ([view[slot].detach().numpy() for view in views] for views in (now, start))
        units = [view / np.linalg.norm(view, axis=1, keepdims=True) for view in z]
        assert row["least_spread"] == pytest.approx(min(1 - np.sum(u.mean(0) ** 2) for u in units), abs=1e-6)
        mean_norms = [[np.linalg.norm(view, axis=1).mean() for view in views] for views in (z, z0)]
        growths = [a / b for a, b in zip(*mean_norms, strict=True)]
        if loss.parameters():
            growths = [math.exp(outcomes[str(slot)].state["weight.2"].item()) / 10]
        assert row["norm_growth"] == pytest.approx(max(growths), rel=1e-5)


def test_the_gradient_in_double_precision_is_that_of_a_loss_written_out():
    settings = settings_of(DOT, precision="float32", seed=2)
    loop = loop_of([Job(trial_id="0", settings=settings)], steps=30, levels=Levels(0.0))
    row = finished(loop)[0]["0"].row
    pair = loop.lane.pair
    w = [weight.detach()[0].double().requires_grad_() for weight in pair.weights]
    lasts = [tensor for tower in pair.towers for tensor in tower.tensors() if tensor.shape[1:] == (4, 16)]
    q, k = (
        torch.relu(tower.inputs[0].double() @ one.T) @ last[0].double().T
        for tower, one, last in zip(pair.towers, w, lasts, strict=True)
    )
    loss = torch.nn.functional.cross_entropy(q @ k.T / 0.5, torch.arange(6))
    exact = sum(4 / 16 * g.square().sum().item() for g in torch.autograd.grad(loss, w))
    assert row["scaled_grad_norm_sq_float64"] == pytest.approx(exact, rel=1e-12)


MEASURE = {"curvature": Moments.parse(["start", "decades"]), "kernel": Moments.parse(["decades", "end"])}


def short(seed: int, c: float) -> TrialSettings:
    return settings_of(DOT, c=c, seed=seed, precision="float32")


def assert_same(ours: tuple, theirs: tuple, name: str) -> None:
    (mine, rows), (other, other_rows) = ours, theirs
    assert timeless(mine[name].row) == timeless(other[name].row)
    assert mine[name].passages == other[name].passages
    assert rows[name] == other_rows[name]
    for field, value in other[name].state.items():
        np.testing.assert_array_equal(mine[name].state[field], value, err_msg=field)


@pytest.mark.parametrize(
    "neighbours",
    [
        [],
        [("1", 5.0)],
        [("1", 5.0), ("2", 1.1)],
        [("1", 1e30), ("2", 1.1)],
        [("1", 7.0), ("2", 3.0), ("3", 0.7), ("4", 1e30), ("5", 4.0)],
    ],
    ids=["idle", "one", "two", "diverging", "a queue"],
)
def test_a_certificate_is_the_same_to_the_bit_whatever_the_neighbours_do(neighbours: list[tuple[str, float]]):
    jobs = [Job(trial_id=name, settings=short(int(name), c)) for name, c in [*neighbours, ("9", 2.0)]]
    options = {"slots": 3, "steps": 150, "time": 90.0, "levels": ANY, "measure": MEASURE}
    together = finished(loop_of(jobs, **options))
    assert len(together[0]) == len(jobs)
    for one in jobs:
        alone = finished(loop_of([one], **options))
        if together[0][one.trial_id].row["status"] != "diverged":
            assert "lambda_max_peak" in alone[0][one.trial_id].row or one.settings.optimizer.learning_rate.c < 2
            assert_same(together, alone, one.trial_id)


def halted(jobs: Sequence[Job], *, chunks: int, **options: Any) -> tuple[list[Job], list[Outcome], list[Row]]:
    """Trials as they are after so many chunks, to be continued, and what was told by then."""
    loop = loop_of(jobs, **options)
    for _ in range(chunks):
        loop.run_chunk()
    outcomes, records = loop.take(stopping=True)
    states = loop.states()
    again = [Job(trial_id=j.trial_id, settings=j.settings, state=states[j.trial_id][0]) for j in jobs]
    return again, outcomes, records


@pytest.mark.parametrize(("c", "steps"), [(9.0, 10), (8.0, 12)], ids=["on the grid", "beside it"])
def test_a_trial_that_ended_but_was_not_measured_is_measured_when_continued(c: float, steps: int):
    jobs = [Job(trial_id="fast", settings=short(1, c)), Job(trial_id="slow", settings=short(2, 2.0))]
    options = {"slots": 4, "steps": 150, "time": 90.0, "levels": ANY, "measure": MEASURE}
    straight = finished(loop_of(jobs, **options))
    again, outcomes, records = halted(jobs, chunks=14, **options)
    assert outcomes == []
    assert straight[0]["fast"].row["steps"] == steps
    assert {r["trial_id"]: r["final"] for r in records} == {"fast": True, "slow": False}  # fast has ended, unmeasured
    continued, rows = finished(loop_of(again, **options))
    for name in ("fast", "slow"):
        earlier = {r["step"]: timeless(r) for r in records if r["trial_id"] == name}
        joined = earlier | {r["step"]: r for r in rows[name]}
        assert_same((continued, {name: list(joined.values())}), straight, name)
    assert "lambda_max_peak" in continued["fast"].row


def rising(seed: int = 0) -> TrialSettings:
    """Curvature grows from a saddle near z = 0, and falls as the loss escapes."""
    return settings_of(DOT, c=2.0, parametrization="mup", width=64, seed=seed)


@pytest.mark.parametrize("slots", [1, 3], ids=["measured at once", "measured together"])
def test_the_peak_of_curvature_is_over_all_records_that_measured_it(slots: int):
    measure = {"curvature": Moments.parse("decades")}
    outcomes, records = finished(loop_of(jobs_of(rising()), slots=slots, steps=1500, measure=measure, levels=ANY))
    met = [row["lambda_max"] for row in records["0"] if "lambda_max" in row]
    at_start = ended_at(rising(), levels=ANY)["lambda_max"]
    assert max(met) > 1.1 * at_start
    assert outcomes["0"].row["lambda_max_peak"] == max(met)


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("halt", [100, 120])
def test_a_trial_that_is_extended_keeps_the_peak_that_one_never_ended_has(slots: int, halt: int):
    measure = {"curvature": Moments.parse(["decades", "end"])}
    options = {"slots": slots, "measure": measure, "levels": ANY}
    first, _ = finished(loop_of(jobs_of(rising()), steps=halt, **options))
    state = first["0"].state
    assert state is not None
    again, _ = finished(loop_of(jobs_of(rising(), states=[state]), steps=500, **options))
    straight, _ = finished(loop_of(jobs_of(rising()), steps=500, **options))
    assert again["0"].row["lambda_max_peak"] == straight["0"].row["lambda_max_peak"]
    assert timeless(again["0"].row) == timeless(straight["0"].row)


def test_a_peak_that_waited_until_the_end_of_an_unmeasured_trial_is_in_its_state():
    measure = {"curvature": Moments.parse("decades"), "certificate": Moments.NEVER}
    outcomes, records = finished(loop_of(jobs_of(rising()), slots=9, steps=120, measure=measure))
    state = outcomes["0"].state
    assert state is not None
    assert state["lambda_max_met"].item() == max(row["lambda_max"] for row in records["0"] if "lambda_max" in row)


def test_curvature_known_above_a_level_is_all_that_a_looser_level_needs():
    settings = settings_of(DOT, c=ESCAPING_RATE)
    measure = {"curvature": Moments.END}
    row = ended(settings, steps=300, measure=measure, levels=Levels(1e-9)).row
    assert kind_of(row, Levels(1e-9)) == "not-stationary"
    assert_kind(row, "escaping", Levels())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"coupling": Momentum(), "optimizer": StochasticGradientDescent(batch_size=4)},
        {"optimizer": Adam(learning_rate=WidthRule(c=0.01)), "precision": "float64"},
        {"loss": Spectral()},
    ],
    ids=["plain", "momentum sgd", "adam", "spectral"],
)
def test_measuring_changes_no_bit_of_training(change: dict[str, Any]):
    settings = [settings_of(DOT, seed=s, precision="float32").model_copy(update=change) for s in (0, 1)]
    everything = dict.fromkeys(CHOSEN, Moments.ALWAYS) | {"certificate": Moments.END, "dominance": Moments.NEVER}
    quiet, quiet_rows = finished(loop_of(jobs_of(*settings), steps=25, measure=none()))
    loud, loud_rows = finished(loop_of(jobs_of(*settings), steps=25, measure=everything, levels=ANY))
    for name, outcome in quiet.items():
        assert loud[name].passages == outcome.passages
        for ours, theirs in zip(quiet_rows[name], loud_rows[name], strict=True):
            assert len(theirs) > len(ours) + 15
            assert ours == {column: theirs[column] for column in ours}
        assert outcome.state is not None
        assert loud[name].state is not None
        for field, value in outcome.state.items():
            if field != "lambda_max_met":
                np.testing.assert_array_equal(loud[name].state[field], value, err_msg=field)


def brute_force(g: list[float], epsilon: float, *, relative: bool) -> tuple[int | None, int]:
    """The first step at or below a threshold, and the step after the last one above it, from every step's G."""
    limits = [epsilon * max(g[: t + 1]) if relative else epsilon for t in range(len(g))]
    below = [value <= limit for value, limit in zip(g, limits, strict=True)]
    first = below.index(True) if True in below else None
    return first, max((t + 1 for t, inside in enumerate(below) if not inside), default=0)


@pytest.mark.parametrize("stop_below", [0.0, 4e-3])
def test_passages_are_those_of_every_step_also_where_the_gradient_rises_again(stop_below: float):
    settings = [
        settings_of(Spectral(), c=0.3, seed=seed, parametrization="mup", width=64).model_copy(
            update={"records_per_decade": 1000}
        )
        for seed in (0, 1)
    ]
    outcomes, records = finished(loop_of(jobs_of(*settings), steps=400, stop_below=stop_below, measure=none()))
    seen = set()
    for name, outcome in outcomes.items():
        g = [row["scaled_grad_norm_sq"] for row in records[name]]
        assert len(g) == outcome.row["steps"] + 1
        for passage in outcome.passages:
            first, stay = brute_force(g, passage["epsilon"], relative=passage["relative"])
            assert passage["steps_to_stationarity"] == first
            assert passage["reached"] == (first is not None)
            assert passage["at_init"] == (first == 0)
            watched = first is not None and (passage["relative"] or passage["epsilon"] >= 10 * stop_below)
            assert passage["stay_steps"] == (stay if watched else None)
            assert passage["unstable"] == (stay > 2 * first if first is not None and watched else None)
            if first is not None:
                assert passage["time_to_stationarity"] == pytest.approx(0.3 * first)
            seen.add(passage["unstable"])
        told = [p["unstable"] for p in outcome.passages if not (p["relative"] or p["at_init"])]
        told = [unstable for unstable in told if unstable is not None]
        assert outcome.row["unstable"] == (told[-1] if told else None)
    assert seen == {True, False, None}
