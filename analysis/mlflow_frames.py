"""Frames of a sweep read from MLflow: its trials and their thinned curves. The whole curves are in Parquet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.frames import Results

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CURVES = ("loss", "scaled_grad_norm_sq", "running_min_scaled_grad_norm_sq")
RUNS_PER_QUERY, MOST_POINTS = 100, 25_000
"""What a server answers at once."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
PASSAGE_COLUMNS = (
    "trial_id",
    "epsilon",
    "relative",
    "at_init",
    "reached",
    "steps_to_stationarity",
    "time_to_stationarity",
    "stay_steps",
)


def load_from_mlflow(uri: str, *, experiment: str | None) -> Results:
    """The newest sweep of an experiment in MLflow. Passages are empty: they are in the sweep's passages.parquet.

    Raises:
        ValueError: no sweep is there, or several experiments are and none is chosen.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic|sqlalchemy|google|pydantic)\b.*")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        parent = _parent(client, experiment)
        children = _children(client, parent)
    except MlflowException as error:
        raise ValueError(f"MLflow at {uri} cannot be read: {error.message.splitlines()[0]}") from None
    axes = [axis.strip() for axis in parent.data.tags.get("axes", "").split(",") if axis.strip()]
    trials = pd.DataFrame([_trial_row(run) for run in children])
    records = _records(client, children)
    described: dict[str, Any] = {
        "name": parent.info.run_name,
        "description": parent.data.tags.get("question", parent.data.tags.get("mlflow.note.content", "")),
        "sweep_id": parent.data.tags["sweep"],
        "stationary_below": 1e-4,
        "laws": [],
    }
    return Results(trials, pd.DataFrame(columns=list(PASSAGE_COLUMNS)), records, described, axes, None)


def _parent(client: MlflowClient, experiment: str | None) -> Run:
    found = {e.name: e.experiment_id for e in client.search_experiments()}
    if experiment is not None and experiment not in found:
        raise ValueError(f"MLflow has no experiment {experiment!r}; it has {', '.join(found) or 'none'}")
    ids = list(found.values()) if experiment is None else [found[experiment]]
    sweeps = client.search_runs(ids, "tags.kind = 'sweep'", order_by=["attributes.start_time DESC"])
    names = {run.info.run_name for run in sweeps}
    if not sweeps:
        raise ValueError("MLflow holds no sweep of Stillpoint there; check the address and the experiment")
    if len(names) > 1:
        raise ValueError(f"MLflow holds {', '.join(sorted(names))}: which one? Pass experiment=NAME")
    return sweeps[0]


def _children(client: MlflowClient, parent: Run) -> list[Run]:
    children: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [parent.info.experiment_id],
            f"tags.kind = 'trial' and tags.sweep = '{parent.data.tags['sweep']}'",
            max_results=1000,
            page_token=token,
        )
        children += page
        token = page.token
        if not token:
            return children


def _trial_row(run: Run) -> dict[str, Any]:
    params = {name: _typed(value) for name, value in run.data.params.items()}
    final = {
        name.removeprefix("final_"): value for name, value in run.data.metrics.items() if name.startswith("final_")
    }
    flags = {name: bool(final[name]) for name in ("stationary", "unstable", "descent_regime") if name in final}
    tags = run.data.tags
    kind = {"kind": tags["end_point"]} if "end_point" in tags else {}
    return {
        "trial_id": tags["trial_id"],
        "name": run.info.run_name,
        **params,
        "status": tags["status"],
        **final,
        **flags,
        **kind,
    }


def _typed(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _records(client: MlflowClient, runs: list[Run]) -> pd.DataFrame:
    """The thinned curves of all runs, a row per step."""
    ids = {run.info.run_id: run.data.tags["trial_id"] for run in runs}
    order = {run_id: number for number, run_id in enumerate(ids)}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for curve in CURVES:
        holders = [run.info.run_id for run in runs if curve in run.data.metrics]
        for run_id, step, value in _history(client, holders, curve):
            rows.setdefault((run_id, step), {"trial_id": ids[run_id], "step": step})[curve] = value
    ordered = sorted(rows, key=lambda key: (order[key[0]], key[1]))
    return pd.DataFrame([rows[key] for key in ordered], columns=["trial_id", "step", *CURVES])


def _history(client: MlflowClient, run_ids: list[str], curve: str) -> Iterator[tuple[str, int, float]]:
    """Run, step and value of all points of a metric: in one query for many runs, where the store can answer that."""
    store = client._tracking_client.store
    for start in range(0, len(run_ids), RUNS_PER_QUERY):
        part = run_ids[start : start + RUNS_PER_QUERY]
        if hasattr(store, "get_metric_history_bulk"):
            for point in store.get_metric_history_bulk(part, curve, MOST_POINTS):
                yield point.run_id, point.step, point.value
        elif (points := _asked_together(client.tracking_uri, part, curve)) is not None:
            yield from points
        else:
            for run_id in part:
                yield from ((run_id, point.step, point.value) for point in client.get_metric_history(run_id, curve))


def _asked_together(uri: str, run_ids: list[str], curve: str) -> list[tuple[str, int, float]] | None:
    """From a server, by the call that its own pages use; None where there is no such call, or not all came."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(
        get_default_host_creds(uri),
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        "GET",
        params={"run_id": run_ids, "metric_key": curve, "max_results": MOST_POINTS},
    )
    if not answer.ok:
        return None
    points = answer.json().get("metrics", [])
    if len(points) >= MOST_POINTS:
        return None
    return [(point["run_id"], int(point["step"]), float(point["value"])) for point in points]
