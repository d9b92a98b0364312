"""A damaged checkpoint: its trial goes on from the one before, and no number changes."""

from pathlib import Path

import pandas as pd
import pytest
from final_check import assert_same, tables
from test_damage import flip_a_state

from suite import worker
from suite.loading import load_experiment
from suite.orders import Order, Progress
from suite.results import Results
from suite.run import swept_paths
from suite.storage import Folder
from suite.trials import expand, missing
from suite.worker import Attempt

YAML = """
name: one
data: {source: sphere, samples: 8, input_dim: 6}
encoder: {width: 16, depth: 1, embedding_dim: 4}
budget: {steps: 3000, stop_below: 0}
sweep: {seed: [0, 1]}
"""


class Session:
    """Trains a small experiment without Ray, one attempt an epoch, as far as it is let."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "one.yaml").write_text(YAML)
        self.experiment = load_experiment(folder / "one.yaml")
        self.folder = Folder(folder / "results")
        self.told: list[Progress] = []

    def train(self, *, most_commits: int | None = None, merging: bool = True) -> None:
        """One attempt, told to stop after so many commits; then its commits are merged, or left as after a kill."""
        results, experiment = Results.open(self.folder), self.experiment
        trials, epoch = expand(experiment).trials, results.next_epoch
        order = Order(
            root=self.folder.root,
            epoch=epoch,
            lane="00000",
            attempt=1,
            tasks=missing(trials, results.outcomes, experiment),
            slots=2,
            threads=1,
            device="cpu",
            budget=experiment.budget,
            stop_below=experiment.stop_below,
            stop_share=experiment.stop_share,
            levels=experiment.levels,
            measure=experiment.measure,
            keep_states=True,
        )

        chunks_left = 3

        def stopping() -> bool:
            """Some steps after the last commit, so that the one written on stopping has a state of its own."""
            nonlocal chunks_left
            if most_commits is None:
                return False
            number = len(self.folder.names(order.folder))
            if number >= most_commits - 1:
                worker.COMMIT_SECONDS = 1e9  # the fixture sets it back
            chunks_left -= number >= most_commits
            return chunks_left < 0

        for name in Attempt(order, report=self.told.append, stopping=stopping).run().commits:
            results.take(name)
        if merging:
            results.judge(experiment.levels)
            results.merge(trials, metadata={"axes": swept_paths(experiment)}, closing_epoch=epoch)

    @property
    def commits(self) -> list[Path]:
        """Oldest first."""
        return [self.folder.path(name) for name in self.folder.names("lanes")]

    @property
    def unreadable(self) -> list[str]:
        """What the last attempt could not read."""
        return self.told[-1].unreadable


@pytest.fixture
def calm(tmp_path: Path) -> Session:
    """An undisturbed run."""
    session = Session(tmp_path / "calm")
    session.train()
    return session


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """To commit as often as it can."""
    monkeypatch.setattr(worker, "COMMIT_SECONDS", 0.0)
    return Session(tmp_path / "begun")


def first_steps(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the session train to its end; from which steps its trials began."""
    seen: list[int] = []
    loop = worker.Loop

    def noted(jobs: list, **settings: object) -> object:
        seen.extend(0 if job.state is None else int(job.state["step"]) for job in jobs)
        return loop(jobs, **settings)

    monkeypatch.setattr(worker, "Loop", noted)
    session.train()
    return seen


@pytest.mark.parametrize("merging", [True, False], ids=["merged", "killed before a merge"])
@pytest.mark.parametrize("damage", ["flip", "gone", "cut"])
def test_the_checkpoint_before_is_used_and_no_number_changes(
    damage: str, merging: bool, calm: Session, begun: Session, monkeypatch: pytest.MonkeyPatch
):
    begun.train(most_commits=3, merging=merging)
    kept = begun.commits
    assert len(kept) >= 2, "the checkpoint before was deleted"
    reached = Results.open(begun.folder).outcomes
    if damage == "flip":
        flip_a_state(kept[-1])
    elif damage == "gone":
        kept[-1].unlink()
    else:
        kept[-1].write_bytes(kept[-1].read_bytes()[:700])
    began = first_steps(begun, monkeypatch)
    last = max(row["steps"] for row in reached.values())
    assert min(began) > 0, "a trial began anew"
    assert min(began) < last
    frames = tables(begun.folder.root)
    assert not frames["records"].duplicated(["trial_id", "step"]).any()
    assert_same(frames, tables(calm.folder.root))


def test_once_all_ended_no_earlier_checkpoint_is_kept(calm: Session, begun: Session):
    begun.train(most_commits=2)
    begun.train()
    needed = pd.read_parquet(begun.folder.path("trials.parquet")).checkpoint
    assert begun.folder.names("lanes") == sorted(set(needed))
    assert_same(tables(begun.folder.root), tables(calm.folder.root))
