"""A tiny text-to-image model over codes; `python -m tests.helpers.parti OUT`: images and a loss on all devices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from rdm_jax.bundle import Bundle
from rdm_jax.core import mesh as meshes
from rdm_jax.models.condition import Condition
from tests.helpers import batches, tiny
from tests.helpers.vit_vq import TINY

LEVELS = 2  # of the residual quantizer
CODES, TOKENS, WIDTH = TINY["num_codes"], 16 * LEVELS, 12
SETTINGS = {"condition": "text", "seed": 5}
RULES = ((".*kernel", "split"),)
CONFIG = {
    "schema": 2,
    "name": "parti",
    "head": "autoregressive",
    "clip": tiny.CONFIG["clip"],
    "text_encoder": {
        "kind": "bert",
        "vocab_size": 300,
        "context_length": 8,
        "width": WIDTH,
        "layers": 1,
        "heads": 2,
        "head_channels": 4,
        "pad_id": 1,
    },
    "image_adapter": {"kind": "vector", "vector_dim": tiny.WIDTH, "token_dim": WIDTH, "tokens": 1},
    "autoencoder": {**TINY, "levels": LEVELS},
    "transformer": {
        "num_codes": CODES,
        "num_tokens": TOKENS,
        "width": 16,
        "depth": 1,
        "context_dim": WIDTH,
        "head_channels": 8,
        "gated": False,
        "final_norm": True,
    },
    "conditioning": {"neighbors": 2, "unit_tokens": False, "null": "zeros"},
    "sampling": {"condition": "text+neighbors", "guidance_scale": 2.0, "height": 16, "width": 16},
}
PARTS = ("clip", "text_encoder", "image_adapter", "autoencoder", "transformer")


def bundle(**changes: Any) -> Bundle:
    """Returns a tiny model with random parameters, its configuration changed in some parts."""
    config = {**CONFIG, **changes}
    params = {part: tiny.random_params(config, part) for part in PARTS if config[part] is not None}
    transformer = params["transformer"]  # of large parts that differ, and small ones that are the same everywhere
    for part in (transformer["embed"]["embedding"], transformer["positions"], transformer["logits"]["kernel"]):
        part *= 3.0
    transformer["block_0"]["attn2"]["out"]["kernel"] *= 6.0
    for part in (transformer["norm_out"]["bias"], transformer["logits"]["bias"]):
        part *= 0.1
    params["autoencoder"]["decoder"]["to_pixels"]["bias"][:] = 0.5  # of pixels in [0, 1]
    kept = {key: value for key, value in config.items() if value is not None}
    return Bundle(kept, params, tiny.bundle().tokenizer)


def images(sizes: tuple[int, ...] = batches.SIZES) -> dict[str, np.ndarray]:
    """Returns eleven images in batches of each size, by the size."""
    return batches.images(bundle(), sizes, **SETTINGS)


def loss_and_gradient(fsdp: int) -> tuple[float, np.ndarray]:
    """Returns the loss of eight images' codes and its gradient by the text encoder, kernels split over `fsdp`."""
    model = bundle()
    transformer, encoder, mesh = model.transformer, model.text_encoder, meshes.make_mesh(fsdp)
    codes = np.random.default_rng(0).integers(0, CODES, (8, TOKENS)).astype(np.int32)
    texts = np.random.default_rng(1).integers(0, 300, (8, 8)).astype(np.int32)
    params = {part: model.params[part] for part in ("transformer", "text_encoder")}
    places = meshes.state_shardings(mesh, jax.eval_shape(lambda: params), RULES)
    batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def loss(params: dict, codes: jax.Array, texts: jax.Array) -> jax.Array:
        states: Any = encoder.apply({"params": params["text_encoder"]}, texts)
        logits: Any = transformer.apply({"params": params["transformer"]}, codes, Condition(states))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, codes))

    run = jax.jit(jax.value_and_grad(loss), in_shardings=(places, batch, batch), out_shardings=(None, places))
    value, gradient = run(params, codes, texts)
    return float(value), np.asarray(gradient["text_encoder"]["block_0"]["up"]["kernel"])


def main() -> None:
    """Writes the images, the loss and the gradient of all devices to a file."""
    batches.write(Path(sys.argv[1]) / "parti.npz", *loss_and_gradient(4), images())


if __name__ == "__main__":
    main()
