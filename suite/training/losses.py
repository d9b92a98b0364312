"""Contrastive losses: each maps a lane's embeddings to one value per slot, so that the gradient of their sum is
each slot's own gradient.

Every loss is a mean over anchors of a function of the anchor's logits: its similarities to all candidates, over the
temperature where the loss has one. Shapes: S slots, n samples, N candidates, b anchors of a block, d embedding_dim.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from suite.registry import Registry, Settings

if TYPE_CHECKING:
    from torch import Tensor

Similarity = Literal["dot", "cosine"]
Labels = Sequence[int] | np.ndarray
Reasons = dict[Similarity, str]
Temperature = Annotated[float, Field(gt=0, description="Divides the similarities; 0.05 to 1 is usual.")]

BLOCK_ELEMENTS = 2**24
"""Logits of a lane held at once, at most: more are computed in blocks of anchors, and again in the backward pass."""


@dataclass(frozen=True)
class Infimum:
    """A value no embeddings bring a loss below, and whether some of the given dimension reach it; None: not known."""

    value: float
    attained: bool | None


class Loss(Settings):
    """A contrastive loss of the two towers' embeddings. A new one gives `of_rows`; the rest has defaults."""

    name: str
    similarity: Similarity = "cosine"
    """How two embeddings are compared: their cosine, or their plain inner product."""

    unsuited: ClassVar[Reasons] = {}
    """What is wrong with a similarity that the loss refuses, after the words "loss x with y similarity"."""

    @field_validator("similarity")
    @classmethod
    def _suited(cls, similarity: Similarity) -> Similarity:
        if similarity in cls.unsuited:
            other = "cosine" if similarity == "dot" else "dot"
            raise ValueError(
                f"loss {cls.model_fields['name'].default} with {similarity} similarity {cls.unsuited[similarity]}: "
                f"use similarity: {other}"
            )
        return similarity

    @property
    def needs(self) -> frozenset[str]:
        """What else a call takes by keyword: `labels` int64 (S, n), `negatives` bool (S, n, n) of `draw_negatives`."""
        return frozenset()

    @property
    def num_negatives(self) -> int | None:
        """How many others each anchor is compared with, where they are drawn; None for all, or for those of a batch."""
        return None

    @property
    def escapes(self) -> bool:
        """Whether it falls on without end as the embeddings, or its own scale, grow: nothing attains its infimum."""
        return False

    def parameters(self) -> dict[str, float]:
        """Trained scalars by name, at their start; a call takes each by keyword as (S,)."""
        return {}

    def __call__(self, query: Tensor, key: Tensor, **extras: Tensor) -> Tensor:
        """Loss of each slot: (S, n, d) x (S, n, d) -> (S,); `extras` are what it needs and its parameters."""

        def of_rows(logits: Tensor, first: int) -> Tensor:
            return self.of_rows(logits, first, **extras)

        return self.mean_over_anchors(of_rows, query, key)

    def with_gradient(self, query: Tensor, key: Tensor, **extras: Tensor) -> tuple[Tensor, list[Tensor]] | None:
        """The same by hand, for each step of training: loss (S,), and its gradient in query and key, (S, n, d) each.
        None where that is left to autograd."""
        return None

    @abstractmethod
    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """Loss of each anchor first, ..., first + b - 1 from its row of logits: (S, b, N) -> (S, b)."""

    def anchors_and_candidates(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Who is compared with whom, (S, n, d) and (S, N, d): the positive of anchor i is candidate i."""
        return query, key

    def mean_over_anchors(self, of_rows: Callable[[Tensor, int], Tensor], query: Tensor, key: Tensor) -> Tensor:
        """Mean of `of_rows` over the anchors, and over both directions if `symmetric`: (S,)."""
        if self.similarity == "cosine":
            query, key = unit_rows(query), unit_rows(key)
        anchors, candidates = self.anchors_and_candidates(query, key)
        anchors = anchors / getattr(self, "temperature", 1.0)
        return over_rows(of_rows, anchors, candidates, both=getattr(self, "symmetric", False)).mean(-1)

    def diagnostics(self, query: Tensor, key: Tensor, **extras: Tensor) -> dict[str, Tensor]:
        """Columns (S,) that say how the loss works at these embeddings; takes what a call takes."""
        return {}

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum | None:
        """The lower bound stated above; None where there is none, or no `labels` (n,) for a loss that needs them."""
        return None


LOSSES: Registry[Loss] = Registry()


def unit_rows(z: Tensor) -> Tensor:
    """Rows scaled to norm 1, any shape; a zero row stays zero, with zero gradient."""
    norm_sq = z.square().sum(-1, keepdim=True)
    alive = norm_sq > 0
    return z * (norm_sq.where(alive, 1.0).rsqrt() * alive)


def inverse_norms(z: Tensor) -> Tensor:
    """1 over the norm of each row, any shape; 0 of a zero row: (..., d) -> (..., 1)."""
    norm_sq = z.square().sum(-1, keepdim=True)
    return norm_sq.rsqrt().masked_fill_(norm_sq == 0, 0)


def over_rows(of_rows: Callable[[Tensor, int], Tensor], anchors: Tensor, candidates: Tensor, *, both: bool) -> Tensor:
    """`of_rows` of every anchor's logits, or its mean over `both` directions: (S, n, d) x (S, N, d) -> (S, n)."""
    slots, n, _ = anchors.shape
    if slots * n * candidates.shape[1] <= BLOCK_ELEMENTS:
        logits = anchors @ candidates.mT
        rows = of_rows(logits, 0)
        return (rows + of_rows(logits.mT, 0)) / 2 if both else rows
    rows = in_blocks(of_rows, anchors, candidates)
    return (rows + in_blocks(of_rows, candidates, anchors)) / 2 if both else rows


def in_blocks(of_rows: Callable[[Tensor, int], Tensor], anchors: Tensor, candidates: Tensor) -> Tensor:
    """`of_rows` of every anchor's logits, of which one block exists at a time, forward and backward: (S, n)."""
    from torch import cat
    from torch.utils.checkpoint import checkpoint

    def block(some: Tensor, first: int) -> Tensor:
        return of_rows(some @ candidates.mT, first)

    size = max(1, BLOCK_ELEMENTS // (len(candidates) * candidates.shape[1]))
    rows = [
        checkpoint(block, some, index * size, use_reentrant=False, preserve_rng_state=False)
        for index, some in enumerate(anchors.split(size, dim=1))
    ]
    return cat(rows, dim=1)


def positives(logits: Tensor, first: int) -> Tensor:
    """Each anchor's logit with its positive: (S, b, N) -> (S, b)."""
    return logits.diagonal(offset=first, dim1=-2, dim2=-1)


def without(logits: Tensor, *offsets: int) -> Tensor:
    """A copy (S, b, N) with -inf on diagonals that start at these columns of its first row."""
    copy = logits.clone()
    for offset in offsets:
        copy.diagonal(offset=offset, dim1=-2, dim2=-1).fill_(-math.inf)
    return copy


def simplex_gap(samples: int) -> float:
    """n / (n - 1): how far the mean cosine of positives is above that of negatives, at most; reached by
    q_i = k_i on a regular simplex, which takes n - 1 dimensions."""
    return samples / (samples - 1)


def draw_negatives(seed: int, *, samples: int, negatives: int) -> np.ndarray:
    """Which candidates each anchor sees, bool (n, n): its positive and `negatives` others, drawn from the seed.

    Raises:
        ValueError: there are not so many other samples.
    """
    if not 1 <= negatives < samples:
        raise ValueError(f"negatives is {negatives}; {samples} samples allow 1 to {samples - 1}")
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 3])))
    order = stream.random((samples, samples))
    np.fill_diagonal(order, -1.0)  # the positive comes first
    return order <= np.partition(order, negatives, axis=1)[:, negatives, None]


