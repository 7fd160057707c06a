"""RDM on ImageNet, 256 pixels, 4 neighbours (arXiv 2204.11824; released in April 2023).

  rdm train --config configs/rdm_imagenet.py --workdir gs://BUCKET/runs/rdm_imagenet          OpenImages' 20 M patches
  rdm train --config configs/rdm_imagenet.py:in_database --workdir gs://BUCKET/runs/rdm_in    ImageNet itself
  rdm train --config configs/rdm_imagenet.py:ldm --workdir gs://BUCKET/runs/ldm_imagenet      the twin without retrieval

Meant for a TPU v5e-256 or 32 H100; docs/scale.md tells how the sets and the databases are made. 400 M parameters in the
U-Net. Published (50,000 pictures, FID / precision / recall): with OpenImages' patches 12.28 / .69 / .55, with ImageNet
5.32 / .74 / .51.
"""

from pathlib import Path

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, load_config

PUBLISHED = Path(__file__).parent / "published" / "diffusion.py"
WARMUPS = {"": 100, "in_database": 10_000, "ldm": 100}


def get_config(variant: str = "") -> Config:
    """Returns the configuration with OpenImages as the database, "in_database" with ImageNet, "ldm" with none.

    Raises:
      UserError: there is no such variant.
    """
    if variant not in WARMUPS:
        raise unknown("variant", variant, [name for name in WARMUPS if name])
    config = load_config(f"{PUBLISHED}:rdm_imagenet").unlock()
    config.optimizer.warmup = WARMUPS[variant]
    config.data.source, config.data.split = "imagenet2012", "train"
    config.name = {"": "rdm-imagenet", "in_database": "rdm-imagenet-in-database", "ldm": "ldm-imagenet"}[variant]
    if variant != "ldm":
        config.data.neighbors = f"runs/{config.name}/neighbors"
    return config
