"""SiT-XL/2 on ImageNet at 256 pixels, as released: DiT-XL/2 on the linear path of an interpolant (arXiv 2401.08740)."""

from ml_collections import ConfigDict

from rdm_jax.convert import sit
from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    dit = load_architecture("dit_xl2").denoiser.to_dict()
    network = {**dit, "out_channels": dit["in_channels"], "path": "linear"}
    return ConfigDict({"name": "sit-xl2", "head": "diffusion", "denoiser": network, **sit.conventions(network)})
