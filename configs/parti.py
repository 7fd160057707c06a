"""Parti at 256 pixels with neighbors (arXiv 2206.10789, tables 1 and 2): an encoder of texts and a decoder of codes.

  rdm train --config vit_vq --workdir gs://BUCKET/runs/vit_vq               # then vit_vq:decoder
  rdm train --config parti --workdir gs://BUCKET/runs/parti                 # or parti:750m, parti:3b, parti:20b

`data.source` is a folder of captioned images. The base holds CLIP ViT-L/14, its tokenizer, and the ViT-VQGAN of
`vit_vq` with the larger decoder. The paper trains with Adafactor and an exponential decay of the rate, for which AdamW
and a cosine stand here, with the same decay rates of the moments. It starts from a text encoder that was trained on
texts before, and its decoder attends to a local window of codes; here the decoder attends to all. It does not state how
many captions are dropped for guidance, and conditions on captions alone; the neighbors are an addition.
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import load_architecture

# Blocks of the encoder and of the decoder, their channels, and the devices that share one copy of the state.
SIZES = {"350m": (12, 12, 1024, 8), "750m": (12, 36, 1024, 8), "3b": (12, 36, 2048, 16), "20b": (16, 64, 4096, 64)}


def get_config(size: str = "350m") -> dict[str, Any]:
    """Returns what a run of one of `SIZES` sets.

    Raises:
      UserError: there is no such size.
    """
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    encoder, decoder, width, shared = SIZES[size]
    architecture = load_architecture("parti").to_dict()
    network = architecture["transformer"]
    return {
        "task": "parti",
        "name": f"parti-{size}",
        "architecture": "parti",
        "base": "runs/parti/base",
        "steps": 450_000,
        "batch_size": 8192,
        "log_every": 100,
        "eval_every": 5_000,
        "checkpoint_every": 5_000,
        "figures_every": 10_000,
        "ema_decay": 0.0,  # the paper has no average: this one is the parameters themselves
        "threads": 16,
        "optimizer": {
            "learning_rate": 4.5e-5,
            "warmup": 5_000,
            "decay": "cosine",
            "b1": 0.9,
            "b2": 0.96,
            "weight_decay": 0.045,
            "clip_norm": 4.0,
        },
        "mesh": {"fsdp": shared},
        "data": {
            "source": "data/captioned_images",
            "split": "",
            "data_dir": "",
            "size": 256,
            "cache": False,
            "held_out_rows": 1_000,
            "neighbors": "runs/parti/neighbors",
        },
        "conditioning": {
            "neighbors": 4,
            "candidates": 20,
            "null_probability": 0.1,
            "text_probability": 0.2,
            "text_and_neighbors_probability": 0.7,
        },
        "sampling": architecture["sampling"],
        "text": {
            "context_length": architecture["text_encoder"]["context_length"],
            "width": width,
            "layers": encoder,
            "heads": width // 64,
            "head_channels": 64,
            "dtype": "bfloat16",
        },
        "model": {
            **{key: network[key] for key in ("head_channels", "gated", "final_norm")},
            "width": width,
            "depth": decoder,
            "dropout": 0.1,
            "dtype": "bfloat16",
            "remat": True,
        },
    }
