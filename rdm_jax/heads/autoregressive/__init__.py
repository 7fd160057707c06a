"""Tokens one after another: a causal transformer over the codes of a VQ first stage."""
