"""RDM on FFHQ, 256 pixels, 4 neighbors from OpenImages' patches (arXiv 2204.11824; released in April 2023).

  rdm train --config rdm_ffhq --workdir gs://BUCKET/runs/rdm_ffhq
  rdm train --config rdm_ffhq:ldm --workdir gs://BUCKET/runs/ldm_ffhq     the baseline without retrieval

Meant for a TPU v5e-64 or 8 H100. FFHQ is a folder of its images, `data/ffhq`. Published, by features of CLIP: FID 1.92,
precision .93, recall .35.
"""

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, base_config


def get_config(variant: str = "") -> Config:
    """Returns what the run sets, or with "ldm" that of the baseline without retrieval.

    Raises:
      UserError: there is no such variant.
    """
    if variant not in ("", "ldm"):
        raise unknown("variant", variant, ["ldm"])
    config = base_config("_published:rdm_ffhq")
    config.update(
        {
            "name": "ldm-ffhq" if variant else "rdm-ffhq",
            "steps": 250_000,
            "batch_size": 256,
            "optimizer": {"warmup": 10_000},
            "data": {
                "source": "data/ffhq",
                "split": "",
                "neighbors": "" if variant else "runs/rdm_ffhq/neighbors",
            },
        }
    )
    return config
