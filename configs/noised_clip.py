"""The noised image tower of semantic diffusion guidance, for a finished model (arXiv 2112.05744, section 3.4).

  rdm train --config noised_clip --workdir runs/noised_clip
  rdm export runs/noised_clip --out my-model

For the embedded model, on its procedural images: minutes on a GPU, an hour on two cores. For another model give
--config.base and --config.data. The paper tunes a ResNet-50x16 on pixels with AdamW, 1e-4, 32 images a GPU, up to
500,000 steps; this one reads latents.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "noised_clip",
        "name": "style-scenes",
        "base": "style-scenes",
        "steps": 8_000,
        "batch_size": 128,
        "eval_every": 1_000,
        "checkpoint_every": 1_000,
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.01},
        "model": {
            "model_channels": 32,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 1,
            "attention_resolutions": (4,),
            "num_groups": 8,
            "num_head_channels": 32,
        },
    }
