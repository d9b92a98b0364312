"""Results folders of small sweeps, trained for real in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from suite import load_experiment
from suite.lanes import groups
from suite.orders import Order
from suite.results import Results
from suite.run import swept_paths
from suite.storage import Folder
from suite.trials import expand, missing
from suite.worker import Attempt


def train(yaml: str, folder: Path) -> Path:
    """The results folder of an experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "x.yaml"
    path.write_text(yaml)
    experiment = load_experiment(path)
    trials = expand(experiment).trials
    results = Results.open(Folder(folder / "results" / experiment.name))
    tasks = missing(trials, {}, experiment)
    for number, members in enumerate(groups(tasks).values()):
        order = Order(
            root=results.folder.root,
            epoch=1,
            lane=f"{number:05d}",
            attempt=1,
            tasks=members,
            slots=4,
            threads=1,
            device="cpu",
            budget=experiment.budget,
            stop_below=experiment.stop_below,
            stop_share=experiment.stop_share,
            levels=experiment.levels,
            measure=experiment.measure,
            keep_states=False,
        )
        for name in Attempt(order, report=lambda progress: None, stopping=lambda: False).run().commits:
            results.take(name)
    results.judge(experiment.levels)
    told = {"name", "description", "stationary_below", "stationary_below_relative", "budget", "laws"}
    described = experiment.model_dump(include=told)
    metadata = {"axes": swept_paths(experiment), "experiment": described | {"sweep_id": "5eed"}}
    results.merge(trials, metadata=metadata, closing_epoch=1)
    return results.folder.root


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Trains an experiment once per session and text."""
    known: dict[str, Path] = {}

    def once(yaml: str) -> Path:
        if yaml not in known:
            known[yaml] = train(yaml, tmp_path_factory.mktemp("sweep"))
        return known[yaml]

    return once
