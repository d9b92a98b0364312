"""A results folder: whatever is killed and whenever tables are merged, each trial and each record is there once."""

import io
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.commits import Address, Commit, decode, decode_state, encode
from suite.experiment import Experiment
from suite.measurement.certificate import Levels
from suite.results import Results, ResultsError, read_table, write_table
from suite.storage import DamagedError, Folder
from suite.tables import OUTCOMES, PASSAGES, RECORDS, table
from suite.trials import Trial, expand

TRIALS = expand(Experiment(name="t", records_per_decade=4, sweep={"seed": [0, 1, 2]})).trials
IDS = [trial.trial_id for trial in TRIALS]
STATE = {"weight.0": np.arange(6.0).reshape(2, 3), "step": np.asarray(7)}


def record(trial_id: str, step: int, loss: float = 0.0, *, final: bool = False) -> dict[str, object]:
    return {"trial_id": trial_id, "step": step, "loss": loss, "final": final, "grad_norm_sq_by_layer": [1.0]}


def outcome(trial_id: str, steps: int, status: str = "finished") -> dict[str, object]:
    values = {"scaled_grad_norm_sq": 1e-5, "violating_share": 0.0, "learning_rate": 0.2, "wall_seconds": 1.0}
    return {"trial_id": trial_id, "status": status, "steps": steps, **values}


def passage(trial_id: str, steps: int) -> dict[str, object]:
    return {"trial_id": trial_id, "epsilon": 0.1, "relative": False, "reached": True, "steps_to_stationarity": steps}


def commit(
    folder: Folder,
    *,
    epoch: int = 1,
    lane: str = "00000",
    attempt: int = 1,
    number: int = 0,
    records: tuple = (),
    outcomes: tuple = (),
    running: dict[str, tuple[int, float]] | None = None,
    accepted: tuple[str, ...] = (),
    predecessor: str | None = None,
) -> str:
    """Write a commit; trials that run or ended have a state in it."""
    content = Commit(
        records=table(records, RECORDS),
        outcomes=table(outcomes, OUTCOMES),
        passages=table((passage(o["trial_id"], o["steps"]) for o in outcomes), PASSAGES),
        running=running or {},
        accepted=list(accepted),
        predecessor=predecessor,
    )
    name = Address(epoch=epoch, lane=lane, attempt=attempt, number=number).name
    states = dict.fromkeys([*(running or {}), *(o["trial_id"] for o in outcomes if o["status"] == "finished")], STATE)
    folder.write(name, encode(content, states))
    return name


def ended(folder: Folder, trial_id: str, *, number: int, epoch: int = 1, steps: int = 10, start: int = 0) -> str:
    rows = [record(trial_id, step, final=step == steps) for step in (0, 1, 2, 3, 6, steps) if step >= start]
    return commit(folder, epoch=epoch, number=number, records=tuple(rows), outcomes=(outcome(trial_id, steps),))


def steps_of(results: Results, trial_id: str) -> list[int]:
    frame = results.records()
    return frame[frame.trial_id == trial_id].step.tolist()


def test_a_commit_comes_back_as_it_was_written(tmp_path: Path):
    folder = Folder(tmp_path)
    name = commit(
        folder,
        records=(record(IDS[0], 0, 0.1), record(IDS[0], 1, float("nan"))),
        outcomes=(outcome(IDS[1], 9),),
        running={IDS[0]: (7, 1.5)},
    )
    read = decode(folder, name)
    assert read.records["step"].to_pylist() == [0, 1]
    assert np.isnan(read.records["loss"].to_pylist()[1])
    assert read.running == {IDS[0]: (7, 1.5)}
    assert read.states == {IDS[0], IDS[1]}
    state = decode_state(folder, name, IDS[0])
    assert state.keys() == STATE.keys()
    for key, value in STATE.items():
        np.testing.assert_array_equal(state[key], value)
        assert state[key].dtype == value.dtype
    with pytest.raises(DamagedError):
        decode_state(folder, name, "absent")