class LossByHand(Loss):
    """A loss of n anchors and n candidates, without trained scalars, whose derivative in each logit is known."""

    @abstractmethod
    def slopes_of_rows(self, logits: Tensor, **extras: Tensor) -> tuple[Tensor, Tensor]:
        """`of_rows` of all anchors, (S, n), and its derivative in each logit, (S, n, n)."""

    def with_gradient(self, query: Tensor, key: Tensor, **extras: Tensor) -> tuple[Tensor, list[Tensor]] | None:
        """As of any loss; None where the logits are too many to be held."""
        if len(query) * query.shape[1] ** 2 > BLOCK_ELEMENTS:
            return None
        scales = [inverse_norms(z) if self.similarity == "cosine" else None for z in (query, key)]
        q, k = (z if scale is None else z * scale for z, scale in zip((query, key), scales, strict=True))
        temperature = getattr(self, "temperature", 1.0)
        logits = (q / temperature) @ k.mT
        rows, slopes = self.slopes_of_rows(logits, **extras)
        if getattr(self, "symmetric", False):
            other, back = self.slopes_of_rows(logits.mT, **extras)
            rows, slopes = (rows + other).div_(2), (slopes + back.mT).div_(2)
        share = 1 / (temperature * query.shape[1])
        gradients = [(slopes @ k).mul_(share), (slopes.mT @ q).mul_(share)]
        for z, gradient, scale in zip((q, k), gradients, scales, strict=True):
            if scale is not None:  # what is along z does not change its direction
                gradient.addcmul_(z, (z * gradient).sum(-1, keepdim=True), value=-1).mul_(scale)
        return rows.mean(-1), gradients


