"""Tangent kernels against explicit Jacobians, against training itself and against the limit of infinite width."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from suite.data.sphere import Sphere
from suite.data.views import GaussianNoise
from suite.experiment import Budget, Encoder, KeyEncoder, TrialSettings
from suite.measurement import kernel
from suite.measurement.certificate import Levels
from suite.measurement.kernel import tangent_kernels
from suite.measurement.point import Point, squared_norms
from suite.measurement.registry import MEASUREMENTS, Values
from suite.reference import ROOT
from suite.training.couplings import Coupling, Joint, Shared
from suite.training.lane import Lane
from suite.training.learning_rates import WidthRule
from suite.training.losses import InfoNCE
from suite.training.optimizers import GradientDescent
from suite.training.pair import Pair
from suite.training.parametrizations import Parametrization
from suite.training.towers import draw_weights

N, P, M, D = 6, 5, 7, 3
COLUMNS = [f"kernel_{name}_{t}" for t in ("query", "key") for name in ("drift", "alignment", "smallest", "trace")]


def settings_of(
    parametrization: str = "standard", *, coupling: Coupling | None = None, samples: int = N, seed: int = 3, **encoder
) -> TrialSettings:
    shape = {"width": M, "depth": 2, "embedding_dim": D} | encoder
    return TrialSettings(
        data=Sphere(samples=samples, input_dim=P),
        encoder=Encoder(parametrization=parametrization, **shape),
        loss=InfoNCE(similarity="dot", temperature=1.5),
        coupling=coupling or Joint(),
        optimizer=GradientDescent(learning_rate=WidthRule(c=0.3)),
        precision="float64",
        seed=seed,
    )


def lane_of(settings: TrialSettings, *seeds: int) -> Lane:
    """A slot for each seed."""
    seeds = seeds or (settings.seed,)
    lane = Lane(settings, slots=len(seeds), budget=Budget(steps=1000), stop_below=0, device=torch.device("cpu"))
    for slot, seed in enumerate(seeds):
        lane.fill(slot, settings.model_copy(update={"seed": seed}))
    return lane


def measured(lane: Lane) -> Values:
    pair = lane.pair
    loss, embeddings = pair.loss(pair.weights)
    gradients = pair.gradients()
    point = Point(
        pair=pair,
        loss=loss.detach(),
        gradients=gradients,
        norms_sq=squared_norms(gradients),
        embeddings=[z.detach() for z in embeddings],
        eta=lane.eta,
        settings=[None] * lane.num_slots,
        running=lane.stationarity,
        update_norm_sq=torch.full_like(lane.eta, torch.nan),
        known=[None] * lane.num_slots,
        levels=Levels(),
    )
    return MEASUREMENTS["kernel"].function(point)


def explicit(pair: Pair, weights: list[torch.Tensor], slot: int) -> list[torch.Tensor]:
    """Kernels of one slot from every entry of the Jacobian of what the towers embed, linearized or not."""
    query, key = weights[pair.parts["query"]], weights[pair.parts["key"]]
    towers = [(pair.towers, query)] if not key else [(pair.towers[:1], query), (pair.towers[1:], key)]
    kernels = []
    for views, own in towers:

        def embed(*w: torch.Tensor, views=views) -> torch.Tensor:
            return torch.cat([tower.embed(w)[slot] for tower in views])

        jacobians = torch.autograd.functional.jacobian(embed, tuple(w.detach() for w in own))
        rows = torch.cat([jacobian[:, :, slot].flatten(2) for jacobian in jacobians], dim=-1)
        kernels.append(views[0].spec.learning_rate_factor * torch.einsum("ikw,jkw->ij", rows, rows))
    return kernels


CELLS = [
    *[(p, {"depth": depth}) for depth in (1, 2, 3) for p in ("allen-zhu", "standard", "ntk", "mup")],
    *[
        (p, kind)
        for p in ("standard", "ntk", "mup")
        for kind in (
            {"residual": True, "depth": 3},
            {"biases": True},
            {"train_ends": True},
            {"train_ends": True, "train_hidden": False},
            {"train_ends": True, "biases": True, "residual": True, "activation": "gelu"},
        )
    ],
    ("standard", {"activation": "tanh"}),
    ("standard", {"activation": "gelu"}),
    ("standard", {"train_ends": True, "train_hidden": False, "biases": True, "activation": "tanh", "residual": True}),
    ("ntk", {"key": KeyEncoder(width=4, depth=3), "biases": True}),
    ("allen-zhu", {"key": KeyEncoder(width=9, depth=1), "train_ends": True}),
    ("standard", {"coupling": Shared(), "train_ends": True, "biases": True}),
    ("allen-zhu", {"coupling": Shared(), "depth": 1}),
    ("standard", {"linearized": True, "activation": "tanh", "residual": True}),
    ("ntk", {"linearized": True, "coupling": Shared(), "train_ends": True, "biases": True}),
]


@pytest.mark.parametrize(("parametrization", "kind"), CELLS, ids=str)
def test_kernels_are_those_of_explicit_jacobians_after_some_steps(parametrization: str, kind: dict):
    lane = lane_of(settings_of(parametrization, **kind), 3, 11)
    lane.advance(5)
    pair = lane.pair
    found = tangent_kernels(pair, pair.weights)
    shared = "coupling" in kind
    assert [k.shape for k in found] == ([(2, 2 * N, 2 * N)] if shared else [(2, N, N)] * 2)
    for slot in range(2):
        for ours, expected in zip(found, explicit(pair, pair.weights, slot), strict=True):
            torch.testing.assert_close(ours[slot], expected, rtol=1e-8, atol=1e-12 * expected.abs().max().item())
    moved = max((w - w0).abs().max().item() for w, w0 in zip(pair.weights, pair.initial, strict=True))
    assert moved > 1e-4


@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=str)
@pytest.mark.parametrize("parametrization", ["allen-zhu", "standard", "ntk", "mup"])
def test_a_twin_with_one_output_moves_by_eta_times_kernel_times_gradient(parametrization: str, coupling: Coupling):
    settings = settings_of(parametrization, coupling=coupling, embedding_dim=1, linearized=True, train_ends=True)
    lane = lane_of(settings)
    lane.advance(3)
    pair, kernels = lane.pair, tangent_kernels(lane.pair, lane.pair.weights)
    before = [z.detach().requires_grad_() for z in pair.embeddings(pair.weights)]
    forces = torch.autograd.grad(settings.loss(*before).sum(), before)
    lane.advance(1)
    steps = [after - z for z, after in zip(before, pair.embeddings(pair.weights), strict=True)]
    if coupling.one_tower:
        steps, forces = [torch.cat(steps, dim=1)], [torch.cat(forces, dim=1)]
    for step, k, force in zip(steps, kernels, forces, strict=True):
        expected = -lane.eta * (k @ force)
        torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("kind", [{}, {"key": KeyEncoder(width=4, depth=1)}, {"coupling": Shared()}], ids=str)
def test_nothing_has_changed_at_the_draw(kind: dict):
    settings = settings_of("allen-zhu", **kind)
    columns = measured(lane_of(settings, 3, 4))
    towers = ["query"] if settings.coupling.one_tower else ["query", "key"]
    assert list(columns) == [name for name in COLUMNS if name.rpartition("_")[2] in towers]
    for tower in towers:
        assert columns[f"kernel_drift_{tower}"].tolist() == [0, 0]
        assert columns[f"kernel_alignment_{tower}"].tolist() == pytest.approx([1, 1], abs=1e-15)


@pytest.mark.parametrize("kind", [{}, {"coupling": Shared()}, {"linearized": True}], ids=str)
def test_columns_are_the_formulas_on_explicit_jacobians(kind: dict):
    settings = settings_of("ntk", train_ends=True, depth=1, **kind)
    lane = lane_of(settings, 3, 4)
    lane.advance(30)
    columns, pair = measured(lane), lane.pair
    for slot in range(2):
        now, start = (explicit(pair, weights, slot) for weights in (pair.weights, pair.at_start))
        for tower, k, k0 in zip(("query", "key"), now, start, strict=False):
            k, k0 = k.numpy(), k0.numpy()
            expected = {
                "drift": np.sqrt(((k - k0) ** 2).sum() / (k0**2).sum()),
                "alignment": np.trace(k @ k0) / (np.linalg.norm(k) * np.linalg.norm(k0)),
                "smallest": np.linalg.eigvalsh(k)[0],
                "trace": np.mean(np.diag(k)),
            }
            found = {name: columns[f"kernel_{name}_{tower}"][slot].item() for name in expected}
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-10 * np.trace(k))
            assert (found["drift"] > 1e-2) == ("linearized" not in kind)
    if "linearized" in kind:
        assert columns["kernel_drift_key"].tolist() == [0, 0]


def kappa(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arc-cosine kernels of degree 0 and 1, 1 at cosine 1 (Cho & Saul 2009, eq. 6)."""
    angles = np.arccos(np.clip(cosines, -1, 1))
    return 1 - angles / math.pi, (np.sin(angles) + (math.pi - angles) * np.cos(angles)) / math.pi