@given(position=st.floats(0, 1), flip=st.integers(1, 255))
@settings(deadline=None)
def test_a_damaged_state_is_never_read_as_a_good_one(position, flip):
    whole = encode(
        Commit(records=table([], RECORDS), outcomes=table([], OUTCOMES), passages=table([], PASSAGES)), {IDS[0]: STATE}
    )
    at = int(position * (len(whole) - 1))
    damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "commit").write_bytes(damaged)
        try:
            state = decode_state(Folder(Path(place)), "commit", IDS[0])
        except (DamagedError, OSError):
            return
    for key in STATE.keys() & state.keys():
        np.testing.assert_array_equal(state[key], STATE[key])


def merged(results: Results, trials: list[Trial] = TRIALS, *, closing_epoch: int | None = None) -> None:
    results.judge(Levels())
    results.merge(trials, metadata={}, closing_epoch=closing_epoch)


def tables(folder: Folder) -> dict[str, pd.DataFrame]:
    return {name: read_table(folder, f"{name}.parquet").to_pandas() for name in ("trials", "records", "passages")}


def test_many_commits_taken_in_give_the_same_tables_gathered_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def story(name: str) -> dict[str, pd.DataFrame]:
        folder = Folder(tmp_path / name)
        results = Results.open(folder)
        for step in range(3):
            for number, trial_id in enumerate(IDS[:2]):
                rows = (record(trial_id, step, float(step)), record(trial_id, step + 1))
                results.take(
                    commit(folder, number=2 * step + number, records=rows, running={trial_id: (step + 1, 0.1)})
                )
        ends = [ended(folder, trial_id, number=6 + number) for number, trial_id in enumerate(IDS)]
        for end in ends:
            results.take(end)
        merged(results)
        return tables(folder)

    whole = story("whole")
    monkeypatch.setattr("suite.results.MOST_PARTS", 2)
    for name, frame in story("gathered").items():
        pd.testing.assert_frame_equal(frame, whole[name], obj=name)


def test_a_driver_holds_little_of_each_commit(tmp_path: Path):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    folder, results = Folder(tmp_path), Results(Folder(tmp_path))
    names = [
        commit(folder, lane=f"{lane:05d}", records=tuple(record(IDS[0], step) for step in range(40)))
        for lane in range(1500)
    ]
    for name in names[:500]:
        results.take(name)
    before = resident()
    for name in names[500:]:
        results.take(name)
    assert resident() - before < 20e6


@settings(deadline=None, max_examples=40)
@given(
    merges=st.lists(st.booleans(), min_size=5, max_size=5),
    reopened=st.lists(st.booleans(), min_size=5, max_size=5),
    closing=st.booleans(),
)
def test_merging_and_reopening_at_any_moment_gives_the_same_tables(tmp_path_factory, merges, reopened, closing):
    def story(folder: Folder, merges: list[bool], reopened: list[bool]) -> dict[str, pd.DataFrame]:
        results = Results.open(folder)
        parts = [
            {"records": (record(IDS[0], 0), record(IDS[0], 1)), "running": {IDS[0]: (1, 0.1)}},
            {"records": (record(IDS[1], 0), record(IDS[0], 2)), "running": {IDS[0]: (2, 0.1), IDS[1]: (0, 0.0)}},
            {
                "records": (record(IDS[0], 3, final=True),),
                "outcomes": (outcome(IDS[0], 3),),
                "running": {IDS[1]: (1, 0.0)},
            },
            {"records": (record(IDS[1], 2),), "running": {IDS[1]: (2, 0.0), IDS[2]: (0, 0.0)}},
            {
                "records": (record(IDS[1], 3, final=True), record(IDS[2], 0), record(IDS[2], 1, final=True)),
                "outcomes": (outcome(IDS[1], 3), outcome(IDS[2], 1, "diverged")),
            },
        ]
        for number, (part, merge, reopen) in enumerate(zip(parts, merges, reopened, strict=True)):
            name = commit(folder, number=number, **part)
            if reopen:
                results = Results.open(folder)
            results.take(name)
            if merge:
                merged(results)
        merged(results, closing_epoch=1)
        return tables(folder)

    root = tmp_path_factory.mktemp("story")
    plain = story(Folder(root / "plain"), [False] * 5, [False] * 5)
    other = story(Folder(root / "other"), merges, reopened)
    for name, frame in plain.items():
        pd.testing.assert_frame_equal(frame, other[name])
    assert plain["trials"].trial_id.tolist() == IDS
    assert not plain["records"].duplicated(["trial_id", "step"]).any()


