r"""The icon model that ships: a style encoder and a denoiser with two roles of neighbors, on 16x16x8 latents.

rdm train --config icons/rdm --workdir runs/icons/rdm --init-from runs/icons/start

`runs/icons/start` is made as configs/icons/style_encoder.py says. A record is four images of a style. The real styles
are joined by as many random ones as make up a third of the set, since few real ones have colors, pixels or gaps; the
latents of all images are encoded ahead. A first run of about 8,000 steps learns shapes sooner from content that mostly
comes from the image itself: `--config.conditioning.content_odds=0.65,0.25,0.1 --config.data.restyled=0`. On an
accelerator, `--config.batch_size=128 --config.model.dtype=bfloat16 --config.style_encoder.dtype=bfloat16`.
`icons/rdm:latent`, `:features` and `:vector` take the tokens of a style neighbor from the first stage's latent, from
the U-Net's features at noise level zero, and from the retrieval encoder.
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import base_config

STYLE_ENCODERS: dict[str, dict[str, Any]] = {
    "": {"widths": (32, 64, 128, 192), "color_bins": 4},
    "latent": {"kind": "patches", "view": "latent", "patch": 4},
    "features": {"kind": "patches", "view": "features", "patch": 1},
    "vector": {"kind": "patches", "view": "vector", "patch": 1},
}


def get_config(style: str = "") -> dict[str, Any]:
    """Returns what the run sets.

    Args:
      style: where the tokens of style neighbors come from; "" trains a network of its own to tell styles apart.

    Raises:
      UserError: there is no such source.
    """
    if style not in STYLE_ENCODERS:
        raise unknown("style tokens", style, [name for name in STYLE_ENCODERS if name])
    return {
        "task": "roles",
        "name": "icons",
        "base": "runs/icons/base",
        "steps": 50000,
        "batch_size": 8,
        "init_partial": True,
        "eval_every": 2000,
        "checkpoint_every": 1000,
        "log_every": 100,
        "ema_decay": 0.999,
        "data": {
            "source": "icons/64",
            "split": "train",
            "cache_latents": True,
            "held_out_rows": 2048,
            "one_color": "one_color",
            "most_of_style": 1000,
            "restyled": 600,
            "restyled_images": 120,
        },
        "conditioning": {
            "neighbors": 4,
            "naming": 0.03,
            "content_latents": False,
            "content_odds": (0.5, 0.44, 0.06),
        },
        "optimizer": {"learning_rate": 1e-3, "warmup": 200, "b2": 0.99},
        "diffusion": {"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"},
        "time_density": "uniform",
        # The parameters of style_scenes' model start the run; the pooled context brings the style to every block, where
        # it scales and shifts norms.
        "model": {**base_config("style_scenes/rdm").model.to_dict(), "pool_context": True, "scale_shift": True},
        "style_encoder": STYLE_ENCODERS[style],
        "sampling": {
            "condition": "text+neighbors",
            "database": "lucide",
            "content_database": "icons",
            "sampler": "ddim",
            "spacing": "trailing",
            "steps": 16,
            "guidance_scale": 2.0,
            "style_scale": 4.0,
            "height": 64,
            "width": 64,
        },
    }
