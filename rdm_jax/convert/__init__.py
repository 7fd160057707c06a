"""Converts weights and databases of other programs, without running code from their files."""
