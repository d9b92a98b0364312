"""Analysis of finished sweeps: frames, laws, figures, report. Imports neither torch nor ray."""

from analysis.fitting import fit_law
from analysis.frames import load_results

__all__ = ["fit_law", "load_results"]
