"""Frido at 256 pixels with neighbors (arXiv 2208.13753): its networks, loss and noise on the index of this project.

  rdm train --config first_stage:frido_f16f8 --workdir gs://BUCKET/runs/frido_vq
  rdm train --config frido --workdir gs://BUCKET/runs/frido

`data.source` is a folder of captioned images. The base holds CLIP ViT-L/14 and the first stage of two scales. The paper
conditions on captions, layouts, scene graphs or labels alone; the neighbors are an addition. The rate is 1e-6 for each
example of the batch; the program does not state its number of devices, and the number of steps here is ours.
"""

from typing import Any

from rdm_jax.models import SIZES
from rdm_jax.training.config import load_architecture

BATCH = 32 * 8


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    architecture = load_architecture("frido").to_dict()
    network = architecture["denoiser"] | {"dtype": "bfloat16", "remat": True}
    return {
        "task": "diffusion",
        "name": "frido",
        "architecture": "frido",
        "base": "runs/frido/base",
        "steps": 500_000,
        "batch_size": BATCH,
        "log_every": 100,
        "eval_every": 5_000,
        "checkpoint_every": 5_000,
        "figures_every": 10_000,
        "ema_decay": 0.9999,
        "threads": 16,
        "optimizer": {
            "learning_rate": 1e-6 * BATCH,
            "warmup": 0,
            "decay": "constant",
            "weight_decay": 1e-2,
            "clip_norm": 0.0,
        },
        "mesh": {"fsdp": 8},
        "data": {
            "source": "data/captioned_images",
            "split": "",
            "data_dir": "",
            "size": 256,
            "cache": False,
            "cache_latents": False,
            "mirror": True,
            "held_out_rows": 1_000,
            "neighbors": "runs/frido/neighbors",
        },
        "diffusion": architecture["diffusion"],
        "error": "absolute",
        "conditioning": {
            "neighbors": 4,
            "candidates": 20,
            "unit_tokens": True,
            "null_probability": 0.1,
            "text_probability": 0.2,
            "text_and_neighbors_probability": 0.6,
        },
        "sampling": architecture["sampling"],
        "model": {key: value for key, value in network.items() if key not in SIZES},
    }
