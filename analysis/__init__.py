"""Analysis of finished sweeps: frames, laws, figures, report. Imports neither torch nor ray."""
