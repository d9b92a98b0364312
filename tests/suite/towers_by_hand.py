"""One trial a second time, straight from the formulas and with nothing of a lane: its draw, its towers, its loss."""

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from suite.data.pairs import draw_pairs
from suite.experiment import Budget, TrialSettings
from suite.measurement.certificate import Levels
from suite.measurement.point import Point
from suite.training.lane import Lane
from suite.training.losses import draw_negatives

# a and b of the (input, hidden, output) layers; allen-zhu's output is drawn with variance 1/d
A = {"allen-zhu": (0, 0, 0), "standard": (0, 0, 0), "ntk": (0, 0.5, 0.5), "mup": (-0.5, 0, 0.5)}
B = {"allen-zhu": (0.5, 0.5, 0), "standard": (0, 0.5, 0.5), "ntk": (0, 0, 0), "mup": (0.5, 0.5, 0.5)}
PHI = {"relu": lambda x: x.clamp_min(0), "tanh": torch.tanh, "gelu": lambda x: x * torch.special.ndtr(x)}


def gain(activation: str) -> float:
    """1 / E phi(g)^2."""
    phi = PHI[activation]
    return 1 / quad(lambda g: phi(torch.tensor(g, dtype=torch.float64)).item() ** 2 * norm.pdf(g), -12, 12)[0]


