r"""Parti in small on `style_scenes`: 8x8 codes of 2,048, the tokens of the caption and three neighbors.

The first stage is that of `style_scenes/vit_vq`; the data and the neighbors are those of `style_scenes/rdm`. With
`:decoder` the text has no encoder: the decoder attends to its embedded tokens.

rdm train --config style_scenes/parti --workdir runs/parti
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import base_config


def get_config(form: str = "") -> dict[str, Any]:
    """Returns what the run sets: of an encoder and a decoder, or with "decoder" of a decoder alone.

    Raises:
      UserError: there is no such form.
    """
    if form not in ("", "decoder"):
        raise unknown("form", form, ["decoder"])
    parent = base_config("style_scenes/rarm").to_dict()
    return {
        **parent,
        "task": "parti",
        "name": "style-scenes-parti",
        "base": "runs/vit_vq_base",
        "conditioning": {**parent["conditioning"], "unit_tokens": False},
        "text": {
            "context_length": 20,
            "width": 128,
            "layers": 0 if form else 3,
            "heads": 4,
            "head_channels": 32,
        },
        "model": {**parent["model"], "gated": False, "final_norm": True},
    }
