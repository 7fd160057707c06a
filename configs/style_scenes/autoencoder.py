"""The small KL autoencoder (f4) of the embedded model.

The number of steps matters more than the number of pixels, so it is trained on crops of 32 pixels. `:decoder` then
trains the decoder alone, on whole images and with the features of the CLIP in `base`; the latents stay the same.

  rdm train --config style_scenes/autoencoder --workdir runs/autoencoder
  rdm export runs/clip runs/autoencoder --out runs/base
  rdm train --config style_scenes/autoencoder:decoder --workdir runs/decoder --init-from runs/base
"""

from typing import Any

from rdm_jax.core.errors import unknown

MODEL = {
    "kind": "kl",
    "ch": 16,
    "ch_mult": (1, 3, 6),
    "num_res_blocks": 1,
    "attn_resolutions": (),
    "resolution": 64,
    "z_channels": 8,
    "embed_dim": 8,
    "num_groups": 8,
    "mid_attention": False,
}
COMMON = {
    "task": "autoencoder",
    "name": "style-scenes",
    "base": "runs/base",
    "eval_every": 1000,
    "figures_every": 1000,
    "checkpoint_every": 500,
    "model": MODEL,
}


def get_config(stage: str = "") -> dict[str, Any]:
    """Returns what the run of the whole autoencoder sets, or with "decoder" that of the decoder alone.

    Raises:
      UserError: there is no such stage.
    """
    if stage not in ("", "decoder"):
        raise unknown("stage", stage, ["decoder"])
    loss = {"squared_weight": 1.0, "edge_weight": 0.5, "kl_weight": 1e-3, "latent_noise": 0.1, "half_scale_weight": 0.5}
    if not stage:
        whole = {"steps": 6000, "batch_size": 32, "crop": 32, "optimizer": {"learning_rate": 2e-3}, "loss": loss}
        return COMMON | whole
    loss |= {"squared_weight": 0.0, "latent_noise": 0.4, "half_scale_weight": 0.0}
    return COMMON | {
        "steps": 1500,
        "batch_size": 16,
        "crop": 64,
        "optimizer": {"learning_rate": 5e-4, "frozen": ("autoencoder/(encoder|quant)/.*",)},
        "loss": loss | {"similarity_weight": 1.5, "feature_weight": 0.5},
    }
