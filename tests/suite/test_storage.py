"""The results folder: writes that are whole or absent, and one writer at a time."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from suite import storage
from suite.storage import Folder, LockedError, locked, owner


def test_objects_are_named_written_read_and_deleted(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.write("a/b/c.bin", b"1")
    folder.write("a/b/c.bin", b"2")
    assert folder.read("a/b/c.bin") == b"2"
    assert folder.names("a") == ["a/b/c.bin"]
    assert folder.names("nowhere") == []
    folder.delete(["a/b/c.bin", "never/there"])
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_creates_an_object(tmp_path: Path):
    folder = Folder(tmp_path)
    assert folder.create("x", b"first")
    assert not folder.create("x", b"second")
    assert folder.read("x") == b"first"


def _write_forever(root: Path) -> None:
    folder, size = Folder(root), 200_000
    for number in range(10**6):
        folder.write("object", bytes([number % 251]) * size)


def test_a_writer_killed_at_any_moment_leaves_a_whole_object(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    for number in range(6):
        process = context.Process(target=_write_forever, args=(tmp_path,))
        process.start()
        while not (tmp_path / "object").exists():
            time.sleep(0.01)
        time.sleep(0.1 + 0.017 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        content = (tmp_path / "object").read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1
        assert Folder(tmp_path.parent).names(tmp_path.name) == [f"{tmp_path.name}/object"]


def test_one_writer_at_a_time(tmp_path: Path):
    folder = Folder(tmp_path)
    with locked(folder) as lock:
        assert lock.epoch == 1
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"), locked(folder):
            pass
    with locked(folder) as lock:
        assert lock.epoch == 2
    with locked(folder, at_least=9) as lock:
        assert lock.epoch == 9


def _hold(root: Path, held: "multiprocessing.synchronize.Event") -> None:
    with locked(Folder(root)):
        held.set()
        time.sleep(600)


def test_a_lock_whose_process_was_killed_is_taken_over(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(LockedError), locked(Folder(tmp_path)):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(Folder(tmp_path)) as lock:
        assert lock.epoch == 2


def rewritten(folder: Folder, epoch: int, **changes: object) -> None:
    fields = json.loads(folder.read(f"lock/{epoch}"))
    folder.write(f"lock/{epoch}", json.dumps(fields | changes).encode())


def test_a_lock_of_another_host_counts_until_its_heartbeat_is_old(tmp_path: Path):
    folder = Folder(tmp_path)
    with locked(folder):
        pass
    rewritten(folder, 1, released=False, host="elsewhere", pid=1, heartbeat=time.time() - 5)
    assert owner(folder).alive
    with pytest.raises(LockedError, match="elsewhere"), locked(folder):
        pass
    rewritten(folder, 1, heartbeat=time.time() - storage.HEARTBEAT_LOST_SECONDS - 1)
    with locked(folder) as lock:
        assert lock.epoch == 2


def test_a_driver_that_was_taken_over_is_told(tmp_path: Path):
    folder = Folder(tmp_path)
    with locked(folder) as lock:
        lock.check()
        folder.create("lock/2", folder.read("lock/1").replace(b'"epoch": 1', b'"epoch": 2'))
        with pytest.raises(LockedError, match="taken over"):
            lock.check()
    assert not owner(folder).released
