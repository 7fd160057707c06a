"""The small CLIP of the embedded model, 64x64 pictures and short captions.

rdm train --config configs/style_scenes/clip.py --workdir runs/clip
"""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, defaults


def get_config() -> Config:
    """Returns the configuration."""
    config = defaults()
    config.task = "clip"
    config.name = "style-scenes"
    config.steps = 3000
    config.batch_size = 128
    config.eval_every = 500
    config.checkpoint_every = 250
    config.ema_decay = 0.99
    config.shift = 4
    config.initial_scale = 40.0
    config.views = 2
    config.image_weight = 0.3
    config.tokenizer = ConfigDict({"vocab_size": 512})
    config.mean = (0.5, 0.5, 0.5)
    config.std = (0.25, 0.25, 0.25)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.b2 = 0.98
    config.model = ConfigDict(
        {
            "embed_dim": 128,
            "vision": {
                "kind": "vit",
                "width": 128,
                "layers": 4,
                "heads": 4,
                "patch_size": 8,
                "image_size": 64,
                "pool": "mean",
            },
            "text": {"context_length": 20, "width": 128, "layers": 3, "heads": 4},
        }
    )
    return config
