"""RDM on ImageNet, 256 pixels, 4 neighbors (arXiv 2204.11824; released in April 2023).

  rdm train --config rdm_imagenet --workdir gs://BUCKET/runs/rdm_imagenet             OpenImages' 20 M patches
  rdm train --config rdm_imagenet:in_database --workdir gs://BUCKET/runs/rdm_in       ImageNet itself
  rdm train --config rdm_imagenet:ldm --workdir gs://BUCKET/runs/ldm_imagenet         the baseline without retrieval

Meant for a TPU v5e-256 or 32 H100; docs/scale.md shows how the sets and the databases are made. 400 M parameters in the
U-Net. Published (50,000 images, FID / precision / recall): with OpenImages' patches 12.28 / .69 / .55, with ImageNet
5.32 / .74 / .51.
"""

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, base_config

# The name and the warm-up of each variant.
VARIANTS = {
    "": ("rdm-imagenet", 100),
    "in_database": ("rdm-imagenet-in-database", 10_000),
    "ldm": ("ldm-imagenet", 100),
}


def get_config(variant: str = "") -> Config:
    """Returns what the run with OpenImages as the database sets, "in_database" with ImageNet, "ldm" with none.

    Raises:
      UserError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, [name for name in VARIANTS if name])
    name, warmup = VARIANTS[variant]
    neighbors = "" if variant == "ldm" else f"runs/{name}/neighbors"
    config = base_config("_published:rdm_imagenet")
    config.update({"name": name, "optimizer": {"warmup": warmup}})
    config.update({"data": {"source": "imagenet2012", "neighbors": neighbors}})
    return config
