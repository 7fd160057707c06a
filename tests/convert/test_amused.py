"""aMUSEd against the original's outputs: logits, losses, gradients, the first stage, and the names of the releases."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from rdm_jax.convert import amused, diffusers
from rdm_jax.convert.mapping import assemble
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder, build_transformer
from rdm_jax.models.condition import Condition


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads2/muse"


def _network(folder, config_of, build, plan):
    config = config_of(json.loads((folder / "config.json").read_text()))
    module = build(config)
    return module, assemble(plan(load_file(folder / "diffusion_pytorch_model.safetensors"), module, frozenset()))


def _close(ours, theirs, rtol=1e-4):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvit_small", "uvit_downsampled_small"])
def test_the_logits_losses_and_gradients_are_those_of_the_original(folder, name):
    module, params = _network(folder / name, amused.uvit_config, build_transformer, amused.uvit_plan)
    data = np.load(folder / f"{name}.npz")
    vector = np.concatenate([data["pooled_text_emb"], data["micro_conds"]], axis=1)
    condition = Condition(jnp.asarray(data["encoder_hidden_states"]), vector=jnp.asarray(vector))
    labels = jnp.asarray(data["labels"])
    hidden = labels >= 0

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits = module.apply({"params": params}, jnp.asarray(data["input_ids"], jnp.int32), condition)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return jnp.sum(each * hidden) / hidden.sum()

    logits = jax.jit(module.apply)({"params": params}, data["input_ids"].astype(np.int32), condition)
    _close(np.moveaxis(np.asarray(logits), -1, 1), data["logits"])
    value, gradient = loss(params)
    _close(value, data["loss"])
    flat = trees.flatten(gradient)
    stored = {key.removeprefix("grad/"): data[key] for key in data if key.startswith("grad/")}
    read = amused.uvit_plan(stored, module, frozenset(set(amused_names(module)) - set(stored)))
    compared = [path for path, recipe in read.items() if hasattr(recipe, "source")]
    assert len(compared) == len(stored) > 0
    for path in compared:
        _close(flat[path], read[path].read(), 1e-3)


def amused_names(module):
    """The names in the release of every parameter."""
    return [name for path in abstract_params(module) for name in amused.uvit_source(path).names]


@pytest.mark.slow
def test_the_first_stage_computes_what_the_original_does(folder):
    module, params = _network(folder / "vqvae_small", amused.vq_config, build_autoencoder, diffusers.vae_plan)
    data = np.load(folder / "vqvae_small.npz")
    image = jnp.asarray(2.0 * data["image"].transpose(0, 2, 3, 1) - 1.0)

    @jax.jit
    def run(image):
        h = module.apply({"params": params}, image, method="encode")
        nearest: Any = module.apply({"params": params}, h, method="quantize")
        quantized, indices, loss = nearest
        return h, quantized, indices, loss, module.apply({"params": params}, h, method="decode")

    h, quantized, indices, loss, decoded = run(image)
    _close(np.moveaxis(np.asarray(h), -1, 1), data["h"])
    np.testing.assert_array_equal(indices, data["indices"])
    _close(np.moveaxis(np.asarray(quantized), -1, 1), data["quantized"])
    _close(loss, data["loss"])
    _close((np.moveaxis(np.asarray(decoded), -1, 1) + 1.0) / 2.0, data["decoded"])
    indices = jnp.asarray(data["indices"], jnp.int32)
    tokens = module.apply({"params": params}, indices, method="decode_codes")
    _close((np.moveaxis(np.asarray(tokens), -1, 1) + 1.0) / 2.0, data["decoded_from_tokens"])


RELEASED = {
    "amused_256": {"sample_size": 16},
    "amused_512": {"sample_size": 32, "downsample": True, "upsample": True},
}
RELEASED_VQ = {
    "block_out_channels": [128, 256, 256, 512, 768],
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "layers_per_block": 2,
    "latent_channels": 64,
    "num_vq_embeddings": 8192,
    "mid_block_add_attention": False,
}


def _shapes(golden, name):
    """The tensors of a release as arrays without memory."""
    lines = (golden / f"heads2/released_keys/{name}_keys.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("name\t")]
    return {key: np.broadcast_to(np.float32(0), tuple(map(int, shape.split("x")))) for key, shape, *_ in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("amused_256", 603_537_664), ("amused_512", 608_257_792)])
def test_every_name_and_shape_of_the_releases_is_used(golden, name, count):
    state = _shapes(golden, name)
    module = build_transformer(amused.uvit_config(RELEASED[name]))
    recipes = amused.uvit_plan(state, module, frozenset())
    assert sum(np.prod(recipe.shape) for recipe in recipes.values()) == count
    assert (module.num_codes, module.mask_token) == (8192, 8255)
    del state["mlm_layer.conv2.weight"]
    with pytest.raises(UserError, match=r"1 missing: mlm_layer\.conv2\.weight"):
        amused.uvit_plan(state, module, frozenset())


def test_every_name_and_shape_of_the_released_first_stage_is_used(golden):
    module = build_autoencoder(amused.vq_config(RELEASED_VQ))
    recipes = diffusers.vae_plan(_shapes(golden, "amused_vqvae"), module, frozenset())
    assert sum(np.prod(recipe.shape) for recipe in recipes.values()) == 146_244_675
    assert (module.downsampling, module.num_codes, module.unit_range) == (16, 8192, True)


def test_settings_that_are_not_supported_are_refused():
    with pytest.raises(UserError, match="use_bias is True, and only False is supported"):
        amused.uvit_config({"use_bias": True})
    with pytest.raises(UserError, match="downsample and upsample differ"):
        amused.uvit_config({"downsample": True})
    with pytest.raises(UserError, match="micro_cond_embed_dim is not 5 x 100"):
        amused.uvit_config({"micro_cond_encode_dim": 100})
    with pytest.raises(UserError, match=r"vqvae/config.json: norm_type is 'spatial', and only 'group' is supported"):
        amused.vq_config({"norm_type": "spatial"})
