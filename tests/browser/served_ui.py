"""`stillpoint ui`, as a process of its own on a free port."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

START_SECONDS = 180.0


class ServedUi(NamedTuple):
    """Where MLflow is."""

    address: str
    page: str
    """Of the sweep, as the command prints it."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served_ui(folder: Path) -> Iterator[ServedUi]:
    """MLflow on a results folder, which answers as long as the block lasts."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("stillpoint")), "ui", str(folder), "--port", str(port)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            if not _answers_in_time(address, process):
                log.seek(0)
                raise RuntimeError(f"{' '.join(command)} does not answer:\n{log.read()}")
            yield ServedUi(address, _printed_page(log))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _printed_page(log: IO[str]) -> str:
    """The command prints it once the server answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        log.seek(0)
        if found := re.search(r"MLflow at (http\S+) \(", log.read()):
            return found[1]
        time.sleep(0.2)
    raise RuntimeError("stillpoint ui does not say where it is")


def _answers_in_time(address: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.2)
    return False
