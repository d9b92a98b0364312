"""Gradient dominance: how steep the loss is for its height above the lowest that any embeddings reach."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from suite.data.pairs import draw_pairs
from suite.measurement.lowest_loss import lowest_loss
from suite.measurement.moments import Moments
from suite.measurement.registry import MEASUREMENTS, Column, Values
from suite.training.losses import draw_negatives

if TYPE_CHECKING:
    from suite.experiment import TrialSettings
    from suite.measurement.point import Point


@MEASUREMENTS(
    "dominance",
    Column(name="lowest_loss", formula="L*, the least L of any n embeddings of d dimensions, for both views"),
    Column(
        name="gradient_dominance",
        formula="G / (2 (L − L*)), where L > L*",
        source="Polyak 1963; Karimi et al. 2016, section 2",
    ),
    default=Moments.NEVER,
    cost="one minimisation per loss, n and d, kept for later: ten seconds for n = 64, d = 16",
    waits=True,
)
def dominance(point: Point) -> Values:
    """The constant mu of the inequality G / 2 >= mu (L - L*) that holds at this point: bounded away from 0 along a
    path, it makes descent linear. L* is the infimum where that is attained, else the best of 20 minimisations over
    free embeddings: an upper bound, and where L - L* is small the ratio is of little use. The minimisation takes time
    that grows like n squared, and is one per seed where the loss needs labels or draws its negatives."""
    import torch

    lowest = [math.nan if settings is None else lowest_of(settings) for settings in point.settings]
    floor = torch.tensor(lowest, dtype=torch.float64, device=point.loss.device)
    height = point.loss.detach().double() - floor
    ratio = point.scaled.double() / (2 * height)
    return {"lowest_loss": floor, "gradient_dominance": ratio.where(height > 0, math.nan)}


def lowest_of(settings: TrialSettings) -> float:
    """The lowest loss of a trial, given its labels and its draw of negatives."""
    loss, samples = settings.loss, settings.data.samples
    labels = draw_pairs(settings.data, settings.seed).labels if "labels" in loss.needs else None
    negatives = (
        draw_negatives(settings.seed, samples=samples, negatives=loss.num_negatives)
        if "negatives" in loss.needs and loss.num_negatives is not None
        else None
    )
    return lowest_loss(
        loss, samples=samples, embedding_dim=settings.encoder.embedding_dim, labels=labels, negatives=negatives
    )
