"""Networks built from the original programs' configurations, and comparison with what those compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from rdm_jax.models import AutoencoderKL, AutoencoderVQ, UNet, build_autoencoder, build_denoiser


@pytest.fixture(scope="session")
def yaml_unet() -> Callable[[Path], UNet]:
    return lambda path: _unet(yaml.safe_load(path.read_text())["model"]["params"]["unet_config"]["params"])


@pytest.fixture(scope="session")
def yaml_autoencoder() -> Callable[[Path], AutoencoderKL | AutoencoderVQ]:
    def build(path: Path) -> AutoencoderKL | AutoencoderVQ:
        params = yaml.safe_load(path.read_text())["model"]["params"]
        return _autoencoder(params.get("first_stage_config", {}).get("params", params))

    return build


def _unet(params: dict[str, Any]) -> UNet:
    """Returns the U-Net of a yaml, its concatenated condition as channels of its own."""
    own = (
        "image_size",
        "use_checkpoint",
        "legacy",
        "use_spatial_transformer",
        "use_scale_shift_norm",
        "resblock_updown",
    )
    config = {"kind": "unet"} | {key: value for key, value in params.items() if key not in own}
    config |= {"scale_shift": params.get("use_scale_shift_norm", False)}
    config |= {"residual_resampling": params.get("resblock_updown", False)}
    if not params.get("use_spatial_transformer", False):
        config |= {"attention": "block", "context_dim": 0}
        config.pop("transformer_depth", None)
    beside = params["in_channels"] - params["out_channels"]
    config |= {"in_channels": params["out_channels"], "condition_channels": beside}
    return build_denoiser(config)


def _autoencoder(params: dict[str, Any]) -> AutoencoderKL | AutoencoderVQ:
    config = dict(params["ddconfig"])
    double_z, attention = config.pop("double_z"), config.pop("attn_type", "vanilla")
    config |= {"kind": "kl" if double_z else "vq", "embed_dim": params["embed_dim"]}
    config |= {"out_channels": config.pop("out_ch"), "mid_attention": attention != "none"}
    return build_autoencoder(config if double_z else {**config, "num_codes": params["n_embed"]})


@pytest.fixture(scope="session")
def nhwc() -> Callable[[np.ndarray], jax.Array]:
    return lambda array: jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    def check(ours: Any, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
        ours = np.asarray(ours)
        ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)

    return check