def test_reading_again_after_a_kill_between_any_two_writes_of_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every prefix of the writes and deletions of a merge leaves a folder that opens to the same results."""
    source = Folder(tmp_path / "source")
    results = Results.open(source)
    results.take(ended(source, IDS[0], number=0))
    merged(results)
    results.take(ended(source, IDS[1], number=1))
    expected = None

    class Killed(Exception):
        pass

    for allowed in range(20):
        root = tmp_path / f"killed-{allowed}"
        shutil.copytree(source.root, root)
        folder, left = Folder(root), [allowed]

        def counted(operation, left=left):
            def limited(self, *args):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return operation(self, *args)

            return limited

        opened = Results.open(folder)
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", counted(Folder.write))
            patch.setattr(Folder, "delete", counted(Folder.delete))
            try:
                merged(opened, closing_epoch=1)
                done = True
            except Killed:
                done = False
        again = Results.open(folder)
        again.judge(Levels())
        found = (again.outcome(IDS[0])["steps"], again.outcome(IDS[1])["steps"], again.records().to_dict("list"))
        expected = expected or found
        assert str(found) == str(expected)
        for trial_id in IDS[:2]:
            decode_state(folder, again.outcome(trial_id)["checkpoint"], trial_id)
        if done:
            break
    assert allowed >= 3
    assert done


def test_a_larger_budget_replaces_the_final_record_off_the_grid(tmp_path: Path):
    folder = Folder(tmp_path)
    first = Results.open(folder)
    first.take(ended(folder, IDS[0], number=0, steps=8))
    merged(first, closing_epoch=1)
    assert steps_of(first, IDS[0]) == [0, 1, 2, 3, 6, 8]
    second = Results.open(folder)
    second.take(ended(folder, IDS[0], epoch=2, number=0, steps=18, start=9))
    merged(second, closing_epoch=2)
    assert steps_of(second, IDS[0]) == [0, 1, 2, 3, 6, 18]
    frame = tables(folder)
    assert frame["records"][["step", "final"]].values.tolist()[-1] == [18, True]
    assert frame["records"].final.sum() == 1
    assert frame["passages"].steps_to_stationarity.tolist() == [18]


@pytest.mark.parametrize("known", ["nothing", "a failure", "a trial that diverged unrecorded"])
def test_without_any_record_the_tables_are_empty(tmp_path: Path, known: str):
    folder = Folder(tmp_path)
    results = Results.open(folder)
    if known == "a failure":
        results.fail(IDS[0], "the worker died")
    elif known != "nothing":
        results.take(commit(folder, outcomes=(outcome(IDS[0], 0, "diverged"),)))
    results.judge(Levels())
    merged(results, closing_epoch=1)
    assert results.records().empty
    frames = tables(folder)
    assert frames["records"].columns.tolist() == RECORDS.names
    assert frames["trials"].trial_id.tolist() == IDS
    again = Results.open(folder)
    assert again.records().empty
    assert again.drop_incomplete(TRIALS) == ([] if known != "a trial that diverged unrecorded" else IDS[:1])
    merged(again, closing_epoch=2)


def test_records_without_any_start_are_kept(tmp_path: Path):
    folder = Folder(tmp_path)
    results = Results.open(folder)
    results.take(commit(folder, records=(record(IDS[0], 3),), running={IDS[0]: (4, 0.0)}))
    assert steps_of(results, IDS[0]) == [3]


def test_a_damaged_commit_does_not_count_and_an_earlier_checkpoint_does(tmp_path: Path):
    folder = Folder(tmp_path)
    first = commit(folder, number=0, records=(record(IDS[0], 0),), running={IDS[0]: (1, 0.1)})
    last = commit(folder, number=1, records=(record(IDS[0], 1),), running={IDS[0]: (2, 0.2)})
    folder.path(last).write_bytes(folder.read(last)[:-30])
    results = Results.open(folder)
    assert results.damaged == [folder.where(last)]
    assert results.drop_incomplete(TRIALS) == []
    assert results.outcome(IDS[0])["checkpoint"] == first


def test_a_trial_with_a_hole_in_its_records_is_forgotten(tmp_path: Path):
    folder = Folder(tmp_path)
    lost = commit(folder, number=0, records=(record(IDS[0], 0),), running={IDS[0]: (0, 0.1)})
    commit(folder, number=1, records=(record(IDS[0], 1),), running={IDS[0]: (2, 0.2)})
    folder.path(lost).write_bytes(b"")
    results = Results.open(folder)
    assert results.outcome(IDS[0])["steps"] == 2
    assert results.drop_incomplete(TRIALS) == [IDS[0]]
    assert results.outcome(IDS[0]) == {"status": "pending"}


def test_a_trial_trained_again_from_its_start_drops_what_it_had(tmp_path: Path):
    folder = Folder(tmp_path)
    results = Results.open(folder)
    results.take(ended(folder, IDS[0], number=0, steps=8))
    merged(results, closing_epoch=1)
    results = Results.open(folder)
    results.take(commit(folder, epoch=2, records=(record(IDS[0], 0, 5.0), record(IDS[0], 1, 5.0))))
    assert results.records().loss.tolist() == [5.0, 5.0]


def test_what_an_attempt_given_up_writes_later_does_not_count(tmp_path: Path):
    folder = Folder(tmp_path)
    early = commit(folder, number=0, records=(record(IDS[0], 0),), running={IDS[0]: (0, 0.0)})
    late = commit(folder, number=1, records=(record(IDS[0], 1, 99.0),), running={IDS[0]: (1, 0.0)})
    follower = commit(
        folder,
        attempt=2,
        records=(record(IDS[0], 1, 1.0),),
        running={IDS[0]: (1, 0.0)},
        accepted=(early,),
        predecessor=late.rpartition("/")[0],
    )
    results = Results.open(folder)
    assert results.records().loss.tolist() == [0.0, 1.0]
    assert results.outcome(IDS[0])["checkpoint"] == follower


def test_commits_no_longer_needed_are_deleted_and_checkpoints_stay(tmp_path: Path):
    folder = Folder(tmp_path)
    results = Results.open(folder)
    results.take(commit(folder, number=0, records=(record(IDS[0], 0),), running={IDS[0]: (0, 0.0)}))
    last = ended(folder, IDS[0], number=1)
    results.take(last)
    merged(results, closing_epoch=1)
    assert folder.names("lanes") == [last]


def test_trials_not_planned_any_more_are_kept_aside_and_come_back(tmp_path: Path):
    folder = Folder(tmp_path)
    results = Results.open(folder)
    for number, trial_id in enumerate(IDS):
        results.take(ended(folder, trial_id, number=number))
    merged(results, closing_epoch=1)
    fewer = Results.open(folder)
    merged(fewer, TRIALS[:1], closing_epoch=2)
    assert tables(folder)["trials"].trial_id.tolist() == IDS[:1]
    assert set(tables(folder)["records"].trial_id) == {IDS[0]}
    back = Results.open(folder)
    merged(back, TRIALS, closing_epoch=3)
    assert tables(folder)["trials"].status.tolist() == ["finished"] * 3
    assert set(tables(folder)["records"].trial_id) == set(IDS)


def test_a_failed_trial_keeps_its_checkpoint_and_its_reason(tmp_path: Path):
    folder = Folder(tmp_path)
    results = Results.open(folder)
    name = commit(folder, records=(record(IDS[0], 0),), running={IDS[0]: (1, 2.0)})
    results.take(name)
    results.fail(IDS[0], "the worker died", None)
    merged(results, closing_epoch=1)
    known = Results.open(folder).outcome(IDS[0])
    assert (known["status"], known["error"], known["checkpoint"]) == ("failed", "the worker died", name)
    assert Results.open(folder).outcome(IDS[2]) == {"status": "pending"}


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", None])
def test_a_damaged_table_is_refused(tmp_path: Path, content: bytes | None):
    folder = Folder(tmp_path)
    if content is None:  # Parquet, but none of ours
        sink = io.BytesIO()
        pa.parquet.write_table(pa.table({"a": [1]}), sink)
        content = sink.getvalue()
    folder.write("trials.parquet", content)
    with pytest.raises(ResultsError, match="not a table of results"):
        Results.open(folder)


def test_a_table_of_a_newer_version_is_refused(tmp_path: Path):
    folder = Folder(tmp_path)
    write_table(folder, "trials.parquet", pa.table({"trial_id": ["a"]}), {"format_version": 99})
    with pytest.raises(ResultsError, match="format version 99"):
        Results.open(folder)


def written_by(results: Results, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects that a merge writes."""
    names: list[str] = []
    write = Folder.write
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", lambda self, name, content: (names.append(name), write(self, name, content)))
        merged(results, trials)
    return names


