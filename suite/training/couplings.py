"""How the two towers' updates are coupled."""

from __future__ import annotations

from typing import Literal

from suite.registry import Registry, Settings


class Coupling(Settings):
    """Which towers move at a step, and from which gradient."""

    name: str


COUPLINGS: Registry[Coupling] = Registry()


@COUPLINGS
class Joint(Coupling):
    """Both towers step at once along the gradient of the shared loss at the current pair: the claim under test."""

    name: Literal["joint"] = "joint"
