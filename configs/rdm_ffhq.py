"""RDM on FFHQ, 256 pixels, 4 neighbours of OpenImages' patches (arXiv 2204.11824; released in April 2023).

  rdm train --config configs/rdm_ffhq.py --workdir gs://BUCKET/runs/rdm_ffhq
  rdm train --config configs/rdm_ffhq.py:ldm --workdir gs://BUCKET/runs/ldm_ffhq     the twin without retrieval

Meant for a TPU v5e-64 or 8 H100. FFHQ is read from a folder of its pictures, `data/ffhq`. Published, by features of
CLIP: FID 1.92, precision .93, recall .35.
"""

from pathlib import Path

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, load_config

PUBLISHED = Path(__file__).parent / "published" / "diffusion.py"


def get_config(variant: str = "") -> Config:
    """Returns the configuration, or with "ldm" that of the twin without retrieval.

    Raises:
      UserError: there is no such variant.
    """
    if variant not in ("", "ldm"):
        raise unknown("variant", variant, ["ldm"])
    config = load_config(f"{PUBLISHED}:rdm_ffhq").unlock()
    config.name = "ldm-ffhq" if variant else "rdm-ffhq"
    config.steps, config.batch_size = 250_000, 256
    config.optimizer.warmup = 10_000
    config.data.source, config.data.split = "data/ffhq", ""
    config.data.neighbors = "" if variant else "runs/rdm_ffhq/neighbors"
    return config
