"""A bucket served by moto over HTTP, in a process of its own that tests stop and start again."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from ray_nodes import free_port

BUCKET = "sweeps"


class S3Server:
    """Use as a context manager; there is one empty bucket once it is entered."""

    def __init__(self, folder: Path) -> None:
        self.port, self._log = free_port(), folder / "moto.log"
        self._process: subprocess.Popen | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        keys = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "at-all", "AWS_DEFAULT_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **keys}

    @property
    def root(self) -> str:
        """The address of the bucket."""
        return f"s3://{BUCKET}"

    def __enter__(self) -> "S3Server":
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
        until = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, "moto does not answer"
            time.sleep(0.1)
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
