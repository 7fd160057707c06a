r"""The retrieval-augmented autoregressive model of `style_scenes`: 8x8 codes of 2,048, four neighbors.

rdm train --config configs/style_scenes/vq.py --workdir runs/vq --init-from style-scenes
rdm export runs/clip runs/vq --out runs/vq_base
rdm neighbors --dataset style_scenes --split train --data-dir data --database runs/retrieval --encoder runs/vq_base \
  --k 20 --within style --out runs/neighbors
rdm train --config configs/style_scenes/rarm.py --workdir runs/rarm
"""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, defaults


def get_config() -> Config:
    """Returns the configuration."""
    config = defaults()
    config.task = "autoregressive"
    config.name = "style-scenes-rarm"
    config.base = "runs/vq_base"
    config.steps = 5000
    config.batch_size = 32
    config.eval_every = 500
    config.checkpoint_every = 250
    config.log_every = 50
    config.figures_every = 1000
    config.ema_decay = 0.999
    config.data.neighbors = "runs/neighbors"
    config.data.database = ""  # needed where the neighbors hold no embeddings
    config.data.compute = ConfigDict({"k": 0, "within": ""})  # k > 0: missing neighbors are computed first
    config.data.held_out_rows = 512
    config.optimizer.update(learning_rate=1.5e-3, warmup=200)
    config.emphasis = ConfigDict()
    config.conditioning = ConfigDict(
        {
            "neighbors": 4,
            "candidates": 8,
            "unit_tokens": False,
            "null": "zeros",
            "null_probability": 0.1,
            "text_probability": 0.1,
            "text_and_neighbors_probability": 0.4,
            "shuffled_probability": 0.4,
        }
    )
    config.sampling = ConfigDict(
        {
            "database": "general",
            "condition": "text+neighbors",
            "guidance_scale": 2.0,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 0.95,
            "height": 64,
            "width": 64,
        }
    )
    config.model = ConfigDict({"width": 128, "depth": 6, "head_channels": 32, "dropout": 0.0})
    return config
