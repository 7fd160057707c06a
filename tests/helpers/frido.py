"""A tiny model of two scales; `python -m tests.helpers.frido OUT`: its images and its loss on all devices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core import mesh as meshes
from rdm_jax.factory import schedule_from
from rdm_jax.models.condition import Condition
from rdm_jax.training.denoising import denoising_loss
from tests.helpers import batches, tiny

SETTINGS = {"condition": "text", "steps": 2, "seed": 5}
RULES = ((".*kernel", "split"),)
FIRST_STAGE = {
    "kind": "multi_scale_vq",
    "ch": 8,
    "ch_mult": [1, 1, 1],
    "decoder_ch_mult": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "decoder_attn_resolutions": [],
    "resolution": 16,
    "scale_channels": 2,
    "num_codes": [8, 12],
    "shared_ch": 8,
    "num_groups": 4,
    "codebook_bound": 1.0,
}
DENOISER = {**tiny.CONFIG["denoiser"], "kind": "pyunet", "gate_channels": 8}
LATENTS = {"scale": [0.5, 0.5, 0.8, 0.8], "shift": [0.1, -0.2, 0.0, 0.1], "quantize": True}


def bundle(**changes: Any) -> Bundle:
    """Returns a tiny model of two scales with random parameters, its configuration changed in some parts."""
    own = {"name": "frido", "autoencoder": FIRST_STAGE, "denoiser": DENOISER, "latents": LATENTS}
    return tiny.bundle(**{**own, "sampling": {**tiny.CONFIG["sampling"], "condition": "text"}, **changes})


def images(sizes: tuple[int, ...] = batches.SIZES) -> dict[str, np.ndarray]:
    """Returns eleven images in batches of each size, by the size."""
    return batches.images(bundle(), sizes, **SETTINGS)


def loss_and_gradient(fsdp: int) -> tuple[float, np.ndarray]:
    """Returns the loss of eight latents and its gradient by the fine stage's first layer, kernels split over `fsdp`."""
    model = bundle()
    module, mesh, schedule = model.denoiser, meshes.make_mesh(fsdp), schedule_from(model.config["diffusion"])
    objective = {"time_density": "uniform", "time_weight": "uniform", "error": "absolute"}
    config = ConfigDict({"diffusion": {"prediction": "v"}, "expert_level": 0, "expert_index": 0, **objective})
    x0 = np.random.default_rng(0).standard_normal((8, 4, 4, 4)).astype(np.float32)
    context = np.random.default_rng(1).standard_normal((8, 2, tiny.WIDTH)).astype(np.float32)
    params = {"denoiser": model.params["denoiser"]}
    places = meshes.state_shardings(mesh, jax.eval_shape(lambda: params), RULES)
    batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def loss(params: dict, x0: jax.Array, context: jax.Array) -> jax.Array:
        noise, time, dropout = jax.random.split(jax.random.key(2), 3)
        keys = noise, time, dropout
        return denoising_loss(config, schedule, module, params["denoiser"], x0, Condition(context), keys)[0]

    run = jax.jit(jax.value_and_grad(loss), in_shardings=(places, batch, batch), out_shardings=(None, places))
    value, gradient = run(params, x0, context)
    return float(value), np.asarray(gradient["denoiser"]["stage_1_in"]["kernel"])


def main() -> None:
    """Writes the images, the loss and the gradient of all devices to a file."""
    batches.write(Path(sys.argv[1]) / "frido.npz", *loss_and_gradient(4), images())


if __name__ == "__main__":
    main()
