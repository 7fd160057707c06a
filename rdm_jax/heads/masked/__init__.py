"""Masked codes predicted in parallel: a bidirectional transformer over the codes of a VQ first stage."""
