"""A classifier of noisy latents for classifier guidance, for a finished model (arXiv 2105.05233, section 4).

  rdm train --config noised_classifier --workdir runs/noised_classifier
  rdm train --config noised_classifier:imagenet --workdir gs://BUCKET/runs/noised_classifier

The first is for the embedded model and names subject, color and style. The second has the paper's settings (300,000
steps of 256, 3e-4, decay 0.05, width 128, depth 2, attention at 32, 16 and 8) for the ImageNet model's latents, meant
for 8 A100.
"""

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, base_config


def get_config(data: str = "") -> Config:
    """Returns what the run for the embedded model sets, or with "imagenet" that for the ImageNet model.

    Raises:
      UserError: there is no such variant.
    """
    if data not in ("", "imagenet"):
        raise unknown("variant", data, ["imagenet"])
    config = base_config("noised_clip")  # the same network and data
    config.update(
        {
            "task": "noised_classifier",
            "steps": 3_000,  # where the accuracy stops to grow
            "optimizer": {"weight_decay": 0.05},
            "attributes": ("subject", "colour", "style"),
            "model": {"dropout": 0.1},
        }
    )
    if data == "imagenet":
        config.update(_imagenet())
    return config


def _imagenet() -> dict[str, object]:
    return {
        "name": "rdm-imagenet",
        "base": "runs/rdm_imagenet/model",
        "steps": 300_000,
        "batch_size": 256,
        "optimizer": {"learning_rate": 3e-4, "warmup": 0, "decay": "constant"},
        "attributes": ("label",),
        "data": {
            "source": "imagenet2012",
            "data_dir": "",
            "size": 256,
            "cache": False,
            "cache_latents": False,
            "mirror": True,
        },
        "model": {
            "model_channels": 128,
            "channel_mult": (1, 2, 4, 4),
            "num_res_blocks": 2,
            "attention_resolutions": (2, 4, 8),
            "num_groups": 32,
            "num_head_channels": 64,
            "dropout": 0.0,
        },
    }
