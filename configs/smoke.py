"""Every part of a training run in half a minute on two cores: procedural images, neighbors, an RDM's steps.

  rdm train --config smoke --workdir runs/smoke
  rdm export runs/smoke --out model
  rdm sample "a red boat" --model ./model

It makes what it needs in `data` and `runs/smoke_neighbors`, and starts from the embedded first stage and CLIP. It shows
that everything works; it is too short to learn anything.
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("style_scenes/rdm")
    config.emphasis = {}
    config.update(
        {
            "name": "smoke",
            "base": "style-scenes",
            "steps": 20,
            "batch_size": 8,
            "log_every": 1,
            "compiler_options": {"xla_backend_optimization_level": 0},  # compiling takes longer than the steps
            "eval_every": 20,
            "figures_every": 20,
            "checkpoint_every": 10,
            "data": {
                "source": "style_scenes/tiny",
                "prepare": True,
                "neighbors": "runs/smoke_neighbors",
                "database": "general",
                "compute": {"k": 8, "within": "style"},
                "held_out_rows": 16,
            },
            "optimizer": {"warmup": 5},
            "sampling": {"steps": 4},
            "model": {
                "channel_mult": (1, 2),
                "attention_resolutions": (2,),
                "model_channels": 16,
                "num_head_channels": 16,
            },
        }
    )
    return config
