"""Ablations: grids of settings, each cell trained or sampled and measured by the same commands."""
