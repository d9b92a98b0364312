"""Stillpoint: do two encoders trained jointly on a contrastive loss reach a stationary point?"""

from suite.loading import load_experiment
from suite.run import run

__all__ = ["load_experiment", "run"]
