"""The lowest value of a loss that n embeddings of d dimensions reach, whatever network gives them.

Shapes: n samples, d embedding_dim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from suite.training.losses import Infimum, Labels, Loss
from suite.user_cache import UserCache

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (0.1, 0.3, 1.0, 3.0)
"""Standard deviations of the starts: each is a run of its own, because one step rule suits one size."""
STARTS_PER_SIZE = 5
"""Starts of a size, stacked as slots of one call of the loss."""
MOST_STEPS = 1000
"""Of one run."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Problem:
    """A loss to minimise over free embeddings of both views, and over the scalars that it trains itself."""

    loss: Loss
    samples: int
    embedding_dim: int
    labels: bytes = b""
    """int64 (n,), if the loss needs them."""
    negatives: bytes = b""
    """bool (n, n), if the loss needs them."""

    def value(self, query: Tensor, key: Tensor, *trained: Tensor) -> Tensor:
        """Loss of each start: (S, n, d) x (S, n, d), and (S,) for each scalar -> (S,)."""
        import torch

        starts, n = query.shape[:2]
        extras = dict(zip(self.loss.parameters(), trained, strict=True))
        if "labels" in self.loss.needs:
            extras["labels"] = torch.tensor(np.frombuffer(self.labels, np.int64)).expand(starts, -1)
        if "negatives" in self.loss.needs:
            mask = torch.tensor(np.frombuffer(self.negatives, bool)).view(n, n)
            extras["negatives"] = mask.expand(starts, -1, -1)
        return self.loss(query, key, **extras)

    def start(self, *, starts: int, size: float, seed: int) -> list[Tensor]:
        """Normal embeddings of both views, (S, n, d) each, and the scalars' own starts, (S,) each; float64."""
        import torch

        shape = (2, starts, self.samples, self.embedding_dim)
        embeddings = torch.from_numpy(size * np.random.default_rng(seed).normal(size=shape))
        trained = [torch.full((starts,), at, dtype=torch.float64) for at in self.loss.parameters().values()]
        return [*embeddings, *trained]

    @property
    def key(self) -> str:
        """Names it in the file; the loss's value at one point stands for its formula, which may change."""
        import torch

        with torch.no_grad():
            probe = float(self.value(*self.start(starts=1, size=1.0, seed=0)))
        drawn = hashlib.sha256(self.labels + b"|" + self.negatives).hexdigest()[:16] if self.loss.needs else "all"
        return f"{self.loss.model_dump_json()}|{self.samples}|{self.embedding_dim}|{drawn}|{probe:.9g}"


def lowest_loss(
    loss: Loss,
    *,
    samples: int,
    embedding_dim: int,
    labels: Labels | None = None,
    negatives: np.ndarray | None = None,
) -> float:
    """The loss's infimum where that is attained in this dimension, else the best of 20 minimisations.

    `labels` (n,) and `negatives` bool (n, n) are for a loss that needs them. A minimum found is an upper bound of the
    true one: some n times d have many local minima of almost one value. Kept in memory and in the user's cache folder.

    Raises:
        ValueError: the loss needs what was not given, or goes below the infimum that it states.
    """
    given = {"labels": labels, "negatives": negatives}
    missing = sorted(name for name in loss.needs if given.get(name) is None)
    if missing:
        raise ValueError(f"loss {loss.name} needs {' and '.join(missing)}; give one for each of {samples} samples")
    stated = loss.infimum(samples=samples, embedding_dim=embedding_dim, labels=labels)
    if stated is not None and stated.attained:
        return stated.value
    problem = Problem(
        loss,
        samples,
        embedding_dim,
        labels=np.asarray(labels, np.int64).tobytes() if "labels" in loss.needs else b"",
        negatives=np.asarray(negatives, bool).tobytes() if "negatives" in loss.needs else b"",
    )
    return _at_least(stated, _kept(problem), loss)


def _at_least(stated: Infimum | None, found: float, loss: Loss) -> float:
    """The value found, or the infimum where rounding took it below."""
    if stated is None:
        return found
    if found < stated.value - ROUNDING * max(1.0, abs(stated.value)):
        raise ValueError(
            f"loss {loss.name} states the infimum {stated.value:.12g}, and some embeddings reach {found:.12g}: "
            "correct what its `infimum` returns"
        )
    return max(found, stated.value)


@lru_cache(maxsize=10_000)
def _kept(problem: Problem) -> float:
    cache, key = UserCache("lowest_losses.json"), problem.key
    known = cache.read().get(key)
    if isinstance(known, float):
        return known
    found = minimum(problem)
    cache.add({key: found})
    return found


def minimum(problem: Problem) -> float:
    """Lowest value that any of the 20 starts passes on its way; +inf if none has a value."""
    return min(_descend(problem, size=size, seed=seed) for seed, size in enumerate(SIZES))


def _descend(problem: Problem, *, size: float, seed: int) -> float:
    """L-BFGS on the sum over all starts of a size, which are independent of one another."""
    import torch

    free = problem.start(starts=STARTS_PER_SIZE, size=size, seed=seed)
    for tensor in free:
        tensor.requires_grad_()
    lowest = torch.full((STARTS_PER_SIZE,), torch.inf, dtype=torch.float64)

    def sum_and_gradients() -> float:
        values = problem.value(*free)
        for tensor, gradient in zip(free, torch.autograd.grad(values.sum(), free), strict=True):
            tensor.grad = gradient.contiguous()  # the optimizer takes views
        torch.fmin(lowest, values.detach(), out=lowest)
        return values.sum().item()

    optimizer = torch.optim.LBFGS(
        free,
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(sum_and_gradients)
    return float(lowest.min())
