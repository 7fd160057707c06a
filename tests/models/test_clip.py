"""CLIP's sizes, invariances and errors; tests/convert compares its outputs with the originals'."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import build_clip
from rdm_jax.models.clip import Block, ViT
from rdm_jax.models.layers import LayerNorm

TEXT = {"vocab_size": 50, "context_length": 9, "width": 16, "layers": 2, "heads": 2}
VIT = {"kind": "vit", "width": 16, "layers": 2, "heads": 2, "patch_size": 4, "image_size": 8}
RESNET = {"kind": "resnet", "width": 8, "layers": [1, 1, 1, 1], "heads": 2, "image_size": 32}


@pytest.fixture
def make(random_params):
    """Returns a function from a configuration to a CLIP, its parameters, pixels and tokens, all random."""

    def make(config):
        clip = build_clip(config)
        rng = np.random.default_rng(1)
        size = clip.vision.image_size
        pixels = jnp.asarray(rng.standard_normal((2, size, size, 3)), jnp.float32)
        tokens = jnp.asarray(rng.integers(0, 40, (3, 7)), jnp.int32)
        return clip, random_params(clip, pixels, tokens), pixels, tokens

    return make


def _apply(clip, method=None):
    return jax.jit(partial(clip.apply, method=method))


@pytest.mark.slow
@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_embeddings_have_the_common_size_and_rows_are_independent(make, vision):
    clip, params, pixels, tokens = make({"embed_dim": 12, "vision": vision, "text": TEXT})
    apply = _apply(clip)
    images, texts, scale = apply(params, pixels, tokens)
    assert clip.embed_dim == 12 and images.shape == (2, 12) and texts.shape == (3, 12)
    np.testing.assert_allclose(scale, np.exp(params["params"]["logit_scale"]), rtol=1e-5)
    other_images, other_texts, _ = apply(params, pixels.at[0].add(1.0), tokens.at[0].add(1))
    np.testing.assert_allclose(other_images[1:], images[1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other_texts[1:], texts[1:], rtol=1e-4, atol=1e-5)
    assert (other_images[0] != images[0]).any() and (other_texts[0] != texts[0]).any()


def test_the_temperature_is_initialized_as_in_the_paper():
    clip = build_clip({"embed_dim": 12, "vision": VIT, "text": TEXT})
    arguments = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 9), jnp.int32)
    initial = jax.jit(lambda key: clip.init(key, *arguments)["params"]["logit_scale"])(jax.random.key(0))
    np.testing.assert_allclose(np.exp(initial), 1 / 0.07, rtol=1e-5)


def test_tokens_after_the_end_of_text_have_no_effect(make):
    clip, params, _, tokens = make({"embed_dim": 12, "vision": VIT, "text": {**TEXT, "eos_id": 45}})
    encode = _apply(clip, "encode_text")
    ended = tokens.at[:, 4].set(45)
    text = encode(params, ended)
    np.testing.assert_allclose(encode(params, ended.at[:, 5:].set(45)), text, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encode(params, ended[:, :5]), text, rtol=1e-4, atol=1e-5)
    assert np.abs(encode(params, ended.at[:, 3].set(1 + ended[:, 3])) - text).max() > 1e-3


def test_without_an_end_token_the_highest_id_is_read(make):
    clip, params, _, tokens = make({"embed_dim": 12, "vision": VIT, "text": TEXT})
    named = clip.clone(text=clip.text.clone(eos_id=45))
    ended = tokens.at[:, 4].set(45).at[:, 5:].set(0)
    one, two = (_apply(c, "encode_text")(params, ended) for c in (clip, named))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_the_pool_may_be_the_mean_of_the_patches(make):
    """Without positions, a permutation of the patches changes neither pool; with them it changes both."""
    for pool in ("class", "mean"):
        clip, params, pixels, _ = make({"embed_dim": 12, "vision": {**VIT, "pool": pool}, "text": TEXT})
        encode = _apply(clip, "encode_image")
        moved = jnp.concatenate([pixels[:, 4:], pixels[:, :4]], axis=1)
        assert np.abs(encode(params, moved) - encode(params, pixels)).max() > 1e-3
        params["params"]["vision"]["positions"][:] = 0.0
        np.testing.assert_allclose(encode(params, moved), encode(params, pixels), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="unknown pool 'maen'; did you mean 'mean'"):
        make({"embed_dim": 12, "vision": {**VIT, "pool": "maen"}, "text": TEXT})


@pytest.mark.slow
def test_the_statistics_of_batch_norm_have_no_gradient(make):
    clip, params, pixels, _ = make({"embed_dim": 12, "vision": RESNET, "text": TEXT})
    apply = _apply(clip, "encode_image")
    grads = jax.jit(jax.grad(lambda p: jnp.sum(apply(p, pixels) ** 2)))(params)
    flat = trees.flatten(grads["params"]["vision"])
    assert not any(grad.any() for name, grad in flat.items() if name.endswith(("/mean", "/var")))
    assert flat["norm1/scale"].any() and flat["stage_4_0/conv_skip/kernel"].any()


def test_activations_are_chosen_by_name(make):
    config = {"embed_dim": 12, "vision": VIT, "text": TEXT}
    clip, params, pixels, _ = make(config)
    exact = build_clip({**config, "vision": {**VIT, "activation": "gelu"}})
    one, two = (_apply(c, "encode_image")(params, pixels) for c in (clip, exact))
    assert 0 < np.abs(one - two).max() < 0.1
    with pytest.raises(UserError, match="unknown activation 'gelo'; did you mean 'gelu'"):
        make({**config, "vision": {**VIT, "activation": "gelo"}})


def test_inputs_that_do_not_fit_are_refused(make):
    clip, params, pixels, _ = make({"embed_dim": 12, "vision": VIT, "text": TEXT})
    with pytest.raises(UserError, match="CLIP takes 8x8 pixels, got 4x8"):
        clip.apply(params, pixels[:, :4], method="encode_image")
    with pytest.raises(UserError, match="10 text tokens are too many; this encoder takes 9"):
        clip.apply(params, jnp.zeros((1, 10), jnp.int32), method="encode_text")
    with pytest.raises(UserError, match="unknown clip vision kind 'vitt'; did you mean 'vit'"):
        build_clip({"embed_dim": 12, "vision": {**VIT, "kind": "vitt"}, "text": TEXT})
    with pytest.raises(UserError, match="clip text configuration lacks heads"):
        build_clip({"embed_dim": 12, "vision": VIT, "text": {k: v for k, v in TEXT.items() if k != "heads"}})


@pytest.mark.slow
def test_states_of_patches_are_the_input_of_the_last_block():
    vit = ViT(embed_dim=6, width=8, layers=2, heads=2, patch_size=4, image_size=8)
    pixels = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = jax.jit(vit.init)(jax.random.key(1), pixels)["params"]
    states = jax.jit(lambda p, x: vit.apply({"params": p}, x, states=True))(params, pixels)
    assert states.shape == (2, 5, 8)

    def rest(p, x):
        x = Block(2, 2).apply({"params": p["block_1"]}, x)
        x = LayerNorm().apply({"params": p["norm_out"]}, x[:, 0])
        return x @ p["projection"]["kernel"]

    np.testing.assert_allclose(jax.jit(rest)(params, states), vit.apply({"params": params}, pixels), atol=1e-5)