class Trial:
    """Weights are given and taken in the order in which a lane has them, each without the slots' dimension; float64."""

    def __init__(self, settings: TrialSettings) -> None:
        self.settings, encoder = settings, settings.encoder
        pairs = draw_pairs(settings.data, settings.seed)
        self.inputs = [torch.from_numpy(pairs.query), torch.from_numpy(pairs.key)]
        self.extras = {} if pairs.labels is None else {"labels": torch.from_numpy(pairs.labels)[None]}
        if settings.loss.num_negatives is not None:
            drawn = draw_negatives(settings.seed, samples=len(pairs.query), negatives=settings.loss.num_negatives)
            self.extras["negatives"] = torch.from_numpy(drawn)[None]
        self.num_towers = 1 if settings.coupling.one_tower else 2
        self.shapes = list(encoder.towers().values())[: self.num_towers]
        self.trained: list[list[str]] = []
        self.drawn: list[dict[str, Tensor]] = []
        for index, shape in enumerate(self.shapes):
            stream = 0 if settings.coupling.one_draw else index
            self.drawn.append(self._draw(stream, shape.width, shape.depth, self.inputs[index].shape[1]))
            self.trained.append([name for name in self.drawn[-1] if self._is_trained(name)])

    def _is_trained(self, name: str) -> bool:
        encoder = self.settings.encoder
        layer, _, bias = name.partition(".")
        trained = encoder.train_hidden if layer.startswith("hidden") else encoder.train_ends
        return trained and (not bias or (encoder.biases and layer != "last"))

    def _draw(self, stream: int, m: int, depth: int, p: int) -> dict[str, Tensor]:
        encoder = self.settings.encoder
        b, d = B[encoder.parametrization], encoder.embedding_dim
        hidden = 1.0 if encoder.residual else gain(encoder.activation)
        last = 1 / d if encoder.parametrization == "allen-zhu" else 1.0
        variances, spreads = [gain(encoder.activation), *[hidden] * depth, last], [b[0], *[b[1]] * depth, b[2]]
        names = ["first", *(f"hidden{number}" for number in range(1, depth + 1)), "last"]
        sizes = [p, *[m] * (depth + 1), d]
        weights = {}
        for layer, (name, (inputs, outputs)) in enumerate(zip(names, pairwise(sizes), strict=True)):
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.settings.seed, 1 + stream, layer])))
            w = rng.standard_normal((outputs, inputs)) * np.sqrt(variances[layer]) / m ** spreads[layer]
            weights |= {name: torch.from_numpy(w), f"{name}.bias": torch.zeros(outputs, dtype=torch.float64)}
        return weights

    @property
    def start(self) -> list[Tensor]:
        """What is trained, as it was drawn."""
        scalars = [torch.tensor([value], dtype=torch.float64) for value in self.settings.loss.parameters().values()]
        return [self.drawn[t][name] for t in range(self.num_towers) for name in self.trained[t]] + scalars

    @property
    def factors(self) -> list[float]:
        """P of each trained weight."""
        d, kind = self.settings.encoder.embedding_dim, self.settings.encoder.parametrization
        found = []
        for shape, names in zip(self.shapes, self.trained, strict=True):
            found += [{"allen-zhu": d / shape.width, "standard": 1 / shape.width}.get(kind, 1.0)] * len(names)
        return found + [1.0] * len(self.settings.loss.parameters())

    def layers(self, view: int, weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Input and pre-activation of the first layer, each hidden one, and the last, whose second is z."""
        encoder, tower = self.settings.encoder, min(view, self.num_towers - 1)
        before = sum(len(names) for names in self.trained[:tower])
        known = self.drawn[tower] | dict(zip(self.trained[tower], weights[before:], strict=False))
        m, depth = self.shapes[tower].width, self.shapes[tower].depth
        a, phi = A[encoder.parametrization], PHI[encoder.activation]
        h, passed = self.inputs[view], []
        for number, name in enumerate(["first", *(f"hidden{k}" for k in range(1, depth + 1)), "last"]):
            kind = 0 if name == "first" else 2 if name == "last" else 1
            out = (h @ known[name].T) / m ** a[kind] + known[f"{name}.bias"] / m ** a[0]
            if encoder.residual and 0 < number <= depth:
                out = h + out / depth**0.5
            passed.append((h, out))
            h = phi(out)
        return passed

    def z(self, view: int, weights: Sequence[Tensor]) -> Tensor:
        """Embeddings of one view by the network itself, (n, d)."""
        return self.layers(view, weights)[-1][1]

    def expanded(self, view: int, weights: Sequence[Tensor]) -> Tensor:
        """The same by its first-order expansion at the draw."""
        steps = tuple(w - w0 for w, w0 in zip(weights, self.start, strict=True))
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of PyTorch's own torch.jit
            value, along = torch.func.jvp(lambda *w: self.z(view, w), tuple(self.start), steps)
        return value + along

    def embeddings(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Of both views, as the loss sees them."""
        embed = self.expanded if self.settings.encoder.linearized else self.z
        return [embed(view, weights) for view in (0, 1)]

    def loss(self, weights: Sequence[Tensor]) -> Tensor:
        """The loss at these weights, a scalar; of the formula of the loss itself, other tests tell."""
        names = self.settings.loss.parameters()
        scalars = dict(zip(names, weights[len(weights) - len(names) :], strict=True))
        extras = {name: self.extras[name] for name in self.settings.loss.needs}
        return self.settings.loss(*(z[None] for z in self.embeddings(weights)), **scalars, **extras)[0]

    def gradients(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Of the loss in every trained weight."""
        leaves = [w.clone().requires_grad_() for w in weights]
        return list(torch.autograd.grad(self.loss(leaves), leaves))


def lane_of(*trials: TrialSettings, steps: int = 0) -> Lane:
    """A slot for each trial, all at this step, where they have just been evaluated."""
    lane = Lane(trials[0], slots=len(trials), budget=Budget(steps=10000), stop_below=0, device=torch.device("cpu"))
    for slot, settings in enumerate(trials):
        lane.fill(slot, settings)
    lane.advance(1)
    for _ in range(steps):
        lane.advance(1)
    return lane


def seeds(settings: TrialSettings, *numbers: int) -> list[TrialSettings]:
    """The same trial with other draws."""
    return [settings.model_copy(update={"seed": number}) for number in numbers]


def point_of(lane: Lane) -> Point:
    return lane.point(Levels())


def weights_of(lane: Lane, slot: int) -> list[Tensor]:
    """A copy of one slot's trained weights, in double precision."""
    return [w[slot].detach().double().clone() for w in lane.pair.weights]
