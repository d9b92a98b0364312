"""The study: the sweeps that the ledger is judged on, one after the other, and the page with its verdicts."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from suite.experiment import Experiment
from suite.loading import load_experiment
from suite.progress import Observer
from suite.run import run
from suite.yaml_source import read_yaml

PROFILE = "study"


@dataclass(frozen=True)
class Studied:
    """What a study came to."""

    page: Path
    num_sweeps: int
    incomplete: tuple[str, ...]
    """Sweeps of which trials failed, or that were interrupted."""


def run_study(
    experiments: Path,
    *,
    page: Path,
    results: str,
    profile: str = PROFILE,
    address: str | None = None,
    tracking_uri: str | None = None,
    observer: Observer | None = None,
    announce: Callable[[str], None] = print,
) -> Studied:
    """Run every experiment of a folder that has this profile, then judge them all; doing it again trains nothing twice.

    Raises:
        ValueError: no experiment there has the profile, or one of them is not usable; nothing was trained.
    """
    found = {path: e for path in sorted(experiments.glob("*.yaml")) if (e := _with_profile(path, profile)) is not None}
    if not found:
        raise ValueError(f"no experiment in {experiments} has a profile {profile!r}")
    folders, incomplete = dict[Path, str](), list[str]()
    for index, (path, experiment) in enumerate(found.items(), start=1):
        words = ["stillpoint", "run", str(path), "--profile", profile, "--results", results]
        announce(f"{index} of {len(found)}: {experiment.name}: {experiment.description}")
        summary = run(
            experiment,
            results=results,
            address=address,
            tracking_uri=tracking_uri,
            observer=observer,
            command=shlex.join(words),
            report=False,
        )
        if not summary.complete or summary.interrupted:
            incomplete.append(experiment.name)
        if summary.interrupted:
            return Studied(page, len(folders), tuple(incomplete))
        folders[Path(results) / experiment.name] = shlex.join(words)
    from analysis.study_page import write_page

    command = shlex.join(["stillpoint", "study", *([] if profile == PROFILE else ["--profile", profile])])
    write_page(folders, page, command=command)
    return Studied(page, len(folders), tuple(incomplete))


def _with_profile(path: Path, profile: str) -> Experiment | None:
    """The experiment under a profile; None if it has none of that name, or predicts nothing."""
    if profile not in (read_yaml(path).data.get("profiles") or {}):
        return None
    experiment = load_experiment(path, profile=profile)
    return experiment if experiment.predictions else None
