r"""`style_scenes/rdm` with four encoders at a time, each dropped by a rate of its own (eDiff-I, arXiv 2211.01324).

CLIP's vector of the caption, the states of a text encoder that is trained along, CLIP's vector of the image itself,
whose style a reference lends, and three neighbors. The rates of texts and of the image are the paper's.

rdm train --config style_scenes/encoders --workdir runs/encoders
rdm export runs/encoders --out encoders
rdm sample "a red boat" --model ./encoders --database neon --reference-image sketch.png --leave-out text_states
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rdm").to_dict()
    conditioning = {key: parent["conditioning"][key] for key in ("neighbors", "candidates", "shuffled_probability")}
    return {
        **parent,
        "task": "encoders",
        "name": "style-scenes-encoders",
        "conditioning": {**conditioning, "null_probability": 0.05},
        "encoders": {
            "clip_text": 0.2,
            "text_states": 0.25,
            "clip_image": 0.9,
            "neighbors": 0.3,
            "beside_time": True,
        },
        "text": {"context_length": 20, "width": 128, "layers": 3, "heads": 4, "head_channels": 32},
    }
