"""Every part of a training run in half a minute on two cores: procedural pictures, neighbours, whole RDM steps.

  rdm train --config configs/smoke.py --workdir runs/smoke

It prepares what it needs, in `data` and `runs/smoke_neighbors`, starts from the embedded first stage and CLIP, and
shows that everything works. It is too short to learn to draw.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent / "style_scenes" / "rdm.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "smoke"
    config.base = "style-scenes"
    config.steps = 20
    config.batch_size = 8
    config.log_every = 1
    config.compiler_options = ConfigDict({"xla_backend_optimization_level": 0})  # compiling takes longer than the steps
    config.eval_every = 20
    config.figures_every = 20
    config.checkpoint_every = 10
    config.data.source = "style_scenes/tiny"
    config.data.prepare = True
    config.data.neighbors = "runs/smoke_neighbors"
    config.data.database = "general"
    config.data.compute.k = 8
    config.data.compute.within = "style"
    config.data.held_out_rows = 16
    config.emphasis.style.neon = 1
    config.optimizer.warmup = 5
    config.sampling.steps = 4
    config.model.channel_mult = (1, 2)
    config.model.attention_resolutions = (2,)
    config.model.model_channels = 16
    config.model.num_head_channels = 16
    return config
