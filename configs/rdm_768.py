"""The text-guided RDM, 768 pixels, 20 neighbors (arXiv 2207.13038; released in July 2022).

  rdm train --config rdm_768 --workdir gs://BUCKET/runs/rdm_768
  rdm train --config rdm_768 --workdir unused --dry-run --mesh 32x8     what a step costs on a v5e-256

Meant for a TPU v5e-256 (docs/scale.md: 1.3 G parameters, split over 8 chips). The report has no measures of quality.
The images are any folder, `data/images`.
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("_published:rdm_768")
    config.update(
        {
            "batch_size": 2048,
            "mesh": {"fsdp": 8},
            "conditioning": {"neighbors": 20, "candidates": 20, "null_probability": 0.1},
            "data": {"source": "data/images", "split": "", "neighbors": "runs/rdm_768/neighbors"},
        }
    )
    return config