def test_a_merge_of_nothing_new_leaves_rows_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(tmp_path)
    first = Results.open(folder)
    for number, trial_id in enumerate(IDS[:2]):
        first.take(ended(folder, trial_id, number=number))
    merged(first, TRIALS[:2], closing_epoch=1)
    kept = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("trials", "passages", "records")}

    again = Results.open(folder)
    assert again.drop_incomplete(TRIALS[:2]) == []
    assert written_by(again, TRIALS[:2], monkeypatch) == ["trials.parquet"]
    for name, frame in kept.items():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), frame)


@pytest.mark.parametrize("change", ["another order", "one more", "one less", "older columns", "failed", "a hole"])
def test_a_merge_of_anything_new_writes_rows(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(tmp_path)
    first = Results.open(folder)
    for number, trial_id in enumerate(IDS[:2]):
        first.take(ended(folder, trial_id, number=number))
    merged(first, TRIALS[:2], closing_epoch=1)
    if change == "older columns":
        records = read_table(folder, "records.parquet")
        write_table(folder, "records.parquet", records.drop_columns(["loss"]))
    if change == "a hole":
        records = read_table(folder, "records.parquet")
        write_table(folder, "records.parquet", records.slice(1))
    results = Results.open(folder)
    planned = {"another order": TRIALS[1::-1], "one more": TRIALS, "one less": TRIALS[:1]}.get(change, TRIALS[:2])
    assert results.drop_incomplete(planned) == ([IDS[0]] if change == "a hole" else [])
    if change == "failed":
        results.fail(IDS[0], "it broke")
    assert {"records.parquet", "passages.parquet", "trials.parquet"} <= set(written_by(results, planned, monkeypatch))
    assert read_table(folder, "records.parquet").schema.names == RECORDS.names
    present = pd.read_parquet(tmp_path / "records.parquet").trial_id.unique().tolist()
    assert present == [t.trial_id for t in planned if t.trial_id in IDS[:2]]


def test_what_a_run_needs_to_know_of_records_is_two_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(tmp_path)
    first = Results.open(folder)
    first.take(ended(folder, IDS[0], number=0))
    merged(first, TRIALS[:1], closing_epoch=1)
    read: list[tuple[str, list[str] | None]] = []

    def noted(folder: Folder, name: str, *, columns: list[str] | None = None) -> pa.Table | None:
        read.append((name, columns))
        return read_table(folder, name, columns=columns)

    monkeypatch.setattr("suite.results.read_table", noted)
    results = Results.open(folder)
    results.drop_incomplete(TRIALS[:1])
    merged(results, TRIALS[:1])
    assert {tuple(columns or ()) for name, columns in read if name == "records.parquet"} == {(), ("trial_id", "step")}
    assert results.records(["trial_id", "loss"]).columns.tolist() == ["trial_id", "loss"]
    assert results.records(["loss"]).loss.tolist() == results.records().loss.tolist()


def test_a_table_damaged_inside_is_told_before_training(tmp_path: Path):
    folder = Folder(tmp_path)
    first = Results.open(folder)
    first.take(ended(folder, IDS[0], number=0))
    merged(first, TRIALS[:1], closing_epoch=1)
    content = bytearray(folder.read("records.parquet"))
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    folder.write("records.parquet", bytes(content))
    with pytest.raises(ResultsError, match=r"records\.parquet is not a table of results"):
        Results.open(folder).load()
