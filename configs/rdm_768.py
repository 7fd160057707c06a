"""The text-guided RDM, 768 pixels, 20 neighbours (arXiv 2207.13038; released in July 2022).

  rdm train --config configs/rdm_768.py --workdir gs://BUCKET/runs/rdm_768
  rdm train --config configs/rdm_768.py --workdir unused --dry-run --mesh 32x8     what a step costs on a v5e-256

Meant for a TPU v5e-256 (docs/scale.md: 1.3 G parameters, which are split over 8 chips). The report has no figures of
quality. The pictures are any folder, `data/pictures`.
"""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

PUBLISHED = Path(__file__).parent / "published" / "diffusion.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(f"{PUBLISHED}:rdm_768").unlock()
    config.batch_size = 2048
    config.mesh.fsdp = 8
    config.conditioning.neighbors = config.conditioning.candidates = 20
    config.conditioning.null_probability = 0.1
    config.data.source, config.data.split = "data/pictures", ""
    config.data.neighbors = "runs/rdm_768/neighbors"
    return config
