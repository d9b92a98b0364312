"""Turns the notice that AWS is about to take a spot machine away into a drain of its node: lanes commit and go on
elsewhere. Runs beside Ray on every node: `python -m suite.spot_watcher --address HEAD:6379`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.error import HTTPError
from urllib.request import Request, urlopen

METADATA = "http://169.254.169.254"
POLL_SECONDS = 2.0
TOKEN_SECONDS = 3600
PATIENCE_SECONDS = 2.0
MOST_SILENT = 30
"""Looks in a row without an answer, after which this is no AWS machine, or one without metadata."""


class NoMetadataError(RuntimeError):
    """Nothing answers where AWS tells a machine about itself."""


@dataclass(frozen=True)
class Notice:
    """That this machine will be taken away."""

    action: str
    """stop, terminate or hibernate."""
    at: datetime

    def seconds_left(self, now: datetime) -> int:
        """Whole seconds until then; 0 once it has passed."""
        return max(0, int((self.at - now).total_seconds()))


class Metadata:
    """What AWS tells a machine about itself (IMDSv2)."""

    def __init__(self, place: str = METADATA) -> None:
        self._place = place
        self._token, self._token_until = "", 0.0

    def notice(self) -> Notice | None:
        """The notice, if there is one.

        Raises:
            OSError: nothing answers.
        """
        try:
            told = json.loads(self._get("/latest/meta-data/spot/instance-action"))
        except HTTPError as error:
            if error.code == 404:
                return None
            self._token_until = 0.0  # refused: the next look asks for a token anew
            raise
        return Notice(told["action"], datetime.fromisoformat(told["time"]).astimezone(UTC))

    def _get(self, path: str) -> bytes:
        if time.monotonic() >= self._token_until:
            ask = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            self._token = self._answer("/latest/api/token", ask, method="PUT").decode()
            self._token_until = time.monotonic() + TOKEN_SECONDS / 2
        return self._answer(path, {"X-aws-ec2-metadata-token": self._token})

    def _answer(self, path: str, headers: dict[str, str], method: str = "GET") -> bytes:
        request = Request(self._place + path, headers=headers, method=method)
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return bytes(answer.read())


def wait_for_notice(metadata: Metadata, *, sleep: Callable[[float], None] = time.sleep) -> Notice:
    """Look until there is one.

    Raises:
        NoMetadataError: nothing answers.
    """
    silent = 0
    while True:
        try:
            if (notice := metadata.notice()) is not None:
                return notice
            silent = 0
        except OSError as error:
            silent += 1
            if silent == MOST_SILENT:
                raise NoMetadataError(f"no metadata of a machine on AWS: {error}") from None
        sleep(POLL_SECONDS)


def main() -> None:
    """Watch until this machine's end is announced, and drain it."""
    parser = argparse.ArgumentParser(prog="python -m suite.spot_watcher", description=__doc__)
    parser.add_argument("--address", required=True, help="HOST:PORT of the cluster's head")
    parser.add_argument("--host", help="address under which the cluster knows this machine; found when left out")
    parser.add_argument("--metadata", default=METADATA, help="where AWS tells a machine about itself")
    parser.add_argument("--now", type=int, metavar="SECONDS", help="drain at once, and return when these have passed")
    chosen = parser.parse_args()
    if chosen.now is not None:
        _drain(chosen.address, chosen.host, "told to leave", chosen.now)
        time.sleep(chosen.now)
        return
    try:
        notice = wait_for_notice(Metadata(chosen.metadata))
    except NoMetadataError as error:
        print(f"{error}. Spot notices are not watched for here.")
        return
    words = f"spot notice: {notice.action} at {notice.at:%H:%M:%S} UTC"
    _drain(chosen.address, chosen.host, words, notice.seconds_left(datetime.now(UTC)))


def _drain(address: str, host: str | None, words: str, seconds: int) -> None:
    from suite.scheduling import drain_host

    drained = drain_host(address, host, words=words, seconds=seconds)
    print(f"{words}: draining {', '.join(drained) or 'nothing, because this machine is no node of the cluster'}")


if __name__ == "__main__":
    main()
