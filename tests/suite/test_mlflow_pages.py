"""What MLflow shows of a sweep: its page, the parent run, and the searches of docs/mlflow.md, on a real store."""

import json
import os
import re
import signal
import socket
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Terminal
from mlflow.entities import ViewType
from mlflow_server import MlflowServer
from test_tracking import START_MS, SWEEP, client, empty_store, points, results, runs, trial  # noqa: F401

from analysis import load_results
from suite import tracking, ui
from suite.load import SAMPLE_SECONDS, Load, Loads
from suite.reference import ROOT
from suite.sweep_page import VIEW, DataSet, Sweep, note, view_tags
from suite.tracking import CURVES, Snapshot, Tracker, is_due
from suite.tracking_store import default_tracking_uri

DATA = DataSet("digits", "abcd", {"source": "digits"}, {"num_rows": 64, "query_dim": 32})
WHOLE = replace(
    SWEEP,
    grid={"encoder.width": ["32", "64"], "seed": ["0", "1"]},
    num_trials=4,
    data_sets=(DATA,),
    created_ms=START_MS,
)


def trial_of(width: int, seed: int, **changes: Any) -> tracking.TrialUpdate:
    update = trial(f"m{width}-s{seed}", last=1000 + seed)
    params = {**update.params, "encoder.width": width, "seed": seed}
    summary = {"final_scaled_grad_norm_sq": 1e-5 if width == 64 else 1.0, "final_steps": 1000 + seed}
    return replace(update, **{"params": params, "summary": summary, **changes})


def session(folder: Path, *snapshots: Snapshot, sweep: Sweep = WHOLE) -> None:
    """One run of the sweep, with these moments of it."""
    with Tracker(default_tracking_uri(folder), sweep, folder / "mlartifacts") as tracker:
        for snapshot in snapshots:
            tracker.progress(snapshot)
            until = time.monotonic() + 30
            while tracker._snapshot is not None and time.monotonic() < until:
                time.sleep(0.01)
        tracker.deliver([trial_of(32, 0)])
        tracker.finish([], "finished", {"trials_done": 1.0}, note(sweep, {"finished": 1}, ["at rest"]), step=21)
    assert tracker.problem is None


def moment(seconds: int, **values: float) -> Snapshot:
    return Snapshot(seconds, START_MS + 1000 * seconds, {"trials_done": 0.0, "system/vm/cpu": float(seconds), **values})


def test_the_text_of_the_parent_has_question_answer_and_grid():
    text = note(WHOLE, {"finished": 3, "failed": 1}, ["a = 1 [0, 2] (95%)"])
    assert text.startswith("Does it come to rest?")
    assert r"a = 1 \[0, 2\] (95%)" in text  # or it would be a link
    assert "1 failed, 3 finished" in text
    assert "**Grid**: 4 trials" in text
    assert "- `encoder.width`: 32, 64" in text


def test_a_text_is_kept_within_what_a_tag_holds(results: Path):  # noqa: F811
    many = [f"law {i}: {'x' * 100}" for i in range(200)]
    grid = {f"setting.{i}": list(range(100)) for i in range(30)}
    text = note(replace(WHOLE, grid=grid, num_trials=9), {"finished": 9}, many)
    assert len(text) < 4700
    assert "more in the report" in text
    assert len(max(view_tags(replace(WHOLE, axes=tuple(grid))).values(), key=len)) <= 5000


def test_the_experiment_opens_on_the_sweep_and_its_swept_settings(results: Path):  # noqa: F811
    session(results)
    tags = client(results).get_experiment_by_name("quickstart").tags
    view = json.loads(tags[VIEW + WHOLE.sweep_id])
    assert {"params.`encoder.width`", "params.`seed`", "tags.`status`"} <= set(view["selectedColumns"])
    assert [chart["xAxisScaleType"] for chart in view["compareRunCharts"]] == ["log"] * len(CURVES)
    experiment = client(results).get_experiment_by_name("quickstart").experiment_id
    order = [f"{view['orderByKey']} ASC"]
    found = client(results).search_runs([experiment], view["searchFilter"], ViewType.ACTIVE_ONLY, 100, order)
    assert [run.data.tags["kind"] for run in found] == ["sweep", "trial"]


def test_the_data_set_is_on_the_parent_once(results: Path):  # noqa: F811
    session(results)
    session(results)
    (parent,), (child,) = runs(results, "sweep"), runs(results)
    (given,) = parent.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "abcd")
    assert json.loads(given.dataset.profile)["num_rows"] == 64
    assert not child.inputs.dataset_inputs


def test_progress_comes_once_over_all_runs_of_a_sweep(results: Path):  # noqa: F811
    session(results, moment(0), moment(1), moment(7), moment(7), moment(20))
    session(results, moment(20), moment(22), moment(30, trials_done=3.0))
    (parent,) = runs(results, "sweep")
    found = points(results, parent)
    assert [(step, value) for key, step, _, value in found if key == "system/vm/cpu"] == [
        (0, 0.0), (7, 7.0), (20, 20.0), (30, 30.0)
    ]  # fmt: skip
    assert parent.data.metrics["trials_done"] == 1.0
    session(results)
    assert points(results, runs(results, "sweep")[0]) == found