def limit(inputs: np.ndarray, *, depth: int, embedding_dim: int) -> np.ndarray:
    """Kernel at the draw as the width grows, of unit inputs, ReLU, frozen ends.

    With h_l . h_l' -> s c_l, c_l = kappa_1(c_{l-1}) and c_-1 = x . x' (the gain 2 makes up for ReLU's half), and with
    sum_k delta_k . delta_k' at layer l -> s' / 2 prod_{j >= l} kappa_0(c_{j-1}), layer l adds P s s' times both. The
    scales (s, s') are (m, d) for standard and (1, m) for allen-zhu, P is 1/m and d/m: P s s' = d for either.
    """
    _, cosines = kappa(inputs @ inputs.T)
    into, slopes = [], []
    for _ in range(depth):
        into.append(cosines)
        slope, cosines = kappa(cosines)
        slopes.append(slope)
    return embedding_dim / 2 * sum(into[layer] * np.prod(slopes[layer:], axis=0) for layer in range(depth))


def wide_kernels(parametrization: Parametrization, inputs: np.ndarray, *, depth: int, seeds: range) -> list[np.ndarray]:
    """At the draw of each seed, at width 4096 with 32 outputs, in float32."""
    shape = {"width": 4096, "depth": depth, "embedding_dim": 32, "key": KeyEncoder(width=8, depth=1)}
    settings = settings_of(parametrization, samples=len(inputs), **shape).model_copy(update={"precision": "float32"})
    pair = lane_of(settings).pair
    kernels, tower = [], pair.towers[0]
    for seed in seeds:
        tower.fill(0, draw_weights(tower.spec, seed=seed, input_dim=inputs.shape[1]), inputs)
        kernels.append(tangent_kernels(pair, pair.weights)[0][0].numpy())
    return kernels


