"""The lowest loss of free embeddings: against known minima, against random embeddings, and kept; and what is made of
it at a point."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_by_hand import VARIANTS, label

from suite.data.digits import Digits
from suite.data.pairs import draw_pairs
from suite.data.source import Source
from suite.data.sphere import Sphere
from suite.experiment import Encoder, TrialSettings
from suite.measurement import lowest_loss as module
from suite.measurement.certificate import Levels
from suite.measurement.dominance import dominance, lowest_of
from suite.measurement.lowest_loss import Problem, lowest_loss, minimum
from suite.measurement.moments import Moments
from suite.measurement.point import Point, squared_norms
from suite.measurement.registry import MEASUREMENTS
from suite.measurement.stationarity import Stationarity
from suite.training.losses import DCL, Infimum, InfoNCE, Loss, Sigmoid, Spectral, SupCon, draw_negatives
from suite.training.pair import Pair

LABELS = np.array([0, 0, 1, 1])
NEGATIVES = draw_negatives(0, samples=4, negatives=2)
SQUARE = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)


@pytest.fixture(autouse=True, scope="module")
def cache_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        module._kept.cache_clear()
        yield
    module._kept.cache_clear()


def known(loss: Loss) -> dict[str, np.ndarray]:
    """What this loss needs, for 4 samples."""
    return {name: {"labels": LABELS, "negatives": NEGATIVES}[name] for name in loss.needs}


def lowest_of_four(loss: Loss) -> float:
    """In 2 dimensions."""
    return lowest_loss(loss, samples=4, embedding_dim=2, **known(loss))


def problem(loss: Loss, samples: int, dim: int) -> Problem:
    return Problem(loss, samples, dim, **{name: value.tobytes() for name, value in known(loss).items()})


@pytest.mark.parametrize(
    ("loss", "samples", "dim"),
    [
        (InfoNCE(), 4, 3),
        (InfoNCE(symmetric=True, temperature=0.2), 5, 6),
        (DCL(), 4, 3),
        (Sigmoid(scale=1.0, bias=0.0), 4, 4),
        (Sigmoid(scale=5.0, bias=6.0), 4, 2),
        (Spectral(), 5, 2),
        (Spectral(), 3, 5),
        (SupCon(), 4, 2),
    ],
    ids=lambda value: label(value) if isinstance(value, Loss) else str(value),
)
def test_minimisation_finds_the_infimum_where_that_is_attained(loss: Loss, samples: int, dim: int):
    stated = loss.infimum(samples=samples, embedding_dim=dim, labels=LABELS)
    assert stated.attained
    assert minimum(problem(loss, samples, dim)) == pytest.approx(stated.value, abs=1e-8)
    assert lowest_loss(loss, samples=samples, embedding_dim=dim, **known(loss)) == stated.value


def test_four_samples_in_the_plane_are_lowest_as_a_square():
    bound = InfoNCE().infimum(samples=4, embedding_dim=2).value
    found = lowest_of_four(InfoNCE(temperature=0.5))
    assert found == pytest.approx(math.log(1 + 2 * math.exp(-2) + math.exp(-4)), abs=1e-9)
    assert found > bound + 0.01
    moved = SQUARE + 0.1 * torch.randn(2, 200, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (InfoNCE()(*moved) >= found).all()


@pytest.mark.parametrize("loss", VARIANTS, ids=label)
def test_every_loss_has_a_lowest_value_at_or_above_its_bound(loss: Loss):
    stated = loss.infimum(samples=4, embedding_dim=2, labels=LABELS)
    found = lowest_of_four(loss)
    assert found >= stated.value
    if stated.attained is False and loss.similarity == "cosine" and not loss.parameters():
        assert found > stated.value + 1e-5  # on a compact set
    else:
        assert found <= stated.value + (1e-8 if stated.attained is not None else 0.1)  # approached far out


@settings(deadline=None)
@given(loss=st.sampled_from(VARIANTS), seed=st.integers(0, 2**32), size=st.floats(0.1, 10), gap=st.floats(0, 2))
def test_no_embeddings_are_lower(loss: Loss, seed: int, size: float, gap: float):
    found = lowest_of_four(loss)
    query, noise, *trained = problem(loss, 4, 2).start(starts=50, size=size, seed=seed)
    values = problem(loss, 4, 2).value(query, query + gap * noise, *trained)
    assert (values >= found - 1e-9).all()


@pytest.mark.parametrize("loss", [InfoNCE(), DCL(), InfoNCE(temperature=0.1), SupCon()], ids=label)
def test_other_starts_find_nothing_lower(loss: Loss):
    found = lowest_of_four(loss)
    for seed in range(100, 104):
        assert module._descend(problem(loss, 4, 2), size=0.7, seed=seed) >= found - 1e-9


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Problem]]:
    """What is minimised, to 0.75, by a new process with an empty cache folder."""
    done: list[Problem] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "minimum", lambda given: done.append(given) or 0.75)
    module._kept.cache_clear()
    yield done
    module._kept.cache_clear()


def test_what_was_found_is_kept_in_memory_and_for_other_processes(searched: list[Problem], tmp_path: Path):
    for _ in range(3):
        assert lowest_of_four(InfoNCE()) == 0.75
    assert len(searched) == 1
    module._kept.cache_clear()
    assert lowest_of_four(InfoNCE()) == 0.75
    assert len(searched) == 1
    file = tmp_path / "stillpoint/lowest_losses.json"
    assert list(json.loads(file.read_text()).values()) == [0.75]
    for damaged in ('{"half', "[1, 2]", "", json.dumps(dict.fromkeys(json.loads(file.read_text()), "low"))):
        file.write_text(damaged)
        module._kept.cache_clear()
        assert lowest_of_four(InfoNCE()) == 0.75
    assert len(searched) == 5
    assert list(json.loads(file.read_text()).values()) == [0.75]


def test_each_loss_dimension_size_and_draw_is_another_problem(searched: list[Problem]):
    drawn, supervised = InfoNCE(negatives=2), SupCon()
    for loss in (InfoNCE(), InfoNCE(temperature=0.4), drawn, supervised):
        lowest_loss(loss, samples=5, embedding_dim=2, labels=[0, 0, 1, 1, 2], negatives=np.eye(5) > 0)
    lowest_loss(InfoNCE(), samples=5, embedding_dim=3)
    lowest_loss(InfoNCE(), samples=6, embedding_dim=3)
    lowest_loss(supervised, samples=5, embedding_dim=2, labels=[0, 1, 2, 2, 2])
    lowest_loss(drawn, samples=5, embedding_dim=2, negatives=np.ones((5, 5)) > 0)
    assert len(searched) == len({kept.key for kept in searched}) == 8
    lowest_loss(InfoNCE(), samples=5, embedding_dim=2, labels=[9] * 5)  # which it does not look at
    assert len(searched) == 8


class Changed(InfoNCE):
    """Of the same name and settings, but another formula."""

    def of_rows(self, logits: torch.Tensor, first: int, **extras: torch.Tensor) -> torch.Tensor:
        return 2 * super().of_rows(logits, first, **extras)


def test_a_loss_whose_formula_was_changed_is_minimised_anew(searched: list[Problem]):
    lowest_of_four(InfoNCE())
    lowest_of_four(Changed())
    assert len(searched) == 2


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(searched: list[Problem], tmp_path: Path):
    (tmp_path / "stillpoint").touch()
    assert lowest_of_four(InfoNCE()) == lowest_of_four(InfoNCE()) == 0.75
    assert len(searched) == 1


class TooHigh(InfoNCE):
    """States an infimum that it goes below."""

    def infimum(self, **shape: object) -> Infimum:
        return Infimum(0.5, attained=False)


class Unstated(InfoNCE):
    """States none."""

    def infimum(self, **shape: object) -> None:
        return None


def test_a_stated_infimum_that_embeddings_pass_is_an_error():
    with pytest.raises(ValueError, match=r"infonce states the infimum 0.5, and some embeddings reach 0.25385"):
        lowest_of_four(TooHigh())


def test_a_loss_that_states_no_infimum_is_minimised():
    assert lowest_of_four(Unstated()) == pytest.approx(lowest_of_four(InfoNCE()), abs=1e-9)


@pytest.mark.parametrize(("loss", "word"), [(SupCon(), "labels"), (InfoNCE(negatives=2), "negatives")])
def test_what_a_loss_needs_must_be_given(loss: Loss, word: str):
    with pytest.raises(ValueError, match=f"needs {word}; give one for each of 4 samples"):
        lowest_loss(loss, samples=4, embedding_dim=2)


def settings_of(seed: int, loss: Loss) -> TrialSettings:
    data: Source = Digits(samples=6) if "labels" in loss.needs else Sphere(samples=6, input_dim=5)
    return TrialSettings(data=data, encoder=Encoder(width=16, depth=1, embedding_dim=3), loss=loss, seed=seed)


def point_of(trials: list[TrialSettings | None], *, loss: torch.Tensor | None = None) -> Point:
    """Trials at their start."""
    example = next(trial for trial in trials if trial is not None)
    cpu = torch.device("cpu")
    pair = Pair(example, slots=len(trials), dtype=torch.float32, device=cpu)
    for slot, trial in enumerate(trials):
        pair.fill(slot, trial or example)
    value, embeddings = pair.loss(pair.weights)
    gradients = torch.autograd.grad(value.sum(), pair.weights)
    running = Stationarity(slots=len(trials), epsilons=example.epsilons, dtype=torch.float32, device=cpu)
    blank = torch.full((len(trials),), torch.nan)
    height = value.detach() if loss is None else loss
    return Point(
        pair=pair,
        loss=height,
        gradients=gradients,
        norms_sq=squared_norms(gradients),
        embeddings=[z.detach() for z in embeddings],
        eta=blank,
        settings=trials,
        running=running,
        update_norm_sq=blank,
        known=[None] * len(trials),
        levels=Levels(),
    )


@pytest.mark.parametrize("loss", [InfoNCE(), InfoNCE(negatives=2), SupCon()], ids=label)
def test_dominance_is_the_squared_gradient_over_twice_the_height(loss: Loss):
    trials = [settings_of(1, loss), None, settings_of(2, loss)]
    point = point_of(trials)
    with torch.no_grad():  # as at a record
        values = dominance(point)
    for slot in (0, 2):
        floor = lowest_of(trials[slot])
        assert values["lowest_loss"][slot].item() == floor
        expected = point.scaled[slot].item() / (2 * (point.loss[slot].item() - floor))
        assert values["gradient_dominance"][slot].item() == pytest.approx(expected, rel=1e-12)
        assert expected > 0
    assert values["lowest_loss"][1].isnan()
    assert values["gradient_dominance"][1].isnan()


def test_a_trial_is_held_against_its_own_labels_and_draw():
    drawn, supervised = InfoNCE(negatives=2), SupCon()
    mask = draw_negatives(2, samples=6, negatives=2)
    assert lowest_of(settings_of(2, drawn)) == lowest_loss(drawn, samples=6, embedding_dim=3, negatives=mask)
    labels = draw_pairs(Digits(samples=6), 2).labels
    assert lowest_of(settings_of(2, supervised)) == lowest_loss(supervised, samples=6, embedding_dim=3, labels=labels)


def test_there_is_no_dominance_at_or_below_the_lowest_loss():
    trials: list[TrialSettings | None] = [settings_of(seed, Spectral()) for seed in range(4)]
    values = dominance(point_of(trials, loss=torch.tensor([-2.5, -3.0, -3.5, torch.nan])))
    assert values["lowest_loss"].tolist() == [-3.0] * 4
    assert values["gradient_dominance"].isnan().tolist() == [False, True, True, True]


def test_it_is_registered_and_made_on_demand():
    measurement = MEASUREMENTS["dominance"]
    assert [column.name for column in measurement.columns] == ["lowest_loss", "gradient_dominance"]
    assert measurement.default == Moments.NEVER
    assert measurement.waits
    assert measurement.can_be_left_out
