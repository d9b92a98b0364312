"""How often a trial is recorded changes neither T(eps) nor the exponent of its curve: two runs of each trial."""

from collections.abc import Iterator

import pandas as pd
import pytest
import torch

from analysis.curves import decay_exponent
from suite.data.digits import Digits
from suite.experiment import Budget, Encoder, TrialSettings
from suite.training.loop import Job, Loop, Outcome

SPARSE, DENSE = 9, 150
"""Records per decade: about 30 and 300 in all."""
SEEDS = ("0", "1", "2")
Trained = tuple[dict[str, Outcome], dict[str, pd.DataFrame]]


def train(per_decade: int) -> Trained:
    """Outcomes and records of the same trials, recorded so often."""
    jobs = [
        Job(
            trial_id=seed,
            settings=TrialSettings(
                data=Digits(samples=32),
                encoder=Encoder(width=64, depth=1),
                seed=int(seed),
                records_per_decade=per_decade,
            ),
        )
        for seed in SEEDS
    ]
    loop = Loop(jobs, slots=len(jobs), budget=Budget(steps=2500), stop_below=0)
    while not loop.done:
        loop.run_chunk()
    outcomes, records = loop.take()
    curves = dict(iter(pd.DataFrame(records).groupby("trial_id")))
    return {outcome.trial_id: outcome for outcome in outcomes}, {str(name): part for name, part in curves.items()}


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Trained, Trained]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train(SPARSE), train(DENSE)
    torch.set_num_threads(threads)


def test_a_run_has_about_30_or_about_300_records(both: tuple[Trained, Trained]):
    assert [len(curves["0"]) for _, curves in both] == pytest.approx([30, 300], rel=0.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_passage_is_the_same_to_the_step(both: tuple[Trained, Trained], seed: str):
    (sparse, _), (dense, _) = both
    assert sparse[seed].passages == dense[seed].passages
    reached = [row for row in sparse[seed].passages if row["reached"] and not row["relative"]]
    assert len(reached) >= 5
    recorded = set(both[0][1][seed].step)
    assert any(row["steps_to_stationarity"] not in recorded for row in reached), "exact also between records"


@pytest.mark.parametrize("from_step", [None, 100])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_exponent_of_the_running_minimum_is_the_same_within_its_interval(
    both: tuple[Trained, Trained], seed: str, from_step: int | None
):
    sparse, dense = (decay_exponent(curves[seed], from_step=from_step) for _, curves in both)
    assert sparse.low < dense.value < sparse.high
    assert dense.low < sparse.value < dense.high
    assert dense.value == pytest.approx(sparse.value, rel=0.02)
    assert 0.5 < (dense.high - dense.low) / (sparse.high - sparse.low) < 2
    assert sparse.low > 0
