"""`rdm`, the command line: one file per verb, each a thin face on the package."""
