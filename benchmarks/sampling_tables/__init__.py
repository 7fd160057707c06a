"""The tables of benchmarks/sampling.py: one file for each, and what they have in common."""
