"""Data sources, one per file, and the two views each sample is seen through."""