@LOSSES
class InfoNCE(LossByHand):
    """InfoNCE with other samples as negatives: -log exp(s_ii/tau) / sum_j exp(s_ij/tau) (van den Oord et al. 2018,
    eq. 4).

    Infimum: 0 for dot (not attained; approached if d >= 2); at least log(1 + (n-1) exp(-n / ((n-1) tau))) for cosine,
    attained if and only if d >= n - 1; with k < n - 1 drawn negatives at least log(1 + k exp(-2 / tau)).
    """

    name: Literal["infonce"] = "infonce"
    temperature: Temperature = 0.5
    symmetric: bool = False
    """Average both directions, query to key and key to query, as CLIP does (Radford et al. 2021, fig. 3)."""
    negatives: int | None = Field(default=None, ge=1)
    """Other samples that each anchor is compared with, drawn once for a trial; left out, all of them."""

    @property
    def escapes(self) -> bool:
        """With dot: the gap between positives and negatives grows with the norms."""
        return self.similarity == "dot"

    @property
    def num_negatives(self) -> int | None:
        """As the settings say."""
        return self.negatives

    @property
    def needs(self) -> frozenset[str]:
        """The drawn negatives, if not all others are."""
        return frozenset() if self.negatives is None else frozenset({"negatives"})

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """-log softmax at the positive."""
        if self.negatives is not None:
            logits = logits.where(extras["negatives"][:, first : first + logits.shape[1]], -math.inf)
        return logits.logsumexp(-1) - positives(logits, first)

    def slopes_of_rows(self, logits: Tensor, **extras: Tensor) -> tuple[Tensor, Tensor]:
        """The softmax, less 1 at the positive."""
        if self.negatives is not None:
            logits = logits.where(extras["negatives"], -math.inf)
        shares = logits.log_softmax(-1)
        rows = -positives(shares, 0)
        shares.exp_()
        positives(shares, 0).sub_(1)
        return rows, shares

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum:
        """By Jensen's inequality, from the largest gap between positives and negatives."""
        count = samples - 1 if self.negatives is None else self.negatives
        if self.similarity == "dot":
            return Infimum(0.0, attained=False)
        if count < samples - 1:
            return Infimum(math.log1p(count * math.exp(-2 / self.temperature)), attained=None)
        value = math.log1p(count * math.exp(-simplex_gap(samples) / self.temperature))
        return Infimum(value, attained=embedding_dim >= samples - 1)


