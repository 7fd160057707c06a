"""Karlo against the original's outputs: prior, its training, the decoder's condition, the U-Nets, and all names."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rdm_jax.convert import karlo
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.mapping import assemble
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.vectors import schedule, vector_loss
from rdm_jax.models import abstract_params, build_denoiser, build_prior, build_vector_context
from rdm_jax.models.condition import Condition
from rdm_jax.models.prior import Text
from tests.helpers.karlo import PROJECTED, data_of, write_folder

RELEASED_TEXT = {"embed_dim": 768, "width": 768, "context_length": 77}
CHANNELS = [320, 640, 960, 1280]
RELEASED_DECODER = {
    "block_out_channels": CHANNELS,
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "layers_per_block": 3,
    "attention_head_dim": 64,
    "cross_attention_dim": 1536,
    "norm_num_groups": 32,
    "in_channels": 3,
    "out_channels": 6,
}
RELEASED_UPSAMPLER = {
    "block_out_channels": CHANNELS,
    "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
    "layers_per_block": 3,
    "norm_num_groups": 32,
    "in_channels": 6,
    "out_channels": 3,
}


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads2/unclip"


def network(folder, config_of, build, plan, *more):
    config = config_of(json.loads((folder / "config.json").read_text()), *more)
    module = build(config)
    return module, assemble(plan(load_file(folder / "diffusion_pytorch_model.safetensors"), module, frozenset()))


def prior_of(folder):
    return network(folder / "prior_small", karlo.prior_config, build_prior, karlo.prior_plan, PROJECTED)


def text_of(data):
    fields = (data[name] for name in ("text_embeds", "text_hidden", "text_mask"))
    return Text(*(jnp.asarray(field, jnp.float32) for field in fields))


def close(ours, theirs, rtol=1e-4):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


def test_the_prior_computes_what_the_original_does(golden, folder):
    module, params = prior_of(folder)
    data, apply = data_of(golden, "prior_small"), jax.jit(module.apply)
    for t in (0, 500, 999):
        found = apply({"params": params}, data["x"], jnp.full(3, t), text_of(data))
        close(found, data[f"out_t{t}"])


def test_the_loss_of_the_prior_and_its_gradient_are_those_of_the_original(golden, folder):
    module, params = prior_of(folder)
    text, data = text_of(data_of(golden, "prior_small")), data_of(golden, "prior_training")
    x0 = module.apply({"params": params}, jnp.asarray(data["image_embeds"]), method="standardize")
    close(x0, data["x0"])
    seen = {}

    def loss(params):
        def apply(x, t, text):
            seen["x_t"] = x
            return module.apply({"params": params}, x, t, text)

        t, noise = jnp.asarray(data["t"], jnp.int32), jnp.asarray(data["noise"])
        return jnp.mean(vector_loss(apply, jnp.asarray(data["x0"]), text, t, noise)), seen["x_t"]

    (value, x_t), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    close(x_t, data["x_t"])
    close(value, data["loss"])
    flat = trees.flatten(gradient)
    stored = {key.removeprefix("grad/"): data[key] for key in data if key.startswith("grad/")}
    names = {path: karlo.prior_source(path).names for path in flat}
    paths = {name: (path, list(own).index(name)) for path, own in names.items() for name in own}
    assert len(stored) == 4
    for name, expected in stored.items():
        path, part = paths[name]
        own = np.split(np.asarray(flat[path]), len(names[path]), axis=-1)[part]
        close(own.T if path.endswith("kernel") else own, expected, 1e-3)


def test_the_schedule_of_vectors_is_the_original_s(golden):
    data = data_of(golden, "prior_sampling")
    np.testing.assert_allclose(schedule().betas, data["betas"], rtol=1e-4)  # stored in float32
    np.testing.assert_allclose(schedule().alphas_cumprod, data["alphas_cumprod"], rtol=1e-4, atol=1e-7)


def test_the_decoder_s_condition_is_the_original_s(golden, folder):
    made = folder / "text_proj_small", karlo.context_config, build_vector_context, karlo.context_plan
    module, params = network(*made, {**PROJECTED, "context_length": 9})
    data = data_of(golden, "text_proj_small")
    images = np.concatenate([np.zeros_like(data["image_embeds"]), data["image_embeds"]])
    null = np.arange(6) < 3
    tokens, weights, vector = jax.jit(module.apply)({"params": params}, images, text_of(data), null)
    close(tokens, data["context"])
    close(vector, data["added_time_embedding"])
    np.testing.assert_array_equal(weights, data["context_mask"])


def test_the_decoder_computes_what_the_original_does(golden, folder):
    made = folder / "decoder_small", karlo.decoder_config, build_denoiser, karlo.unet_plan
    module, params = network(*made)
    data = data_of(golden, "decoder_small")
    condition = Condition(
        jnp.asarray(data["context"]),
        jnp.asarray(data["context_mask"], jnp.float32),
        vector=jnp.asarray(data["added_time_embedding"]),
    )
    found = jax.jit(module.apply)({"params": params}, data["x"], jnp.full(6, int(data["t"])), condition)
    close(found, data["out"])


@pytest.mark.slow
def test_both_networks_of_the_upsampler_compute_what_the_originals_do(golden, tmp_path):
    conversion = convert(write_folder(golden, tmp_path / "karlo") / "super_res_last")
    module, params = build_denoiser(conversion.config["denoiser"]), assemble(conversion.parts["denoiser"])
    data = data_of(golden, "super_res_sampling")
    condition, apply = Condition(channels=jnp.asarray(data["upscaled"])), jax.jit(module.apply)
    states = [data["start"], *data["traj"][:-1]]
    for x, t, expected in zip(states, data["timesteps"], data["model_outputs"], strict=True):
        close(apply({"params": params}, x, jnp.full(3, int(t)), condition), expected)
    mixed = apply({"params": params}, states[0], jnp.array([999, 0, 999]), condition)
    alone = apply({"params": params}, states[0], jnp.zeros(3, jnp.int32), condition)
    close(mixed[1], np.asarray(alone[1]))
    close(mixed[0], data["model_outputs"][0, 0])


def shapes(golden, name):
    """The tensors of a release as arrays without memory."""
    lines = (golden / f"heads2/released_keys/karlo_{name}_keys.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("name\t")]
    return {key: np.broadcast_to(np.float32(0), tuple(map(int, shape.split("x")))) for key, shape, *_ in rows}


RELEASED = {
    "prior": (karlo.prior_config({}, RELEASED_TEXT), build_prior, karlo.prior_plan, 1_022_030_080),
    "text_proj": (
        karlo.context_config({"cross_attention_dim": 1536, "time_embed_dim": 1280}, RELEASED_TEXT),
        build_vector_context,
        karlo.context_plan,
        7_878_400,
    ),
    "decoder": (karlo.decoder_config(RELEASED_DECODER), build_denoiser, karlo.unet_plan, 885_439_686),
    "super_res": (
        {**karlo.upsampler_config(RELEASED_UPSAMPLER), "kind": "unet"},
        build_denoiser,
        karlo.unet_plan,
        691_579_523,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_every_name_and_shape_of_the_release_is_used(golden, name):
    settings, build, plan, count = RELEASED[name]
    state, module = shapes(golden, name), build(settings)
    assert sum(np.prod(value.shape) for value in state.values()) == count
    recipes = plan(state, module, frozenset())
    assert set(recipes) == set(abstract_params(module))
    assert sum(np.prod(recipe.shape) for recipe in recipes.values()) == count
    first = sorted(state)[0]
    del state[first]
    with pytest.raises(UserError, match=f"1 missing: {first}"):
        plan(state, module, frozenset())


def test_what_is_not_supported_is_refused(golden, tmp_path):
    folder = write_folder(golden, tmp_path / "karlo")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "UnCLIPImageVariationPipeline"}))
    with pytest.raises(UserError, match="is a UnCLIPImageVariationPipeline, which has no prior"):
        convert(folder)
    with pytest.raises(UserError, match="norm_in_type is 'layer', and only None is supported"):
        karlo.prior_config({"norm_in_type": "layer"}, RELEASED_TEXT)
    with pytest.raises(UserError, match="down_block_types has DownBlock2D, and only"):
        karlo.decoder_config({**RELEASED_DECODER, "down_block_types": ["DownBlock2D"] * 4})
    with pytest.raises(UserError, match="down_block_types has SimpleCrossAttnDownBlock2D, and only"):
        karlo.upsampler_config({**RELEASED_UPSAMPLER, "down_block_types": ["SimpleCrossAttnDownBlock2D"] * 4})
