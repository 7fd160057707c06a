"""The parts of benchmarks/gpu.py, one for each file."""
