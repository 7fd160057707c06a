"""The model of `style_scenes/dit` on the linear path of a stochastic interpolant (SiT, arXiv 2401.08740).

rdm train --config style_scenes/sit --workdir runs/sit
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/dit").to_dict()
    sampling = {key: value for key, value in parent["sampling"].items() if key != "spacing"}
    return {
        **parent,
        "name": "style-scenes-sit",
        "model": {**parent["model"], "path": "linear"},
        "diffusion": {"num_timesteps": 1000, "schedule": "linear_interpolant", "prediction": "linear_velocity"},
        "time_weight": "uniform",
        "sampling": {**sampling, "sampler": "interpolant_ode"},
    }
