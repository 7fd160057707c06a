"""A tiny model of masked codes; `python -m tests.helpers.masked OUT`: its images and its loss on all devices."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rdm_jax.bundle import Bundle
from rdm_jax.core import mesh as meshes
from rdm_jax.models.condition import Condition
from rdm_jax.training.tasks.masked import masked_loss, masked_positions
from tests.helpers import batches, tiny

CODES, SIDE = 12, 8
SETTINGS = {"condition": "text", "steps": 4, "seed": 5}
RULES = ((".*kernel", "split"),)


def bundle() -> Bundle:
    """Returns a tiny model of masked codes with random parameters."""
    config = {name: tiny.CONFIG[name] for name in ("schema", "clip")}
    network = {"num_codes": CODES, "num_tokens": SIDE**2, "width": 16, "depth": 1, "context_dim": tiny.WIDTH}
    config |= {
        "name": "masked",
        "head": "masked",
        "autoencoder": {**tiny.CONFIG["autoencoder"], "kind": "vq", "num_codes": CODES},
        "transformer": {**network, "head_channels": 8, "causal": False},
        "conditioning": {"neighbors": 2, "unit_tokens": True, "null": "zeros"},
        "sampling": {"condition": "text", "steps": 4, "guidance_scale": 2.0, "height": 16, "width": 16},
    }
    whole = tiny.bundle()
    parts = {"autoencoder": tiny.random_params(config, "autoencoder"), "clip": whole.params["clip"]}
    parts["autoencoder"]["codebook"] *= 8.0  # as far apart as the latents, so that several codes are used
    parts["transformer"] = tiny.random_params(config, "transformer")
    parts["transformer"]["logits"]["kernel"] *= 3.0
    return Bundle(config, parts, whole.tokenizer)


def images(sizes: tuple[int, ...] = batches.SIZES) -> dict[str, np.ndarray]:
    """Returns eleven images in batches of each size, by the size."""
    return batches.images(bundle(), sizes, **SETTINGS)


def loss_and_gradient(fsdp: int) -> tuple[float, np.ndarray]:
    """Returns the loss of eight images' codes and its gradient by the logits' kernel, kernels split over `fsdp`."""
    model = bundle()
    module, mesh = model.transformer, meshes.make_mesh(fsdp)
    codes = np.random.default_rng(0).integers(0, CODES, (8, SIDE**2)).astype(np.int32)
    context = np.random.default_rng(1).standard_normal((8, 2, tiny.WIDTH)).astype(np.float32)
    params = {"transformer": model.params["transformer"]}
    places = meshes.state_shardings(mesh, jax.eval_shape(lambda: params), RULES)
    batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def loss(params: dict, codes: jax.Array, context: jax.Array) -> jax.Array:
        time, order = jax.random.split(jax.random.key(2))
        masked = masked_positions(jax.random.uniform(time, codes.shape[:1]), jax.random.uniform(order, codes.shape))
        inputs = jnp.where(masked, module.mask_token, codes)
        logits = module.apply({"params": params["transformer"]}, inputs, Condition(context))
        return masked_loss(logits, codes, masked, 0.1)

    run = jax.jit(jax.value_and_grad(loss), in_shardings=(places, batch, batch), out_shardings=(None, places))
    value, gradient = run(params, codes, context)
    return float(value), np.asarray(gradient["transformer"]["logits"]["kernel"])


def main() -> None:
    """Writes the images, the loss and the gradient of all devices to a file."""
    batches.write(Path(sys.argv[1]) / "masked.npz", *loss_and_gradient(4), images())


if __name__ == "__main__":
    main()
