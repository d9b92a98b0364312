"""The same pairs as one ensemble of PyTorch's `torch.func`: stacked modules, `vmap` over `grad_and_value`."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.pair import Pair, Start, Trained, tensors


def train(starts: Sequence[Start], steps: int) -> Trained:
    """All trials of one shape side by side; losses and G are (steps + 1, trials)."""
    pairs = [Pair(start) for start in starts]
    stacked, buffers = stack_module_state(pairs)
    names = [name for name, w in pairs[0].named_parameters() if w.requires_grad]
    trained = {name: stacked[name].detach() for name in names}
    fixed = {name: w.detach() for name, w in stacked.items() if name not in trained} | buffers
    features = [torch.stack(view) for view in zip(*(tensors(s.features) for s in starts), strict=True)]
    skeleton = copy.deepcopy(pairs[0]).to("meta")

    def loss(weights: dict[str, Tensor], others: dict[str, Tensor], *views: Tensor) -> Tensor:
        return functional_call(skeleton, {**weights, **others}, views)

    evaluate = vmap(grad_and_value(loss))
    losses, scaled = torch.empty(2, steps + 1, len(starts)).unbind()
    began = time.perf_counter()
    for step in range(steps + 1):
        gradients, losses[step] = evaluate(trained, fixed, *features)
        squares = (gradient.square().flatten(1).sum(1) for gradient in gradients.values())
        scaled[step] = starts[0].factor * torch.stack(list(squares)).sum(0)
        if step < steps:
            for name, gradient in gradients.items():
                trained[name].sub_(gradient, alpha=starts[0].rate)
    return Trained(losses, scaled, time.perf_counter() - began)
