"""A tiny model of two stages of masked codes; `python -m tests.helpers.fine OUT`: its images and the second loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rdm_jax.bundle import Bundle
from rdm_jax.core import mesh as meshes
from rdm_jax.models.condition import Condition
from rdm_jax.training.tasks.masked import masked_loss, masked_positions
from tests.helpers import batches, masked, tiny

CODES, SIDE = 20, 16
SETTINGS = {**masked.SETTINGS, "fine_steps": 4}
NETWORK = {
    "num_codes": CODES,
    "num_tokens": SIDE**2,
    "coarse_codes": masked.CODES,
    "coarse_tokens": masked.SIDE**2,
    "width": 16,
    "depth": 1,
    "coarse_depth": 1,
    "context_dim": tiny.WIDTH,
    "head_channels": 8,
    "square": 4,
}


def bundle(**changes: Any) -> Bundle:
    """Returns a tiny model with random parameters: 8x8 codes of 16 pixels, then 16x16 codes of 32."""
    base = masked.bundle()
    config = {
        **base.config,
        "name": "fine",
        "fine_autoencoder": {**base.config["autoencoder"], "num_codes": CODES, "resolution": 32},
        "fine_transformer": NETWORK,
        "sampling": {**base.config["sampling"], "height": 32, "width": 32},
        **changes,
    }
    own = {part: tiny.random_params(config, part, 1) for part in ("fine_autoencoder", "fine_transformer")}
    own["fine_autoencoder"]["codebook"] *= 8.0  # as far apart as the latents, so that several codes are used
    own["fine_transformer"]["transformer"]["logits"]["kernel"] *= 3.0
    return Bundle(config, {**base.params, **own}, base.tokenizer)


def images(sizes: tuple[int, ...] = batches.SIZES) -> dict[str, np.ndarray]:
    """Returns eleven images in batches of each size, by the size."""
    return batches.images(bundle(), sizes, **SETTINGS)


def loss_and_gradient(fsdp: int) -> tuple[float, np.ndarray]:
    """Returns the second stage's loss on eight images and its gradient by the logits' kernel, split over `fsdp`."""
    model = bundle()
    module, mesh, generator = model.fine_transformer, meshes.make_mesh(fsdp), np.random.default_rng(0)
    codes = generator.integers(0, CODES, (8, SIDE**2)).astype(np.int32)
    coarse = generator.integers(0, masked.CODES, (8, masked.SIDE**2)).astype(np.int32)
    context = generator.standard_normal((8, 2, tiny.WIDTH)).astype(np.float32)
    params = {"fine_transformer": model.params["fine_transformer"]}
    places = meshes.state_shardings(mesh, jax.eval_shape(lambda: params), masked.RULES)
    batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def loss(params: dict, codes: jax.Array, coarse: jax.Array, context: jax.Array) -> jax.Array:
        time, order = jax.random.split(jax.random.key(2))
        hidden = masked_positions(jax.random.uniform(time, codes.shape[:1]), jax.random.uniform(order, codes.shape))
        inputs = jnp.where(hidden, module.mask_token, codes)
        logits = module.apply({"params": params["fine_transformer"]}, inputs, coarse, Condition(context))
        return masked_loss(logits, codes, hidden, 0.1)

    run = jax.jit(jax.value_and_grad(loss), in_shardings=(places, batch, batch, batch), out_shardings=(None, places))
    value, gradient = run(params, codes, coarse, context)
    return float(value), np.asarray(gradient["fine_transformer"]["transformer"]["logits"]["kernel"])


def main() -> None:
    """Writes the images, the loss and the gradient of all devices to a file."""
    batches.write(Path(sys.argv[1]) / "fine.npz", *loss_and_gradient(4), images())


if __name__ == "__main__":
    main()
