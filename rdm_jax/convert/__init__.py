"""Weights of other programs made into parameters of these networks, without running the files that hold them."""
