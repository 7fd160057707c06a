"""The boundary condition of consistency models, in the form of latent consistency models (LCM).

f(z, t) = c_skip(t) z + c_out(t) x0(z, t) is the identity at t = 0 (Luo et al. 2023, https://arxiv.org/abs/2310.04378,
section 4.1; Song et al. 2023, https://arxiv.org/abs/2303.01469, eq. 5).
"""

from __future__ import annotations

from typing import Any

SIGMA_DATA = 0.5
TIME_SCALE = 10.0


def boundary_scalings(t: Any) -> tuple[Any, Any]:
    """Returns (c_skip, c_out) at times of a schedule, arrays of NumPy or JAX of the shape of `t`."""
    square = (TIME_SCALE * t) ** 2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / square, TIME_SCALE * t / square**0.5
