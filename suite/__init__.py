"""Stillpoint: do two encoders trained jointly on a contrastive loss reach a stationary point?"""

from suite.loading import load_experiment
from suite.measuring import load_checkpoint, measure
from suite.run import run

__all__ = ["load_checkpoint", "load_experiment", "measure", "run"]
