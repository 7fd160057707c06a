"""The first stages of latent diffusion and of Frido, as published: autoencoders on 256-pixel crops of OpenImages.

  rdm train --config first_stage:kl_f8 --workdir gs://BUCKET/runs/kl_f8 --config.loss.perceptual.bundle=runs/lpips

The argument is one of kl_f4, kl_f8, kl_f16, kl_f32, vq_f4, vq_f4_noattn, vq_f8, vq_f8_n256, vq_f16, and frido_f16f8,
which has two scales and whose batch size is ours. Meant for 8 A100 (53 to 104 M parameters). LPIPS needs its converted
weights (`rdm convert`); with --config.loss.perceptual.kind=clip the features of a CLIP replace it. The rate is 4.5e-6
for each example of the batch. Published on ImageNet's validation set (the release's model zoo), rFID: kl_f4 .27,
kl_f8 .90, kl_f16 .87, kl_f32 2.04, vq_f4 .58, vq_f8 1.14, vq_f16 5.15.
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import load_architecture

# Examples on each device in the release, the step from which the discriminator counts, its weight, its layers.
RECIPES = {
    "kl_f4": (10, 50_001, 0.5, 3),
    "kl_f8": (4, 50_001, 0.5, 3),
    "kl_f16": (6, 50_001, 0.5, 3),
    "kl_f32": (6, 50_001, 0.5, 3),
    "vq_f4": (8, 0, 0.75, 3),
    "vq_f4_noattn": (8, 11, 0.75, 3),
    "vq_f8": (8, 1, 0.6, 2),
    "vq_f8_n256": (8, 250_001, 0.75, 3),
    "vq_f16": (8, 1, 0.75, 2),
    "frido_f16f8": (8, 30_001, 0.8, 2),
}
DEVICES = 8


def get_config(model: str = "kl_f8") -> dict[str, Any]:
    """Returns what the run of one of `RECIPES` sets.

    Raises:
      UserError: there is no such model.
    """
    if model not in RECIPES:
        raise unknown("first stage", model, RECIPES)
    each, start, weight, layers = RECIPES[model]
    batch_size = each * DEVICES
    return {
        "task": "first_stage",
        "name": model.replace("_", "-"),
        "steps": 1_000_000,
        "batch_size": batch_size,
        "crop": 256,
        "log_every": 100,
        "eval_every": 5_000,
        "figures_every": 5_000,
        "checkpoint_every": 5_000,
        "ema_decay": 0.0,  # the release has no average
        "threads": 16,
        "optimizer": {
            "learning_rate": 4.5e-6 * batch_size,
            "warmup": 0,
            "decay": "constant",
            "b1": 0.5,
            "b2": 0.9,
            "clip_norm": 0.0,
        },
        "data": {"source": "open_images_v4", "data_dir": "", "size": 384, "cache": False},
        "loss": {
            "kl_weight": 1e-6,
            "codebook_weight": 1.0,
            "perceptual": {"kind": "lpips", "weight": 1.0},
            "adversarial": {"weight": weight, "start": start, "layers": layers},
        },
        "model": load_architecture(model).autoencoder.to_dict(),
    }
