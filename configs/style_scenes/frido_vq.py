"""The first stage of two scales of `style_scenes`: f8 and f4, an image is 64 coarse and 256 fine codes of 1,024 each.

Its outer levels have the shapes of the embedded model's autoencoder and start from it, as in `style_scenes/vq`, whose
two runs these are: crops of 32 pixels, then whole images and a distance of CLIP's features.

  rdm train --config style_scenes/frido_vq --workdir runs/frido_crops --init-from style-scenes
  rdm export runs/frido_crops --out runs/frido_crops_bundle
  rdm train --config style_scenes/frido_vq:finish --workdir runs/frido_vq --init-from runs/frido_crops_bundle
  rdm export runs/clip runs/frido_vq --out runs/frido_base
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config(stage: str = "") -> dict[str, Any]:
    """Returns what a run sets: of training on crops, or with "finish" of its end on whole images.

    Raises:
      UserError: there is no such stage.
    """
    parent = base_config(f"style_scenes/vq:{stage}" if stage else "style_scenes/vq").to_dict()
    shared = ("ch", "num_res_blocks", "attn_resolutions", "resolution", "codebook_bound", "legacy", "num_groups")
    model = {key: parent["model"][key] for key in (*shared, "mid_attention")}
    return {
        **parent,
        "name": "style-scenes-frido-vq",
        "model": {
            **model,
            "kind": "multi_scale_vq",
            "ch_mult": (1, 3, 6, 6),
            "decoder_ch_mult": (1, 3, 6),
            "decoder_attn_resolutions": (),
            "scale_channels": 4,
            "num_codes": (1024, 1024),
            "shared_ch": 32,
        },
    }
