"""Muse's base model at 256 pixels with neighbors (arXiv 2301.00704).

  rdm train --config muse --workdir gs://BUCKET/runs/muse

`data.source` is a folder of captioned images. The base holds CLIP ViT-L/14 and a VQGAN of f16 with 8,192 codes. The
paper trains with Adafactor, for which AdamW with the same decay rates stands here. It averages checkpoints, one every
5,000 steps, with a decay of 0.7; the moving average here has the same memory. It conditions on captions alone; the
neighbors are an addition.
"""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    architecture = load_architecture("muse").to_dict()
    transformer = architecture["transformer"]
    return {
        "task": "masked",
        "name": "muse",
        "architecture": "muse",
        "base": "runs/muse/base",
        "steps": 1_500_000,
        "batch_size": 512,
        "log_every": 100,
        "eval_every": 5_000,
        "checkpoint_every": 5_000,
        "figures_every": 10_000,
        "ema_decay": 0.7 ** (1 / 5_000),
        "threads": 16,
        "optimizer": {
            "learning_rate": 1e-4,
            "warmup": 5_000,
            "decay": "cosine",
            "b1": 0.9,
            "b2": 0.96,
            "weight_decay": 0.045,
        },
        "mesh": {"fsdp": 8},
        "data": {
            "source": "data/captioned_images",
            "split": "",
            "data_dir": "",
            "size": 256,
            "cache": False,
            "held_out_rows": 1_000,
            "neighbors": "runs/muse/neighbors",
        },
        "conditioning": {
            "neighbors": 4,
            "candidates": 20,
            "unit_tokens": True,
            "null_probability": 0.1,
            "text_probability": 0.2,
            "text_and_neighbors_probability": 0.6,
        },
        "sampling": architecture["sampling"],
        "model": {
            **{key: transformer[key] for key in ("width", "depth", "head_channels")},
            "dropout": 0.1,
            "dtype": "bfloat16",
            "remat": True,
        },
    }
