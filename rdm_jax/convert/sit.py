"""Weights of released SiTs (https://github.com/willisma/SiT), plain state dicts with the names and shapes of DiT's.

No tensor tells the two apart: a file is a SiT's if its name begins with "SiT", as the released ones' do, or if its path
is given. The released networks have the channels of a variance, which their program throws away, and so does the
conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert import dit
from rdm_jax.convert import patch_transformers as common
from rdm_jax.core.errors import unknown

KIND = "SiT"
PATHS = ("linear", "gvp")  # whose velocity a network may predict; the released ones are linear


def path_of(source: Path, interpolant: str | None) -> str | None:
    """Returns the path of a file with the names of a DiT, or None if it is a DiT's.

    Args:
      source: the file; a name that begins with "SiT" is that of a linear one.
      interpolant: a name in `PATHS`, or None.

    Raises:
      UserError: the path is unknown.
    """
    if interpolant is None:
        return "linear" if source.name.lower().startswith("sit") else None
    if interpolant not in PATHS:
        raise unknown("interpolant", interpolant, PATHS)
    return interpolant


def config(state: Mapping[str, np.ndarray], arguments: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns the configuration for `build_denoiser`, of a network along a path; raises UserError as `dit.config`."""
    settings = dit.config(state, arguments)
    return {**settings, "out_channels": settings["in_channels"], "path": path}


def conventions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sections of a bundle beside the denoiser.

    The release samples the stochastic equation with 250 evaluations, whose last step of 0.04 has no noise. It guides
    three of four latent channels by 1.5, as DiT's, which is about 1.375 on all of them.
    """
    path = settings["path"]
    own = "" if path == "linear" else f"path='{path}', "
    return common.conventions(
        settings,
        {"schedule": f"{path}_interpolant", "prediction": f"{path}_velocity"},
        sampler=f"interpolant_sde({own}last='mean')",
        steps=250,
        guidance_scale=1.375,
    )
