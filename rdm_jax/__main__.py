"""`python -m rdm_jax`, the same as `rdm`."""

import sys

from rdm_jax.cli.main import program

if __name__ == "__main__":
    sys.exit(program())
