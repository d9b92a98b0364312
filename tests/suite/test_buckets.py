"""Results in an S3 bucket, which moto serves over HTTP: what a folder promises, and a sweep that is killed there."""

import json
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Terminal
from final_check import check_complete, tables
from mlflow_server import MlflowServer
from s3_server import S3Server

from analysis import load_results
from suite.buckets import BLOCK_BYTES, Bucket, BucketError
from suite.storage import Folder, LockedError, Storage, at_hand, locked, owner, storage_at

SWEEP = """
name: sweep
data: {source: sphere, samples: 32, input_dim: 16}
encoder: {depth: 2, embedding_dim: 8}
budget: {steps: 1500, stop_below: 0}
resources: {slots: 2}
sweep:
  encoder.width: [64, 96]
  seed: {range: 4}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def at_server(server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An address of this test's own, which this process can reach."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"{server.root}/{request.node.name.partition('[')[0]}"


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, at_server: str) -> Storage:
    return storage_at(tmp_path / "made" if request.param == "folder" else at_server)


def test_objects_are_found_as_they_were_written(storage: Storage):
    assert not storage.exists("a/b")
    assert storage.names("a") == []
    storage.write("a/b", b"one")
    storage.write("a/b", b"two")
    storage.write("a/c/d", b"")
    storage.write("a/.hidden", b"not listed")
    storage.write("ab", b"another, with the same first letter")
    assert (storage.read("a/b"), storage.read("a/.hidden")) == (b"two", b"not listed")
    assert storage.names("a") == ["a/b", "a/c/d"]
    assert not storage.exists("a/x")
    storage.delete(["a/b"])
    assert not storage.exists("a/b")
    storage.delete([])
    with pytest.raises(FileNotFoundError):
        storage.read("a/b")
    with pytest.raises(FileNotFoundError):
        storage.open("a/b")


def test_of_many_that_create_an_object_at_once_one_is_first(storage: Storage):
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda number: storage.create("lock/1", b"%d" % number), range(8)))
    assert first.count(True) == 1
    assert storage.read("lock/1") == b"%d" % first.index(True)


def test_of_a_large_archive_the_parts_that_are_asked_for_are_read(storage: Storage, tmp_path: Path):
    draws = np.random.default_rng(0)
    parts = {f"states/{number}.npy": draws.bytes(BLOCK_BYTES // 2 + number) for number in range(5)}
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    storage.write("large.zip", (tmp_path / "large.zip").read_bytes())
    with storage.open("large.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == list(parts)
        for name in reversed(parts):
            assert archive.read(name) == parts[name]


def test_one_process_at_a_time_holds_the_lock(storage: Storage):
    with locked(storage) as lock:
        with pytest.raises(LockedError, match="in use by process"), locked(storage):
            pass
        lock.check()
    with locked(storage) as lock:
        assert lock.epoch == 2
        assert storage.names("lock") == ["lock/2"]
        storage.write("lock/3", json.dumps({**vars(owner(storage)), "epoch": 3}).encode())
        with pytest.raises(LockedError, match="taken over"):
            lock.check()


def test_what_changes_at_hand_goes_back(storage: Storage):
    storage.write("trials", b"old")
    storage.write("figures/one", b"kept")
    storage.write("lanes/x", b"not asked for")
    with at_hand(storage, ["trials", "figures", "absent"]) as here:
        assert (here / "figures" / "one").read_bytes() == b"kept"
        assert isinstance(storage, Folder) or not (here / "lanes").exists()
        (here / "trials").write_bytes(b"new")
        (here / "figures" / "two").write_bytes(b"added")
    assert [storage.read(n) for n in ("trials", "figures/one", "figures/two")] == [b"new", b"kept", b"added"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ftp://host/folder", "results cannot lie at ftp://"),
        ("s3:/mine/results", "names no bucket; write s3://BUCKET/FOLDER"),
        ("s3://", "names no bucket"),
        ("s3://mine/res*lts", "stand for many names"),
        (Path("s3://mine/results"), "give it as text"),
    ],
)
def test_an_address_that_is_none_of_a_bucket_is_refused(place: str | Path, words: str):
    with pytest.raises(ValueError, match=words):
        storage_at(place)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}, "credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect to the endpoint"),
    ],
)
def test_a_bucket_that_cannot_be_reached_is_told_in_a_line(
    terminal: Terminal, server: S3Server, changed: dict[str, str], words: str
):
    terminal.environment = {**server.environment, **changed}
    terminal.write("sweep.yaml", SWEEP)
    arguments = ("run", "sweep.yaml", "--results", f"{server.root}/unreached", "--tracking-uri", "none")
    output = terminal(*arguments, expect=2)
    assert f"{server.root}/unreached/sweep" in output
    assert words in output
    assert len(output.splitlines()) == 1


def test_what_goes_wrong_in_a_bucket_is_an_error_of_the_system(at_server: str):
    with pytest.raises(BucketError, match="bucket name"):
        Bucket("s3://no bucket can have this name").write("a", b"")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--results", "{root}/refused"), "has no room for MLflow's database"),
        (("--results", "s3://no-such-bucket", "--tracking-uri", "none"), "bucket"),
        (("--results", "s3:/mine", "--tracking-uri", "none"), "write s3://BUCKET/FOLDER"),
    ],
)
def test_a_run_that_cannot_use_its_bucket_says_so_and_writes_nothing(
    terminal: Terminal, server: S3Server, at_server: str, arguments: tuple[str, ...], words: str
):
    terminal.environment = server.environment
    terminal.write("sweep.yaml", SWEEP)
    output = terminal("run", "sweep.yaml", *(a.format(root=server.root) for a in arguments), expect=2)
    assert words in " ".join(output.split())
    assert len(output.splitlines()) == 1
    assert storage_at(f"{server.root}/refused").names("") == []
    assert [path.name for path in terminal.folder.iterdir()] == ["sweep.yaml"]


@pytest.mark.cluster
def test_a_sweep_in_a_bucket_outlives_its_driver_and_its_numbers_are_those_of_a_folder(
    terminal: Terminal, server: S3Server, at_server: str, home: Path
):
    terminal.write("sweep.yaml", SWEEP)
    terminal("run", "sweep.yaml", "--no-report", "--results", "calm")
    calm = tables(terminal.folder / "calm" / "sweep")
    inside = replace(terminal, environment=server.environment)
    bucket = storage_at(at_server, "sweep")
    with MlflowServer(terminal.folder / "mlflow") as store:
        command = ("run", "sweep.yaml", "--results", at_server, "--tracking-uri", store.uri)
        driver = inside.start(*command)
        until = time.monotonic() + 90
        while not bucket.names("lanes"):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < until, "nothing is committed"
            time.sleep(0.1)
        assert "is in use by process" in inside(*command, expect=3)
        assert "A run is at work" in inside("status", f"{at_server}/sweep")
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        printed = inside(*command)
        assert f"{at_server}/sweep/report.html" in printed.replace("\n", "")
        assert "8 finished" in inside("status", f"{at_server}/sweep")
        assert b"<html" in bucket.read("report.html")
        assert {"figures/shares.svg", "pictures.json", "fits.json"} <= set(bucket.names(""))
        frames = load_results(f"{at_server}/sweep")
        assert len(frames.trials) == 8
        copied = terminal.folder / "results" / "sweep"
        with at_hand(bucket, ["trials.parquet", "records.parquet", "passages.parquet", "experiment.yaml"]) as here:
            shutil.copytree(here, copied)
        check_complete(terminal, "sweep", calm, tracking_uri=store.uri)
        assert "has all of" in inside("sync", f"{at_server}/sweep")
        assert at_server in inside("report", f"{at_server}/sweep").replace("\n", "")
        assert "All is well" in inside("doctor", "--results", at_server, "--tracking-uri", store.uri)
