"""Couplings: which tower moves at a step, in which order, and from which gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from suite.registry import Registry, Settings

TowerName = Literal["query", "key"]


class Moves(Protocol):
    """What a coupling can do with the two towers of a lane, at all slots that have not ended."""

    def descend(self, *towers: TowerName) -> None:
        """Move these towers by the optimizer, from the gradients at hand."""

    def refresh(self) -> None:
        """Take the gradients anew, at the towers as they are now."""

    def average(self, kept: float) -> None:
        """Move the key tower to kept * key + (1 - kept) * query."""


class Coupling(Settings):
    """Which towers move at a step, and from which gradient."""

    name: str
    one_draw: ClassVar[bool] = False
    """The key tower starts as a copy of the query tower, so both must have one shape."""
    one_tower: ClassVar[bool] = False
    """There is only the query tower; it sees both views."""
    along_gradient: ClassVar[bool] = False
    """With plain gradient descent, the step is -eta P times the gradient that is measured."""
    evaluations: ClassVar[int] = 1
    """Gradients taken per step."""

    @abstractmethod
    def step(self, moves: Moves) -> None:
        """One step of training."""


COUPLINGS: Registry[Coupling] = Registry()


@COUPLINGS
class Joint(Coupling):
    """Both towers step at once along the gradient of the shared loss at the current pair: the claim under test."""

    name: Literal["joint"] = "joint"
    along_gradient: ClassVar[bool] = True

    def step(self, moves: Moves) -> None:
        """Both at once, as in Jacobi's method."""
        moves.descend("query", "key")


@COUPLINGS
class Alternating(Coupling):
    """The query tower steps first, then the key tower along the gradient at the new query (Gauss-Seidel)."""

    name: Literal["alternating"] = "alternating"
    evaluations: ClassVar[int] = 2

    def step(self, moves: Moves) -> None:
        """Query, then key."""
        moves.descend("query")
        moves.refresh()
        moves.descend("key")


@COUPLINGS
class StopGradient(Coupling):
    """One network sees both views, and the gradient flows through the query's branch only (Chen & He 2021).

    The key tower starts as a copy of the query tower and becomes one again after every step.
    """

    name: Literal["stop_gradient"] = "stop_gradient"
    one_draw: ClassVar[bool] = True

    def step(self, moves: Moves) -> None:
        """Query, then copy."""
        moves.descend("query")
        moves.average(0.0)


@COUPLINGS
class Momentum(Coupling):
    """The key tower follows the query tower as a moving average (He et al. 2020, eq. 2), from a copy of it."""

    name: Literal["momentum"] = "momentum"
    one_draw: ClassVar[bool] = True
    mu: float = Field(default=0.99, ge=0, lt=1)
    """Share of the key tower that a step keeps: V becomes mu V + (1 - mu) W."""

    def step(self, moves: Moves) -> None:
        """Query, then average."""
        moves.descend("query")
        moves.average(self.mu)


@COUPLINGS
class Frozen(Coupling):
    """The key tower stays at its own draw; only the query tower moves."""

    name: Literal["frozen"] = "frozen"

    def step(self, moves: Moves) -> None:
        """Query alone."""
        moves.descend("query")


@COUPLINGS
class Shared(Coupling):
    """One tower sees both views and moves along the sum of both branches' gradients, as in SimCLR."""

    name: Literal["shared"] = "shared"
    one_draw: ClassVar[bool] = True
    one_tower: ClassVar[bool] = True
    along_gradient: ClassVar[bool] = True

    def step(self, moves: Moves) -> None:
        """The one tower there is."""
        moves.descend("query")
