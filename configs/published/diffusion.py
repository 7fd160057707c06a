"""What the published diffusion models of this family share: not a run of its own, but what the others start from.

AdamW with betas 0.9 and 0.999, 1e-2 of decay, a constant rate after a linear warm-up, no clipping; eps, all times
alike; an average of decay 0.9999 (arXiv 2204.11824, appendix; the released code). The release tells a GPU's batch (40
to 50) and neither how many there were nor the steps: the batch sizes and steps here are ours.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, defaults, load_config

MODELS = Path(__file__).parent.parent / "models"


def get_config(model: str = "rdm_imagenet") -> Config:
    """Returns the settings of training the architecture `configs/models/MODEL.py`."""
    architecture = load_config(str(MODELS / f"{model}.py"))
    config = defaults()
    config.task = "diffusion"
    config.name = architecture.name
    config.architecture = architecture.to_dict()
    config.base = f"runs/{model}/base"
    config.steps = 1_000_000
    config.batch_size = 1280
    config.log_every = 100
    config.eval_every = 5_000
    config.figures_every = 10_000
    config.checkpoint_every = 5_000
    config.keep_every = 100_000
    config.ema_decay = 0.9999
    config.threads = 16
    config.optimizer.update(learning_rate=1e-4, warmup=100, decay="constant", weight_decay=1e-2, clip_norm=0.0)
    config.data.update(data_dir="", size=architecture.sampling.width, cache=False, cache_latents=False, mirror=True)
    config.data.held_out_rows = 5_000
    config.data.held_out = ""
    config.data.neighbors = ""
    config.data.database = ""
    config.data.compute = ConfigDict({"k": 0, "within": ""})
    config.diffusion = architecture.diffusion.to_dict()
    config.time_density = "uniform"
    config.time_weight = "uniform"
    config.latents = architecture.latents.to_dict()
    config.emphasis = ConfigDict()
    config.conditioning = ConfigDict(
        {
            "neighbors": 4,
            "candidates": 4,
            "unit_tokens": architecture.conditioning.unit_tokens,
            "null": "zeros",
            "null_probability": 0.0,
            "text_probability": 0.0,
            "text_and_neighbors_probability": 0.0,
            "shuffled_probability": 0.0,
        }
    )
    config.sampling = architecture.sampling.to_dict() | {"database": ""}
    network = architecture.denoiser.to_dict() | {"dtype": "bfloat16", "remat": True}
    config.model = {key: network[key] for key in network if key not in ("in_channels", "out_channels", "context_dim")}
    return config
