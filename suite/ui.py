"""MLflow's server on a results folder, open at the page of its sweep."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from suite.redaction import HIDDEN, redacted
from suite.sweep_page import VIEW, address
from suite.tracking_store import MLFLOW_ENVIRONMENT, default_tracking_uri, open_client, reason_of, relocate, sqlite_file

PORT = 5000
START_SECONDS = 120.0
POLL_SECONDS = 0.2
NOWHERE = "none"


@dataclass(frozen=True)
class Place:
    """Where the runs of a results folder are."""

    uri: str
    sweep_id: str | None
    """None for a folder with a database and no sweep of its own."""
    name: str = ""
    """Of the MLflow experiment."""


def serve(folder: str, *, host: str, port: int | None, browser: bool = True) -> int:
    """Open MLflow at the sweep of a results folder until its server ends or Ctrl-C; gives the exit status.

    Without a port, 5000 or another one that is free. Where the runs are on a server, its address is all there is to
    open.

    Raises:
        ValueError: there is no MLflow database beside the folder, or the port is taken, or the server does not start.
    """
    place = _place(folder)
    database = sqlite_file(place.uri)
    if database is None:
        _tell(f"{place.uri.rstrip('/')}/{_page_on_server(place)}", "a server of its own", browser=browser)
        return 0
    if not database.exists():
        raise ValueError(
            f"{database}, where the runs of {folder} are, is not there: `stillpoint sync {folder}` makes it anew"
        )
    port = _port(host, port)
    relocate(database, database.parent / "mlartifacts")
    page = f"http://{_reachable(host)}:{port}/{_page(database, place.sweep_id)}"
    with tempfile.TemporaryFile() as log, _server(database, host, port, log) as server:
        try:
            _wait(server, f"http://{_reachable(host)}:{port}/health", log)
            _tell(page, "Ctrl-C ends it", browser=browser)
            return server.wait()
        except KeyboardInterrupt:
            return 0


def _place(folder: str) -> Place:
    """Where the last run wrote, or the database beside the folder."""
    if "://" in folder:
        raise ValueError(f"{folder} is a bucket: open the address of its tracking server in a browser")
    root = Path(folder).resolve()
    sweep = json.loads((root / "sweep.json").read_text()) if (root / "sweep.json").exists() else {}
    kept = sweep.get("tracking_uri")
    if kept and kept != NOWHERE:
        return Place(kept, sweep.get("sweep_id"), sweep.get("name", ""))
    database = next((p / "mlflow.db" for p in (root, root.parent) if (p / "mlflow.db").exists()), None)
    if database is None:
        raise ValueError(
            f"{folder} has no mlflow.db beside it; give a results folder, or the server's own address to a browser"
        )
    return Place(default_tracking_uri(database.parent), sweep.get("sweep_id"))


def _page(database: Path, sweep_id: str | None) -> str:
    """The page of a sweep's runs, after the server's address."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        found = connection.execute(
            "select runs.experiment_id from runs join tags on tags.run_uuid = runs.run_uuid "
            "where tags.key = 'sweep' and tags.value = ? and runs.lifecycle_stage = 'active' limit 1",
            (sweep_id,),
        ).fetchone()
        if found is None:
            return "#/experiments"
        view = connection.execute(
            "select 1 from experiment_tags where experiment_id = ? and key = ?", (found[0], f"{VIEW}{sweep_id}")
        ).fetchone()
    return address(str(found[0]), sweep_id if view else None)


def _page_on_server(place: Place) -> str:
    """The page of a sweep's runs, after the address of a tracking server that is at work.

    Raises:
        ValueError: it does not answer.
    """
    if HIDDEN in place.uri:  # a password that is not kept: the browser asks for it
        return "#/experiments"
    try:
        experiment = open_client(place.uri).get_experiment_by_name(place.name)
    except Exception as error:
        raise ValueError(f"MLflow at {place.uri} does not answer ({reason_of(error, place.uri)})") from None
    if experiment is None:
        return "#/experiments"
    has_view = f"{VIEW}{place.sweep_id}" in experiment.tags
    return address(str(experiment.experiment_id), place.sweep_id if has_view else None)


def _port(host: str, given: int | None) -> int:
    """The port to listen on.

    Raises:
        ValueError: the one that is given is taken.
    """
    wanted = PORT if given is None else given
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (wanted, 0):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if given is not None or not port:
                    raise ValueError(
                        f"cannot listen on port {port} of {host} ({error.strerror}): give another --port, "
                        "or leave it out and a free one is taken"
                    ) from None
            else:
                return int(probe.getsockname()[1])
    raise AssertionError("one of the two is returned or raised")


def _reachable(host: str) -> str:
    """What a browser on this machine calls it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _server(database: Path, host: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server as a process, ended at the end of the block with all it has started."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, **MLFLOW_ENVIRONMENT}
    ends = (signal.SIGTERM, signal.SIGINT)  # a shell may have started this with Ctrl-C ignored
    before = [signal.signal(number, signal.default_int_handler) for number in ends]
    server = subprocess.Popen(command, start_new_session=True, env=environment, stdout=log, stderr=log)
    try:
        yield server
    finally:
        for number, handler in zip(ends, before, strict=True):
            signal.signal(number, handler)
        _end_group(server)


def _wait(server: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    """Until the server answers.

    Raises:
        ValueError: it ends first, or takes too long.
    """
    until = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(POLL_SECONDS)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    raise ValueError(f"MLflow's server does not start: {lines[-1] if lines else 'it says nothing'}")


def _tell(page: str, words: str, *, browser: bool) -> None:
    """Print the page, and open it where there is a person with a screen."""
    print(f"MLflow at {redacted(page)} ({words})", flush=True)
    has_screen = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if browser and has_screen and sys.stdout.isatty():
        webbrowser.open(page)


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process and those it has started: MLflow's server leaves its workers behind when it is ended alone."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
    try:
        leader.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(leader.pid, signal.SIGKILL)
