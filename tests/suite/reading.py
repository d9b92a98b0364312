"""What a lane's slots are measured to be, for tests that drive a lane by hand."""

import torch

from suite.measurement.catalog import measured
from suite.measurement.certificate import Levels
from suite.measurement.registry import MEASUREMENTS
from suite.training.lane import Lane


def read(lane: Lane) -> dict[str, torch.Tensor]:
    """Loss and gradient norms of every slot."""
    point = lane.point(Levels())
    return measured(point, MEASUREMENTS["gradient"]) | measured(point, MEASUREMENTS["displacement"])