@pytest.mark.parametrize("depth", [1, 2])
def test_wide_towers_have_the_kernel_of_infinite_width(depth: int):
    angles = np.linspace(0, 2, 8)
    inputs = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    expected = limit(inputs, depth=depth, embedding_dim=32)
    kernels = wide_kernels("standard", inputs, depth=depth, seeds=range(8))
    np.testing.assert_allclose(np.mean(kernels, axis=0), expected, rtol=0.05)  # one alone: ||h_0||^2 is off by 3.5 %
    [other] = wide_kernels("allen-zhu", inputs, depth=depth, seeds=range(1))
    np.testing.assert_allclose(other, kernels[0], rtol=1e-5)


def test_single_precision_leaves_the_least_eigenvalue_of_close_pairs_its_digits():
    views = GaussianNoise(std=0.0004)
    found = []
    for precision in ("float32", "float64"):
        settings = TrialSettings(
            data=Sphere(samples=32, input_dim=16, separation=0.003, views=views),
            encoder=Encoder(width=256),
            precision=precision,
            seed=1,
        )
        columns = measured(lane_of(settings))
        assert columns["kernel_smallest_query"] < 1e-5 * columns["kernel_trace_query"]
        found.append(columns["kernel_smallest_query"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@profile(deadline=None, max_examples=40)
@given(
    width=st.integers(1, 8),
    depth=st.integers(1, 3),
    embedding_dim=st.integers(1, 4),
    samples=st.integers(2, 9),
    seed=st.integers(0, 1000),
    parametrization=st.sampled_from(["standard", "ntk", "mup"]),
    activation=st.sampled_from(["relu", "gelu", "tanh"]),
    residual=st.booleans(),
    ends=st.booleans(),
    coupling=st.sampled_from([Joint(), Shared()]),
)
def test_kernels_are_symmetric_and_positive_semidefinite(
    parametrization, coupling, samples, seed, width, depth, embedding_dim, activation, residual, ends
):
    lane = lane_of(
        settings_of(
            parametrization,
            coupling=coupling,
            samples=samples,
            seed=seed,
            width=width,
            depth=depth,
            embedding_dim=embedding_dim,
            activation=activation,
            residual=residual,
            train_ends=ends,
            biases=ends,
        )
    )
    lane.advance(2)
    for k in tangent_kernels(lane.pair, lane.pair.weights):
        scale = k.abs().max().item()
        torch.testing.assert_close(k, k.mT, rtol=0, atol=1e-14 * scale)
        assert torch.linalg.eigvalsh(k).min() >= -1e-13 * scale * k.shape[-1]


def test_a_slot_is_measured_alike_whatever_its_neighbours():
    settings = settings_of("standard", activation="gelu", biases=True)
    values = []
    for seeds, slot in (((3,), 0), ((3, 4, 5), 0), ((7, 3, 9), 1), ((5, 6, 8, 3), 3)):
        lane = lane_of(settings, *seeds)
        lane.advance(8)
        values.append([column[slot].item() for column in measured(lane).values()])
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-12, abs=1e-12)


def test_a_trial_that_diverged_and_an_idle_slot_leave_the_others_their_numbers():
    settings = settings_of("allen-zhu")
    expected = measured(lane_of(settings, 3, 4, 5))
    lane = Lane(settings, slots=3, budget=Budget(steps=10), stop_below=0, device=torch.device("cpu"))
    for slot in (0, 1):  # the last one holds nothing
        lane.fill(slot, settings.model_copy(update={"seed": 3 + slot}))
    with torch.no_grad():
        lane.pair.weights[0][0, 2, 1] = torch.nan
    found = measured(lane)
    for name, column in expected.items():
        assert found[name][1].item() == column[1].item()
        if name.endswith("query"):
            assert found[name][0].isnan()
    assert found["kernel_drift_key"][2].isnan()
    assert found["kernel_trace_key"][2] == found["kernel_smallest_key"][2] == 0


@pytest.mark.parametrize("coupling", [Joint(), Shared()], ids=str)
def test_only_the_first_samples_are_used(monkeypatch: pytest.MonkeyPatch, coupling: Coupling):
    lane = lane_of(settings_of(coupling=coupling), 3, 4)
    whole = tangent_kernels(lane.pair, lane.pair.weights)
    monkeypatch.setattr(kernel, "MOST_SAMPLES", 4)
    kept = [0, 1, 2, 3, *([N, N + 1, N + 2, N + 3] if coupling.one_tower else [])]
    for ours, k in zip(tangent_kernels(lane.pair, lane.pair.weights), whole, strict=True):
        torch.testing.assert_close(ours, k[:, kept][:, :, kept], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("outputs", [1, 2])
def test_blocks_of_outputs_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch, outputs: int):
    lane = lane_of(settings_of("ntk", train_ends=True, biases=True, residual=True), 3, 4)
    whole = tangent_kernels(lane.pair, lane.pair.weights)
    monkeypatch.setattr(kernel, "BLOCK_ELEMENTS", outputs * 2 * N * M)
    for ours, expected in zip(tangent_kernels(lane.pair, lane.pair.weights), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_the_estimated_cost_counts_products_now_and_at_the_draw():
    shape = {"width": 64, "depth": 3, "embedding_dim": 15}
    training = 2 * 6 * 32 * 3 * 64**2 + 6 * 32**2 * 15
    separate = 2 * 2 * (2 * 16 * 32 * 3 * 64**2 + 2 * 32**2 * 16 * 3 * 64)
    shared = 2 * (2 * 16 * 64 * 3 * 64**2 + 2 * 64**2 * 16 * 3 * 64)
    many = 2 * 2 * (2 * 16 * 512 * 3 * 64**2 + 2 * 512**2 * 16 * 3 * 64)
    estimate = MEASUREMENTS["kernel"].gradients
    assert estimate(settings_of(samples=32, **shape)) == pytest.approx(separate / training)
    assert estimate(settings_of(samples=32, coupling=Shared(), **shape)) == pytest.approx(shared / training)
    training = 2 * 6 * 4096 * 3 * 64**2 + 6 * 4096**2 * 15
    assert estimate(settings_of(samples=4096, **shape)) == pytest.approx(many / training)


def test_its_columns_are_known_without_torch():
    script = (
        "import sys; import suite.measurement.kernel; from suite.measurement.registry import MEASUREMENTS; "
        "print(*(c.name for c in MEASUREMENTS['kernel'].columns)); sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == COLUMNS