@pytest.mark.parametrize(("days", "most"), [(0.001, 20), (1, 80), (30, 110)])
def test_progress_has_about_a_hundred_points_however_long_it_takes(days: float, most: int):
    shown, last = 0, None
    for seconds in range(0, round(days * 86400)):
        if is_due(seconds, last):
            shown, last = shown + 1, seconds
    assert 10 < shown < most


def test_a_node_tells_its_processors_and_memory():
    load = Load("cpu")
    before = os.times()
    while os.times().user - before.user < 0.3:
        sum(range(1000))
    told = load.now()
    assert 0 < told["cpu_utilization_percentage"] <= 100
    assert 0 < told["system_memory_usage_percentage"] < 100
    assert 10 < told["worker_memory_usage_megabytes"] < told["system_memory_usage_megabytes"]
    assert load.now() is told, f"it looks again only after {SAMPLE_SECONDS} s"
    loads = Loads()
    loads.note("a", told)
    loads.note("b", {})
    assert set(loads.metrics()) == {f"system/a/{name}" for name in told}


@pytest.fixture
def searched(results: Path) -> Path:  # noqa: F811
    """A store with trials of every kind."""
    trials = [trial_of(width, seed) for width in (32, 64) for seed in (0, 1)]
    trials[0] = replace(trials[0], status="diverged")
    trials[1] = replace(trials[1], status="failed", error="out of memory")
    with Tracker(default_tracking_uri(results), WHOLE, results / "mlartifacts") as tracker:
        tracker.deliver(trials)
        tracker.finish([], "finished", {})
    assert tracker.problem is None
    return results


def test_the_searches_of_the_documentation_find_what_they_say(searched: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "mlflow.md").read_text(), re.DOTALL)
    monkeypatch.chdir(searched.parent)
    names: dict[str, Any] = {}
    exec(code, names)
    found = {
        name: [run.info.run_name for run in names[name]]
        for name in ("all_trials", "wide", "one_cell", "diverged", "failed", "at_rest", "fastest")
    }
    assert sorted(found["all_trials"]) == ["m32-s0", "m32-s1", "m64-s0", "m64-s1"]
    assert sorted(found["wide"]) == sorted(found["at_rest"]) == ["m64-s0", "m64-s1"]
    assert (found["one_cell"], found["diverged"], found["failed"]) == (["m64-s0"], ["m32-s0"], ["m32-s1"])
    assert found["fastest"] == ["m64-s0", "m64-s1"]
    assert names["sweep"].info.run_name == "quickstart"
    monkeypatch.chdir(searched.parent / "elsewhere")


def test_loading_from_a_store_gives_every_point(searched: Path):
    loaded = load_results(default_tracking_uri(searched))
    assert loaded.experiment["description"] == WHOLE.description
    assert sorted(loaded.trials.name) == ["m32-s0", "m32-s1", "m64-s0", "m64-s1"]
    expected = {
        (run.data.tags["trial_id"], step, key): value
        for run in runs(searched)
        for key, step, _, value in points(searched, run)
        if key in CURVES
    }
    rows = loaded.records.melt(["trial_id", "step"]).dropna()
    found = {(r.trial_id, r.step, r.variable): r.value for r in rows.itertuples()}
    assert found == expected
    assert len(found) > 100


@pytest.mark.cluster
def test_loading_from_a_server_gives_what_its_database_gives(tmp_path: Path):
    with MlflowServer(tmp_path / "server") as server:
        with Tracker(server.uri, WHOLE, None) as tracker:
            tracker.deliver([trial_of(32, seed) for seed in range(3)])
        assert tracker.problem is None
        by_server = load_results(server.uri)
    by_file = load_results(default_tracking_uri(server.folder))
    assert by_server.records.equals(by_file.records)
    assert len(by_file.records) > 30


def test_the_ui_opens_at_the_sweep_without_a_foreign_word(searched: Path, home: Path):
    folder = searched / "quickstart"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"sweep_id": WHOLE.sweep_id, "name": "quickstart"}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = Terminal(searched, home)("ui", "quickstart", "--port", port, expect=2)
        assert re.fullmatch(
            rf"stillpoint: cannot listen on port {port} of 127.0.0.1 \(.*\): give another --port, .*", refused.strip()
        )
    process = Terminal(searched, home).start("ui", "quickstart", "--no-browser")
    assert process.stdout
    line = process.stdout.readline()
    experiment = client(searched).get_experiment_by_name("quickstart").experiment_id
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={WHOLE.sweep_id}"
    place = re.fullmatch(rf"MLflow at (http://127.0.0.1:\d+)/{re.escape(page)} \(Ctrl-C ends it\)\n", line)
    assert place, line
    with urllib.request.urlopen(f"{place[1]}/health", timeout=30) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")


def test_the_ui_takes_another_port_where_its_own_is_taken(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(ui, "PORT", taken.getsockname()[1])
        assert ui._port("127.0.0.1", None) not in (0, ui.PORT)


def test_the_ui_of_a_server_says_if_it_does_not_answer(tmp_path: Path, home: Path):
    kept = {"sweep_id": "5eed", "name": "quickstart", "tracking_uri": "http://127.0.0.1:9"}
    (tmp_path / "sweep.json").write_text(json.dumps(kept))
    told = Terminal(tmp_path, home)("ui", ".", expect=2)
    assert told == "stillpoint: MLflow at http://127.0.0.1:9 does not answer (connection refused)\n"
