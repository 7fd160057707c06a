"""RARM on subsets of ImageNet, 256 pixels, 4 neighbors (arXiv 2204.11824; released in April 2023).

  rdm train --config configs/rarm.py:dogs --workdir gs://BUCKET/runs/rarm_dogs
  rdm train --config configs/rarm.py:mammals --workdir gs://BUCKET/runs/rarm_mammals
  rdm train --config configs/rarm.py:animals --workdir gs://BUCKET/runs/rarm_animals

`data.source` is a folder with the subset's images: classes 151 to 280 (dogs), 147 to 388 (mammals) or 0 to 397
(animals) in ImageNet's order. The base holds CLIP ViT-B/32 and the converted VQGAN of f16 with 16,384 codes. 231 M
parameters in the transformer. Published FID: dogs 45.27, mammals 49.92, animals 49.03. The release states a batch of 50
and no number of steps: the steps here are ours.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, defaults, load_config

ARCHITECTURE = Path(__file__).parent / "models" / "rarm_imagenet.py"
BATCH = 50
# The learning rate, which the release scales by the batch but for dogs, and the parts that a batch is split into.
SUBSETS = {"dogs": (5e-4, 2), "mammals": (5e-6 * BATCH, 1), "animals": (5e-6 * BATCH, 1)}


def get_config(subset: str = "dogs") -> Config:
    """Returns the configuration of one of `SUBSETS`.

    Raises:
      UserError: there is no such subset.
    """
    if subset not in SUBSETS:
        raise unknown("subset", subset, SUBSETS)
    learning_rate, accumulate = SUBSETS[subset]
    architecture = load_config(str(ARCHITECTURE))
    config = defaults()
    config.task = "autoregressive"
    config.name = f"rarm-{subset}"
    config.architecture = architecture.to_dict()
    config.base = "runs/rarm/base"
    config.steps = 100_000
    config.batch_size = BATCH * accumulate
    config.accumulate = accumulate
    config.log_every = 100
    config.eval_every = config.checkpoint_every = 1_000
    config.figures_every = 5_000
    config.ema_decay = 0.0  # the release has no average: this one is the parameters themselves
    config.threads = 16
    config.optimizer.update(
        learning_rate=learning_rate, warmup=0, decay="constant", b1=0.9, b2=0.95, weight_decay=1e-2, clip_norm=0.0
    )
    config.data.update(source=f"data/imagenet_{subset}", split="", held_out="", data_dir="", size=256, cache=False)
    config.data.held_out_rows = 1_000
    config.data.neighbors = f"runs/{config.name}/neighbors"
    config.data.database = ""
    config.data.compute = ConfigDict({"k": 0, "within": ""})
    config.emphasis = ConfigDict()
    config.conditioning = ConfigDict(
        {
            "neighbors": 4,
            "candidates": 4,
            "unit_tokens": False,
            "null": "zeros",
            "null_probability": 0.0,
            "text_probability": 0.0,
            "text_and_neighbors_probability": 0.0,
            "shuffled_probability": 0.0,
        }
    )
    config.sampling = architecture.sampling.to_dict() | {"database": ""}
    network = {"dropout": 0.0, "dtype": "bfloat16", "remat": False}
    config.model = {key: architecture.transformer[key] for key in ("width", "depth", "head_channels")} | network
    return config
