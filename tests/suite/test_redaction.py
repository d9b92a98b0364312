"""Passwords and tokens: nowhere in what is printed, logged or kept."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import Terminal
from final_check import children
from mlflow_server import MlflowServer
from ray_nodes import command_line
from test_run import SMALL, commits

from suite.redaction import redacted, without_secrets_of
from suite.results import Results
from suite.storage import Folder
from suite.tracking import Tracker
from suite.tracking_store import reason_of

SECRET = "hunter%402-s3cret"
"""With an @ in it, as it has to be written in an address."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg2://ada:p@ss:w/rd@db:5432/x", "postgresql+psycopg2://ada:***@db:5432/x"),
        ("http://db/x?sslmode=on&password=abc (token=xyz)", "http://db/x?sslmode=on&password=*** (token=***)"),
        ("http:/ada:secret@host: cannot be read", "http:/ada:***@host: cannot be read"),
        ("https://ghp_abc123@host/path", "https://***@host/path"),
        ("s3://b/x?access_key=AKIA&api_key=abc", "s3://b/x?access_key=***&api_key=***"),
        ("https://h/x?sig=abc%3D&se=1", "https://h/x?sig=***&se=1"),
        ("AWS_SECRET_ACCESS_KEY=abc X-Amz-Signature='abc'", "AWS_SECRET_ACCESS_KEY=*** X-Amz-Signature=***'"),
        *((same, same) for same in ("http://host:5000/path", "sqlite:////tmp/a@b/x:c@d.db", "--set seed={range: 3}")),
        ("http://ada:***@host and http://***@host", "http://ada:***@host and http://***@host"),
    ],
)
def test_passwords_and_tokens_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_password_is_hidden_where_it_stands_alone() -> None:
    uri = f"http://ada:{SECRET}@host"
    assert without_secrets_of(uri, f"got {SECRET}, that is {unquote(SECRET)}") == "got ***, that is ***"
    assert reason_of(RuntimeError(f"no user with {unquote(SECRET)}"), uri) == "no user with ***"


def test_the_error_of_a_failed_trial_is_kept_without_them(tmp_path: Path) -> None:
    saved = Results.open(Folder(tmp_path))
    saved.fail("id", f"OSError: cannot read s3://key:{SECRET}@bucket")
    assert saved.outcome("id")["error"] == "OSError: cannot read s3://key:***@bucket"


def test_the_command_line_is_not_quoted_with_them(terminal: Terminal) -> None:
    terminal.write("small.yaml", SMALL)
    for arguments in (
        ("run", "small.yaml", f"http://ada:{SECRET}@host"),
        ("run", f"http://ada:{SECRET}@host"),
        ("run", "small.yaml", "--set", f"x=http://ada:{SECRET}@host"),
        (f"http://ada:{SECRET}@host",),
    ):
        output = terminal(*arguments, expect=2)
        assert "***" in output
        assert SECRET not in output
        assert "Traceback" not in output


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path / "server") as started:
        yield started


@pytest.fixture
def ray_folder(terminal: Terminal) -> Iterator[Path]:
    """Where Ray writes its logs; its sockets want a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    terminal.environment["RAY_TMPDIR"] = str(folder)
    yield folder
    shutil.rmtree(folder)


def holding(folder: Path) -> list[str]:
    """Files that have the secret in them, in one form or the other."""
    secrets = [SECRET.encode(), unquote(SECRET).encode()]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]


@pytest.mark.cluster
def test_a_tracking_uri_with_a_password_leaves_it_nowhere(
    terminal: Terminal, server: MlflowServer, ray_folder: Path
) -> None:
    uri = server.uri.replace("://", f"://ada:{SECRET}@")
    terminal.write("small.yaml", SMALL)
    process = terminal.start("run", "small.yaml", "--tracking-uri", uri)
    folder = terminal.folder / "results" / "small"
    while not commits(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    title = command_line(process.pid).decode()
    output = "".join(process.communicate(timeout=200))
    assert process.returncode == 0, output
    assert len(children(Path(), tracking_uri=server.uri)) == 6
    assert "ada:***@" in title, "other users of the machine, and Ray's dashboard, see the title"
    assert "ada:***@" in output
    assert SECRET not in title + output
    assert "ada:***@" in (folder / "fits.json").read_text()
    assert "ada:***@" in (folder / "report.html").read_text()
    assert "is not kept" in terminal("sync", "results/small", expect=2)
    output = terminal("sync", "results/small", "--tracking-uri", uri)
    output += terminal("doctor", "--tracking-uri", uri)
    output += terminal("status", "results/small")
    server.kill()
    output += terminal("sync", "results/small", "--tracking-uri", uri, expect=1)
    output += terminal("doctor", "--tracking-uri", uri, expect=1)
    assert "--tracking-uri URI" in " ".join(output.split())
    assert SECRET not in output
    assert unquote(SECRET) not in output
    for place in (terminal.folder, server.folder, ray_folder, terminal.home):
        assert holding(place) == [], place


def test_a_tracker_that_cannot_reach_its_store_tells_no_password(tmp_path: Path) -> None:
    from test_tracking import SWEEP, trial

    tracker = Tracker(f"http://ada:{SECRET}@127.0.0.1:9", SWEEP, tmp_path, retry_seconds=0.05, retry_seconds_max=0.05)
    tracker.deliver([trial("a")])
    tracker.close(timeout=30)
    assert tracker.problem is not None
    assert SECRET not in tracker.problem
