"""What MLflow shows of a sweep as it opens: the columns and charts of its runs, and the text on the parent run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CURVES = ("loss", "scaled_grad_norm_sq", "running_min_scaled_grad_norm_sq")
"""The columns of records.parquet that are drawn in MLflow."""
METRIC_COLUMNS = ("final_scaled_grad_norm_sq", "final_loss", "final_steps")
TAG_COLUMNS = ("status", "end_point")
"""Of a trial's tags, the columns that open; every swept setting is a column too."""
MOST_AXES = 12
"""Swept settings that are columns as the page opens: a tag of MLflow's holds 5,000 characters."""
VIEW = "mlflow.sharedViewState."
"""Begins the tag of an experiment that holds a view, for the UI to open by `viewStateShareKey`."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
MOST_VALUES = 12
ANSWER_CHARACTERS = 3000
LINKED = ("report.html", "figures", "tables", "experiment.yaml")
"""Artifacts that the text on the parent links to."""


@dataclass(frozen=True)
class DataSet:
    """A data set that trials of the sweep are drawn from."""

    name: str
    digest: str
    source: Mapping[str, Any]
    """Its settings, and the SHA-256 of the files it reads."""
    profile: Mapping[str, Any]
    """How many rows and columns it has, of what is known without drawing it."""


@dataclass(frozen=True)
class Sweep:
    """What the parent run shows."""

    sweep_id: str
    name: str
    """Name of the MLflow experiment and of the parent run."""
    description: str
    """The question."""
    axes: tuple[str, ...]
    """Full paths of the swept settings."""
    experiment_yaml: str
    grid: Mapping[str, Sequence[Any]] | None = None
    """Values of every axis by its full path."""
    num_trials: int | None = None
    data_sets: tuple[DataSet, ...] = ()
    created_ms: int = 0


def view_tags(sweep: Sweep) -> dict[str, str]:
    """Tags of the experiment that make its page open on this sweep's runs."""
    return EXPERIMENT_TAGS | {VIEW + sweep.sweep_id: json.dumps(_view(sweep), separators=(",", ":"))}


def address(experiment_id: str, sweep_id: str | None) -> str:
    """The page of the runs, after the server's address; with the view of the sweep if it has one."""
    view = "" if sweep_id is None else f"&viewStateShareKey={sweep_id}"
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning{view}"


def _view(sweep: Sweep) -> dict[str, Any]:
    """The parent first, then the trials; sorted by a tag they stand beside each other, not folded under the parent."""
    columns = [f"tags.`{name}`" for name in TAG_COLUMNS] + [f"params.`{axis}`" for axis in sweep.axes[:MOST_AXES]]
    columns += [f"metrics.`{name}`" for name in METRIC_COLUMNS]
    return {
        "searchFilter": f"tags.sweep = '{sweep.sweep_id}'",
        "orderByKey": "tags.`kind`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": [_chart(name) for name in CURVES],
        "compareRunSections": [{"uuid": "curves", "name": "Curves", "display": True, "isReordered": False}],
    }


def _chart(metric: str) -> dict[str, Any]:
    """A curve over steps, both axes logarithmic."""
    return {
        "uuid": metric,
        "type": "LINE",
        "metricSectionId": "curves",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "runsCountToCompare": 100,
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "xAxisScaleType": "log",
        "scaleType": "log",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "range": {},
    }


def note(sweep: Sweep, counts: Mapping[str, int] | None = None, answers: Sequence[str] = ()) -> str:
    """The text on the parent run, in Markdown: the question, the answer once there is one, statuses and the grid."""
    parts = [sweep.description]
    if answers:
        parts.append(
            "**Answer**\n\n" + "\n".join(_within(ANSWER_CHARACTERS, [f"- {_plain(answer)}" for answer in answers]))
        )
    if counts:
        parts.append("**Trials**: " + ", ".join(f"{counts[status]} {status}" for status in sorted(counts)))
    if sweep.grid:
        axes = [f"- `{path}`: {_values(values)}" for path, values in sweep.grid.items()]
        parts.append(f"**Grid**: {sweep.num_trials} trials\n\n" + "\n".join(_within(1000, axes)))
    return "\n\n".join(part for part in parts if part)


def links(experiment_id: str, run_id: str, names: Iterable[str]) -> str:
    """Links to artifacts of the parent run, relative to the server's page."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts"
    there = set(names)
    return " · ".join(f"[{name}]({page}/{name})" for name in LINKED if name in there)


def _plain(text: str) -> str:
    """Without a meaning in Markdown, where [0, 1] (95%) would be a link."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def _values(values: Sequence[Any]) -> str:
    words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    shown = ", ".join(words[:MOST_VALUES])
    return shown + (f", … ({len(words)} values)" if len(words) > MOST_VALUES else "")


def _within(characters: int, lines: Sequence[str]) -> list[str]:
    """The first lines, of this many characters at most, and how many more there are."""
    kept: list[str] = []
    for line in lines:
        if kept and sum(map(len, kept)) + len(line) > characters:
            return [*kept, f"- … {len(lines) - len(kept)} more in the report"]
        kept.append(line)
    return kept