@LOSSES
class NTXent(Loss):
    """SimCLR's loss: each of 2n views against the 2n - 1 others, of both towers (Chen et al. 2020, eq. 1).

    Infimum: at least log(1 + (2n-2) exp(-n / ((n-1) tau))), attained if and only if d >= n - 1. Cosine only.
    """

    unsuited: ClassVar[Reasons] = {"dot": "is not SimCLR's loss, whose views are compared by cosine"}

    name: Literal["nt_xent"] = "nt_xent"
    temperature: Temperature = 0.5

    def anchors_and_candidates(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """All views twice, candidates in the order that puts each view's positive at its place: (S, 2n, d)."""
        from torch import cat

        return cat([query, key], dim=1), cat([key, query], dim=1)

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """-log softmax at the positive, the view itself left out."""
        samples = logits.shape[-1] // 2
        return without(logits, first + samples, first - samples).logsumexp(-1) - positives(logits, first)

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum:
        """By Jensen's inequality: a view's negatives are both views of the others."""
        negatives = 2 * samples - 2
        value = math.log1p(negatives * math.exp(-simplex_gap(samples) / self.temperature))
        return Infimum(value, attained=embedding_dim >= samples - 1)


@LOSSES
class DCL(Loss):
    """Decoupled contrastive loss: InfoNCE with the positive left out of the denominator (Yeh et al. 2021,
    proposition 2, with the negatives of the other view).

    Infimum: at least log(n-1) - n / ((n-1) tau), attained if and only if d >= n - 1. Cosine only.
    """

    unsuited: ClassVar[Reasons] = {"dot": "is unbounded below"}

    name: Literal["dcl"] = "dcl"
    temperature: Temperature = 0.5
    symmetric: bool = False
    """Average both directions, query to key and key to query."""

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """log sum of the negatives' exponentials, less the positive's logit."""
        return without(logits, first).logsumexp(-1) - positives(logits, first)

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum:
        """By Jensen's inequality, from the largest gap between positives and negatives."""
        value = math.log(samples - 1) - simplex_gap(samples) / self.temperature
        return Infimum(value, attained=embedding_dim >= samples - 1)


@LOSSES
class Sigmoid(Loss):
    """SigLIP's loss: each pair is classified by itself, sum_ij softplus(-y_ij (t s_ij + b)) / n with y_ij = 1 for
    positives and -1 for all others (Zhai et al. 2023, section 3.2).

    Infimum: a convex minimum over the mean cosine a of positives, attained if d >= n (d >= n - 1 suffices where a = 1,
    d >= 1 where a = -1); 0 with a trained scale (not attained). Cosine only.
    """

    unsuited: ClassVar[Reasons] = {"dot": "has its scale twice, in t and in the embeddings' norms"}

    name: Literal["sigmoid"] = "sigmoid"
    scale: float = Field(default=10.0, gt=0)
    """Multiplies the cosines, t; the start if trained."""
    bias: float = -10.0
    """Added to the scaled cosines, b; the start if trained."""
    trainable: bool = False
    """Train log t and b along with the towers."""

    @property
    def escapes(self) -> bool:
        """With a trained scale, which grows."""
        return self.trainable

    def parameters(self) -> dict[str, float]:
        """log t and b, if trained."""
        return {"log_scale": math.log(self.scale), "bias": self.bias} if self.trainable else {}

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """-log sigmoid of each pair's signed logit, summed."""
        from torch.nn.functional import logsigmoid

        scale: float | Tensor = self.scale
        bias: float | Tensor = self.bias
        if self.trainable:
            scale, bias = extras["log_scale"].exp()[:, None, None], extras["bias"][:, None, None]
        signed = -(logits * scale + bias)
        positives(signed, first).neg_()
        return -logsigmoid(signed).sum(-1)

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum:
        """By Jensen's inequality: given the positives' mean cosine a, that of negatives is at least
        ((n-2) a - n) / (2 (n-1)), reached by a simplex with the two views moved apart along one more axis."""
        if self.trainable:
            return Infimum(0.0, attained=False)

        def scores(a: float) -> tuple[float, float]:
            c = ((samples - 2) * a - samples) / (2 * (samples - 1))
            return self.scale * a + self.bias, self.scale * c + self.bias

        def slope(a: float) -> float:
            """Log ratio of the two terms of the derivative in a: of its sign, and increasing."""
            positive, negative = scores(a)
            weight = math.log((samples - 2) / 2) if samples > 2 else -math.inf
            return weight - float(np.logaddexp(0, -negative) - np.logaddexp(0, positive))

        if slope(1.0) <= 0:
            best, dimensions = 1.0, samples - 1
        elif slope(-1.0) >= 0:
            best, dimensions = -1.0, 1
        else:
            from scipy.optimize import brentq

            best, dimensions = brentq(slope, -1.0, 1.0, xtol=1e-14), samples
        positive, negative = scores(best)
        value = float(np.logaddexp(0, -positive) + (samples - 1) * np.logaddexp(0, negative))
        return Infimum(value, attained=embedding_dim >= dimensions)


@LOSSES
class Spectral(Loss):
    """Spectral contrastive loss on all pairs: -2 mean_i s_ii + mean_ij s_ij^2, diagonal included (HaoChen et al. 2021,
    lemma 3.2).

    Infimum: -min(n, d), attained. Dot only.
    """

    unsuited: ClassVar[Reasons] = {"cosine": "cannot reach its minimum, which fixes the embeddings' norms"}

    name: Literal["spectral"] = "spectral"
    similarity: Similarity = "dot"
    """How two embeddings are compared: their plain inner product."""

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """Mean square of a row, less twice the positive."""
        return logits.square().mean(-1) - 2 * positives(logits, first)

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum:
        """(s_ij) = n times a projection of the largest rank."""
        return Infimum(-float(min(samples, embedding_dim)), attained=True)


@LOSSES
class Debiased(Loss):
    """Debiased contrastive loss: -log e_i / (e_i + N g), where e_i = exp(s_ii/tau), N = n - 1 and
    g = max((mean_neg exp(s/tau) - prior e_i) / (1 - prior), exp(-1/tau)) (Chuang et al. 2020, eq. 7 and 8).

    Infimum: at least log(1 + N exp(-2/tau)); attained on a simplex, d >= n - 1, where that clamps every anchor, and
    not attained in any dimension where it does not. Cosine only.
    """

    unsuited: ClassVar[Reasons] = {
        "dot": "has a clamp exp(-1/temperature) that is the least value of unit embeddings only"
    }

    name: Literal["debiased"] = "debiased"
    temperature: Temperature = 0.5
    symmetric: bool = False
    """Average both directions, query to key and key to query."""
    prior: float = Field(default=0.1, ge=0, lt=1)
    """Share of the other samples that are taken to be positives in truth."""

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """log(1 + N g / e_i)."""
        from torch.nn.functional import logsigmoid

        log_estimate = self._log_estimate(logits, first).clamp_min(-1 / self.temperature)
        return -logsigmoid(positives(logits, first) - log_estimate - math.log(logits.shape[-1] - 1))

    def _log_estimate(self, logits: Tensor, first: int) -> Tensor:
        """log g before the clamp, -inf where the estimate is not positive: (S, b, N) -> (S, b)."""
        log_mean = without(logits, first).logsumexp(-1) - math.log(logits.shape[-1] - 1)
        log_prior = math.log(self.prior) if self.prior else -math.inf
        log_share = positives(logits, first) + log_prior - log_mean  # of the mean that is taken off it
        is_positive = log_share < 0
        left = -log_share.where(is_positive, -1.0).expm1()
        return (log_mean + left.log() - math.log1p(-self.prior)).where(is_positive, -math.inf)

    def diagnostics(self, query: Tensor, key: Tensor, **extras: Tensor) -> dict[str, Tensor]:
        """`clamped_share`: anchors whose g is the clamp."""

        def clamped(logits: Tensor, first: int) -> Tensor:
            return (self._log_estimate(logits, first) < -1 / self.temperature).to(logits.dtype)

        return {"clamped_share": self.mean_over_anchors(clamped, query, key)}

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum:
        """Every positive at cosine 1 and every g clamped; the mean of the negatives is least on a simplex."""
        least = math.exp(-2 / self.temperature)  # of exp((s - 1) / tau)
        clamps = math.exp(-simplex_gap(samples) / self.temperature) <= self.prior + (1 - self.prior) * least
        attained = clamps and (True if embedding_dim >= samples - 1 else None)
        return Infimum(math.log1p((samples - 1) * least), attained=attained)


@LOSSES
class SupCon(Loss):
    """Supervised contrastive loss across the views: -1/|P(i)| sum_{p in P(i)} log exp(s_ip/tau) / sum_j exp(s_ij/tau),
    where P(i) are all candidates of i's label, i's own among them (Khosla et al. 2020, eq. 2).

    Infimum: at least the mean of log |P(i)| for dot; for cosine, the mean of log(|P(i)| + (n - |P(i)|) exp(-g/tau))
    with g = C/(C-1) for C classes of one size, else 2; attained if d >= C - 1 and classes are of one size or two.
    """

    name: Literal["supcon"] = "supcon"
    temperature: Temperature = 0.5
    symmetric: bool = False
    """Average both directions, query to key and key to query."""

    @property
    def escapes(self) -> bool:
        """With dot: the gap between positives and negatives grows with the norms."""
        return self.similarity == "dot"

    @property
    def needs(self) -> frozenset[str]:
        """The samples' labels."""
        return frozenset({"labels"})

    def of_rows(self, logits: Tensor, first: int, **extras: Tensor) -> Tensor:
        """Mean over the positives of -log softmax."""
        labels = extras["labels"]
        same = labels[:, first : first + logits.shape[1], None] == labels[:, None]
        return logits.logsumexp(-1) - logits.where(same, 0.0).sum(-1) / same.sum(-1)

    def infimum(self, *, samples: int, embedding_dim: int, labels: Labels | None = None) -> Infimum | None:
        """By Jensen's inequality, as for InfoNCE on the classes' means."""
        if labels is None:
            return None
        sizes = np.unique(np.asarray(labels), return_counts=True)[1]
        classes, shares = len(sizes), sizes / samples
        if classes == 1:
            return Infimum(math.log(samples), attained=True)
        if self.similarity == "dot":
            return Infimum(float(shares @ np.log(sizes)), attained=False)
        balanced = sizes.min() == sizes.max()
        gap = simplex_gap(classes) if balanced else 2.0
        value = float(shares @ np.log(sizes + (samples - sizes) * math.exp(-gap / self.temperature)))
        return Infimum(value, attained=bool(balanced or classes == 2) and embedding_dim >= classes - 1)
