"""The ceiling: the matrix products of a training step, and nothing else.

Shapes: S slots, n samples, m width, L depth, d embedding_dim.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from suite.experiment import TrialSettings
from suite.training.shapes import tower_specs

Product = tuple[Tensor, Tensor, Tensor]
"""Two factors and where their product goes, each with the slots first."""


class Products:
    """Every product of one step of S trials: as many different matrices as the step has, laid out and in order as it
    has them, so that caches are as in training. Trained layers only, as `suite.training.arithmetic` counts."""

    def __init__(self, settings: TrialSettings, slots: int) -> None:
        n, d = settings.data.samples, settings.encoder.embedding_dim
        forward: list[Product] = []
        backward: list[Product] = []

        def tensor(rows: int, columns: int) -> Tensor:
            return torch.randn(slots, rows, columns) / columns**0.5

        def multiply(a: Tensor, b: Tensor, to: list[Product]) -> None:
            to.append((a, b, torch.empty(slots, a.shape[1], b.shape[2])))

        for spec in tower_specs(settings):
            for depth in range(spec.depth):
                h, w, delta = tensor(n, spec.width), tensor(spec.width, spec.width), tensor(n, spec.width)
                multiply(h, w.mT, forward)
                if depth:
                    multiply(delta, w, backward)  # of the layer's input, which depends on trained weights
                multiply(delta.mT, h, backward)  # of the weights
            h, w, delta = tensor(n, spec.width), tensor(d, spec.width), tensor(n, d)
            multiply(h, w.mT, forward)
            multiply(delta, w, backward)
        query, key, logits = tensor(n, d), tensor(n, d), tensor(n, n)
        multiply(query, key.mT, forward)
        multiply(logits, key, backward)
        multiply(logits.mT, query, backward)
        self._stacked = [*forward, *reversed(backward)]
        self._single = [(a[s], b[s], out[s]) for s in range(slots) for a, b, out in self._stacked]

    @property
    def flops(self) -> float:
        """Floating-point operations of one step of all slots."""
        return float(sum(2 * math.prod(a.shape) * b.shape[-1] for a, b, _ in self._single))

    def rate(self, seconds: float) -> float:
        """FLOP/s over so long a stretch, one product after another; of stacked slots too, if that is faster."""
        if len(self._single) == len(self._stacked):
            return self._rate(seconds, stacked=False)
        return max(self._rate(seconds / 2, stacked=stacked) for stacked in (False, True))

    def _rate(self, seconds: float, *, stacked: bool) -> float:
        multiply, products = (torch.bmm, self._stacked) if stacked else (torch.mm, self._single)
        steps, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds or not steps:
            for a, b, out in products:
                multiply(a, b, out=out)
            steps += 1
        return self.flops * steps / took
