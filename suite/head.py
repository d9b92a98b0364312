"""What the head of a Ray cluster knows of its nodes, asked with a time limit: Ray's own calls wait for a head that is
gone, and after a minute of it Ray ends this process without a word."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import ray
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError

from suite.failures import LostClusterError

SILENT_SECONDS = 25.0
"""How long the head may stay silent."""
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster at one look, by their ids."""

    alive: frozenset[str]
    """With those that are about to go."""
    draining: frozenset[str]
    """Those that are about to go: after `ray drain-node`, or because the autoscaler takes them away."""
    dead: frozenset[str]
    free: tuple[dict[str, float], ...]
    """Of each node that stays, the resources that no task has."""


class Head:
    """The node that knows the cluster."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._place = address, (host.strip("[]"), int(port))
        self._client = ray._raylet.GcsClient(address=address)  # the public calls have no time limit
        self._silent_since: float | None = None

    def look(self) -> Nodes | None:
        """The nodes now; None if it does not answer.

        Raises:
            LostClusterError: it has not for SILENT_SECONDS.
        """
        try:
            socket.create_connection(self._place, timeout=PATIENCE_SECONDS).close()
            content = self._client.get_cluster_resource_state(timeout_s=PATIENCE_SECONDS)
        except (OSError, RayError) as error:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if now - self._silent_since > SILENT_SECONDS:
                words = f"the head of the Ray cluster at {self._address} does not answer any more ({error})"
                raise LostClusterError(words) from None
            return None
        self._silent_since = None
        return _parsed(content)


def _parsed(content: bytes) -> Nodes:
    reply = autoscaler_pb2.GetClusterResourceStateReply()
    reply.ParseFromString(content)
    states = [(node, autoscaler_pb2.NodeStatus.Name(node.status)) for node in reply.cluster_resource_state.node_states]
    dead = frozenset(node.node_id.hex() for node, status in states if status == "DEAD")
    draining = frozenset(node.node_id.hex() for node, status in states if status == "DRAINING")
    return Nodes(
        alive=frozenset(node.node_id.hex() for node, _ in states) - dead,
        draining=draining,
        dead=dead,
        free=tuple(dict(n.available_resources) for n, status in states if status not in ("DEAD", "DRAINING")),
    )
