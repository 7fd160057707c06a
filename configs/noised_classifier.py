"""A classifier of noisy latents for classifier guidance, for a finished model (arXiv 2105.05233, section 4).

  rdm train --config configs/noised_classifier.py --workdir runs/noised_classifier
  rdm train --config configs/noised_classifier.py:imagenet --workdir gs://BUCKET/runs/noised_classifier

The first is for the embedded model and names subject, colour and style; the second has the paper's settings (300,000
steps of 256, 3e-4, decay 0.05, width 128, depth 2, attention at 32, 16 and 8) for the ImageNet model's latents, meant
for 8 A100.
"""

from pathlib import Path

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent / "noised_clip.py"  # the same network, data and steps


def get_config(data: str = "") -> Config:
    """Returns the configuration for the embedded model, or with "imagenet" for that of ImageNet.

    Raises:
      UserError: there is no such variant.
    """
    if data not in ("", "imagenet"):
        raise unknown("variant", data, ["imagenet"])
    config = load_config(str(PARENT)).unlock()
    config.task = "noised_classifier"
    config.steps = 3_000  # it knows all that the noise leaves by then
    config.optimizer.weight_decay = 0.05
    config.attributes = ("subject", "colour", "style")
    config.model.dropout = 0.1
    if data == "imagenet":
        config.name, config.base = "rdm-imagenet", "runs/rdm_imagenet/model"
        config.steps, config.batch_size = 300_000, 256
        config.optimizer.update(learning_rate=3e-4, warmup=0, decay="constant")
        config.attributes = ("label",)
        config.data.update(source="imagenet2012", data_dir="", size=256, cache=False, cache_latents=False, mirror=True)
        config.model.update(
            model_channels=128,
            channel_mult=(1, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(2, 4, 8),
            num_groups=32,
            num_head_channels=64,
            dropout=0.0,
        )
    return config
