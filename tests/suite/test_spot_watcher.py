"""The watcher that turns AWS's spot notice into a drain, against a server that plays a machine's metadata."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Terminal
from final_check import check_complete
from ray_nodes import RayNodes, worked
from test_nodes import LONG, finished, started, undisturbed, wait_until
from test_run import commits

from suite.reference import ROOT
from suite.spot_watcher import MOST_SILENT, Metadata, NoMetadataError, wait_for_notice

LEAVING = "127.0.0.2"
"""An address of this machine that one node has for itself."""


class Machine:
    """What AWS tells a machine about itself, by IMDSv2: nothing without a token of its own, which ends."""

    def __init__(self) -> None:
        self.notice: dict[str, str] | None = None
        self.tokens: list[str] = []
        self.refused = 0
        machine = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                machine.tokens.append(f"token {len(machine.tokens)}")
                self._answer(200 if asked else 400, machine.tokens[-1])

            def do_GET(self) -> None:
                if self.headers["X-aws-ec2-metadata-token"] != machine.tokens[-1]:
                    machine.refused += 1
                    return self._answer(401, "")
                there = self.path == "/latest/meta-data/spot/instance-action" and machine.notice is not None
                return self._answer(200, json.dumps(machine.notice)) if there else self._answer(404, "")

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *words: object) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.place = f"http://127.0.0.1:{self._server.server_port}"

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def announce(self, *, seconds: int) -> None:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        self.notice = {"action": "terminate", "time": until.strftime("%Y-%m-%dT%H:%M:%SZ")}


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.end()


def test_a_notice_is_seen_with_its_time_and_its_absence_is_no_notice(machine: Machine):
    metadata = Metadata(machine.place)
    assert metadata.notice() is None
    machine.announce(seconds=120)
    notice = metadata.notice()
    assert notice is not None
    assert notice.action == "terminate"
    assert 110 < notice.seconds_left(datetime.now(UTC)) <= 120
    assert notice.seconds_left(notice.at + timedelta(seconds=5)) == 0
    assert (len(machine.tokens), machine.refused) == (1, 0)


def test_a_token_that_is_refused_is_asked_for_anew(machine: Machine):
    metadata = Metadata(machine.place)
    metadata.notice()
    machine.tokens.append("another")
    machine.announce(seconds=120)
    assert wait_for_notice(metadata, sleep=lambda seconds: None).action == "terminate"
    assert machine.refused == 1


def test_a_machine_without_metadata_is_not_watched_for_ever(machine: Machine):
    machine.end()
    looks: list[float] = []
    with pytest.raises(NoMetadataError):
        wait_for_notice(Metadata(machine.place), sleep=looks.append)
    assert len(looks) == MOST_SILENT - 1


@pytest.mark.cluster
def test_a_spot_notice_makes_lanes_commit_within_5_seconds_and_go_on_elsewhere(
    terminal: Terminal, home: Path, tmp_path_factory: pytest.TempPathFactory, machine: Machine
):
    calm = undisturbed(Terminal(tmp_path_factory.mktemp("long"), home), *LONG)
    folder = terminal.folder / "results" / "sweep"
    with RayNodes(home) as nodes:
        nodes.add("leaving", address=LEAVING)
        options = ["--address", nodes.address, "--host", LEAVING, "--metadata", machine.place]
        watcher = subprocess.Popen(
            [sys.executable, "-m", "suite.spot_watcher", *options],
            cwd=ROOT,
            env={**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(lambda: machine.tokens, seconds=60, process=watcher)
        process = started(terminal, nodes.address, *LONG)
        wait_until(lambda: any(worked(lane) > 5 for lane in nodes.lanes()), seconds=90, process=process)
        # in the middle of a trial, long before its first commit is due
        before = set(commits(folder))
        machine.announce(seconds=120)
        said, _ = watcher.communicate(timeout=60)
        told = time.monotonic()
        assert "spot notice: terminate" in said
        assert "draining" in said
        assert "nothing" not in said
        wait_until(lambda: set(commits(folder)) - before, seconds=10, process=process)
        assert time.monotonic() - told < 5.5
        nodes.add("staying")
        assert "is about to go" in finished(process)
    check_complete(terminal, "sweep", calm)
