"""The first stages of latent diffusion, as published: KL and VQ autoencoders on 256-pixel crops of OpenImages.

  rdm train --config configs/first_stage.py:kl_f8 --workdir gs://BUCKET/runs/kl_f8 \
    --config.loss.perceptual.bundle=runs/lpips

Any of configs/models/: kl_f4, kl_f8, kl_f16, kl_f32, vq_f4, vq_f4_noattn, vq_f8, vq_f8_n256, vq_f16. Meant for 8 A100
(53 to 104 M parameters). LPIPS needs its converted weights (`rdm convert`); the features of a CLIP take their place by
--config.loss.perceptual.kind=clip. The rate is 4.5e-6 for each example of the batch. Published on ImageNet's validation
set (the release's model zoo), rFID: kl_f4 .27, kl_f8 .90, kl_f16 .87, kl_f32 2.04, vq_f4 .58, vq_f8 1.14, vq_f16 5.15.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, defaults, load_config

MODELS = Path(__file__).parent / "models"
# Examples a device in the release, the step from which the discriminator counts, its weight, its layers.
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
}
DEVICES = 8


def get_config(model: str = "kl_f8") -> Config:
    """Returns the configuration of one of `RECIPES`.

    Raises:
      UserError: there is no such model.
    """
    if model not in RECIPES:
        raise unknown("first stage", model, RECIPES)
    each, start, weight, layers = RECIPES[model]
    config = defaults()
    config.task = "first_stage"
    config.name = model.replace("_", "-")
    config.steps = 1_000_000
    config.batch_size = each * DEVICES
    config.crop = 256
    config.log_every = 100
    config.eval_every = config.figures_every = config.checkpoint_every = 5_000
    config.ema_decay = 0.0  # the release has no average: this one is the parameters themselves
    config.threads = 16
    config.optimizer.update(
        learning_rate=4.5e-6 * config.batch_size, warmup=0, decay="constant", b1=0.5, b2=0.9, clip_norm=0.0
    )
    config.data.update(
        source="open_images_v4", split="train", held_out="validation", data_dir="", size=384, cache=False
    )
    config.loss = ConfigDict(
        {
            "kl_weight": 1e-6,
            "codebook_weight": 1.0,
            "entropy_weight": 0.0,
            "perceptual": {"kind": "lpips", "bundle": "", "weight": 1.0},
            "adversarial": {"weight": weight, "start": start, "layers": layers},
        }
    )
    config.model = load_config(str(MODELS / f"{model}.py")).autoencoder.to_dict()
    return config
