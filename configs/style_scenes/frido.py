r"""Frido on `style_scenes`: 8x8 coarse and 16x16 fine latents one after another, caption and three neighbors.

The first stage is that of `style_scenes/frido_vq`; the data, the neighbors and the width of the network are those of
`style_scenes/rdm`. A step evaluates both stages.

rdm train --config style_scenes/frido --workdir runs/frido
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rdm").to_dict()
    return {
        **parent,
        "name": "style-scenes-frido",
        "base": "runs/frido_base",
        "steps": 4000,
        "eval_every": 500,
        "checkpoint_every": 250,
        "log_every": 50,
        "figures_every": 1000,
        "ema_decay": 0.999,
        "error": "absolute",
        "model": {**parent["model"], "kind": "pyunet", "gate_channels": 32},
    }
