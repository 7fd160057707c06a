"""The settings that the published diffusion models of this family share; other configs start from them.

AdamW with betas 0.9 and 0.999, 1e-2 of decay, a constant rate after a linear warm-up, no clipping; eps, all times
alike; an average of decay 0.9999 (arXiv 2204.11824, appendix; the released code). The release states the batch of one
GPU (40 to 50), and neither the number of GPUs nor the steps: the batch sizes and steps here are ours.
"""

from typing import Any

from rdm_jax.models import SIZES
from rdm_jax.training.config import load_architecture


def get_config(model: str) -> dict[str, Any]:
    """Returns the settings of training a diffusion model of the shipped architectures."""
    architecture = load_architecture(model)
    network = architecture.denoiser.to_dict() | {"dtype": "bfloat16", "remat": True}
    return {
        "task": "diffusion",
        "name": architecture.name,
        "architecture": model,
        "base": f"runs/{model}/base",
        "steps": 1_000_000,
        "batch_size": 1280,
        "log_every": 100,
        "eval_every": 5_000,
        "figures_every": 10_000,
        "checkpoint_every": 5_000,
        "keep_every": 100_000,
        "ema_decay": 0.9999,
        "threads": 16,
        "optimizer": {"learning_rate": 1e-4, "decay": "constant", "weight_decay": 1e-2, "clip_norm": 0.0},
        "data": {
            "data_dir": "",
            "size": architecture.sampling.width,
            "cache": False,
            "cache_latents": False,
            "mirror": True,
            "held_out_rows": 5_000,
        },
        "diffusion": architecture.diffusion.to_dict(),
        "latents": architecture.latents.to_dict(),
        "conditioning": {"neighbors": 4, "candidates": 4, "unit_tokens": architecture.conditioning.unit_tokens},
        "sampling": architecture.sampling.to_dict(),
        "model": {key: value for key, value in network.items() if key not in SIZES},
    }
