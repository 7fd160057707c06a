"""What benchmarks/sampling.py measures, a table a file."""
