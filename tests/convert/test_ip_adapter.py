"""IP-Adapter's networks against the outputs of the original program."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import erf

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.adapter import acting_places
from rdm_jax.convert import ip_adapter
from rdm_jax.convert.clip import config_from_openai
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.weights import read_tensors
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_clip, build_denoiser, build_image_adapter
from rdm_jax.models.condition import Condition, ImageTokens
from rdm_jax.training.config import load_architecture
from tests.helpers.stable_diffusion import adapted_bundle, tower


@pytest.fixture(scope="module")
def bundle(golden):
    return adapted_bundle(golden)


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden / "heads/ip_adapter/ip_adapter.npz")


def images_of(tokens, scales, weights=None):
    return ImageTokens(jnp.asarray(tokens), jnp.asarray(scales, jnp.float32), weights)


def test_the_tokens_are_those_of_the_original(bundle, data, close):
    project = jax.jit(bundle.image_adapter.apply)
    variables = {"params": bundle.params["image_adapter"]}
    close(project(variables, jnp.asarray(data["image_embeds"])), data["ip_tokens"])
    close(project(variables, jnp.zeros_like(jnp.asarray(data["image_embeds"]))), data["ip_tokens_uncond"])
    mean = data["image_embeds"].mean(axis=0, keepdims=True)
    close(project(variables, jnp.asarray(mean)), data["ip_tokens_mean_of_3"])


@pytest.mark.slow
def test_the_network_is_that_of_the_original_at_any_scale(bundle, data, nhwc, close):
    apply = jax.jit(bundle.denoiser.apply)
    variables, x, t = {"params": bundle.params["denoiser"]}, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    text, tokens = jnp.asarray(data["text"]), data["ip_tokens"]

    def run(images, text=text):
        return apply(variables, x, t, Condition(text, images=images))

    close(run(None), data["plain"])
    for scale in (0.0, 0.5, 1.0):
        close(run(images_of(tokens[:2, None], np.full((2, 1), scale))), data[f"ip_out_scale{scale}"])
    close(run(images_of(tokens[:2, None], np.zeros((2, 1)))), data["plain"])
    null = images_of(data["ip_tokens_uncond"][:2, None], np.ones((2, 1)))
    close(run(null, jnp.asarray(data["text_uncond"])), data["ip_out_uncond"])
    joined = np.repeat(tokens.reshape(1, 1, -1, tokens.shape[-1]), 2, axis=0)
    close(run(images_of(joined, np.full((2, 1), 0.7))), data["ip_out_concat_of_3"])
    mean = np.repeat(data["ip_tokens_mean_of_3"][:, None], 2, axis=0)
    close(run(images_of(mean, np.ones((2, 1)))), data["ip_out_mean_of_3"])
    # One group has images 0 and 1, one for each sample; the other group has image 2 for both.
    groups = np.stack([tokens[:2], np.stack([tokens[2]] * 2)], axis=1)
    close(run(images_of(groups, [[0.4, 0.6]] * 2)), data["ip_out_two_adapters"])


@pytest.mark.slow
def test_the_plus_adapter_is_that_of_the_original(golden, data, nhwc, close):
    plus = adapted_bundle(golden, "plus")
    project = jax.jit(plus.image_adapter.apply)
    tokens = project({"params": plus.params["image_adapter"]}, jnp.asarray(data["hidden_penultimate"]))
    close(tokens, data["plus_tokens"])
    apply = jax.jit(plus.denoiser.apply)
    variables, x, t = {"params": plus.params["denoiser"]}, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    for scale in (0.0, 0.5, 1.0):
        images = images_of(tokens[:2, None], np.full((2, 1), scale))
        close(
            apply(variables, x, t, Condition(jnp.asarray(data["text"]), images=images)), data[f"plus_out_scale{scale}"]
        )
    null = images_of(data["plus_tokens_uncond"][:2, None], np.ones((2, 1)))
    out = apply(variables, x, t, Condition(jnp.asarray(data["text_uncond"]), images=null))
    close(out, data["plus_out_uncond"])


@pytest.mark.slow
def test_scales_of_pixels_are_those_of_all_where_they_are_equal(bundle, data, nhwc):
    apply = jax.jit(bundle.denoiser.apply)
    variables, x, t = {"params": bundle.params["denoiser"]}, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    text, tokens = jnp.asarray(data["text"]), data["ip_tokens"][:2, None]
    outs = [
        apply(variables, x, t, Condition(text, images=images_of(tokens, np.full(shape, 0.5))))
        for shape in ((2, 1), (2, 8, 8, 1))
    ]
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-5)


@pytest.mark.slow
def test_an_adapter_acts_in_some_of_the_blocks(bundle, data, nhwc):
    apply = jax.jit(bundle.denoiser.apply)
    variables, x, t = {"params": bundle.params["denoiser"]}, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    text, tokens = jnp.asarray(data["text"]), jnp.asarray(data["ip_tokens"][:2, None])

    def run(blocks):
        images = ImageTokens(tokens, jnp.ones((2, 1)), blocks=jnp.tile(jnp.asarray(blocks, jnp.float32), (2, 1)))
        return np.asarray(apply(variables, x, t, Condition(text, images=images)))

    places = bundle.denoiser.places
    assert places == ("down_0", "down_1", "mid", "up_0", "up_1")
    style, both = (acting_places(bundle.denoiser, name) for name in ("style", "style+layout"))
    assert [place for place, acts in zip(places, style, strict=True) if acts] == ["up_1"]
    assert [place for place, acts in zip(places, both, strict=True) if acts] == ["down_1", "mid", "up_1"]
    none, all_ = run(np.zeros(5)), run(np.ones(5))
    np.testing.assert_allclose(none.transpose(0, 3, 1, 2), data["plain"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(all_.transpose(0, 3, 1, 2), data["ip_out_scale1.0"], rtol=1e-4, atol=1e-4)
    assert min(np.abs(run(style) - one).max() for one in (none, all_, run(both))) > 1e-3


def test_the_full_face_adapter_projects_every_patch(golden, data, tmp_path):
    rng = np.random.default_rng(0)
    names = {"proj.0.weight": (32, 32), "proj.0.bias": (32,), "proj.2.weight": (32, 32), "proj.2.bias": (32,)}
    names |= {"proj.3.weight": (32,), "proj.3.bias": (32,)}
    own = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in names.items()}
    attention = read_tensors(golden / "heads/ip_adapter/ip_adapter_small.safetensors")
    state = {name: np.asarray(value) for name, value in attention.items() if name.startswith(ip_adapter.ATTENTION)}
    save_file(
        {**state, **{ip_adapter.PROJECTION + name: one for name, one in own.items()}}, tmp_path / "face.safetensors"
    )
    tower(24, 32).save(tmp_path / "tower", "float32")
    model = golden / "heads/sd/sd1_small_diffusers"
    convert(model, adapter=tmp_path / "face.safetensors", clip_source=tmp_path / "tower").write(tmp_path / "model")
    bundle = Bundle.open(tmp_path / "model")
    vision = bundle.config["clip"]["vision"]
    assert bundle.image_adapter.tokens == (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    patches = data["hidden_penultimate"].astype(np.float64)
    hidden = patches @ own["proj.0.weight"].T + own["proj.0.bias"]
    hidden = 0.5 * hidden * (1.0 + erf(hidden / np.sqrt(2.0)))
    out = hidden @ own["proj.2.weight"].T + own["proj.2.bias"]
    normed = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + 1e-5)
    tokens = bundle.image_adapter.apply({"params": bundle.params["image_adapter"]}, jnp.asarray(patches, jnp.float32))
    np.testing.assert_allclose(tokens, normed * own["proj.3.weight"] + own["proj.3.bias"], rtol=1e-4, atol=1e-4)


def test_both_formats_of_an_adapter_are_read(golden):
    folder = golden / "heads/ip_adapter"
    one, other = (read_tensors(folder / f"ip_adapter_small.{kind}") for kind in ("bin", "safetensors"))
    assert sorted(one) == sorted(other) and ip_adapter.is_ip_adapter(one)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_adapters_that_do_not_fit_are_refused(golden, tmp_path):
    folder, model = golden / "heads/ip_adapter", golden / "heads/sd/sd1_small_diffusers"
    file = folder / "ip_adapter_small.bin"
    with pytest.raises(UserError, match="reads vectors of 24 numbers, and no CLIP is given; give the CLIP"):
        convert(model, adapter=file)
    tower(16).save(tmp_path / "tower", "float32")
    with pytest.raises(UserError, match="and those of the given CLIP have 16"):
        convert(model, adapter=file, clip_source=tmp_path / "tower")
    with pytest.raises(UserError, match="reads patches of 32 numbers, and those of the given CLIP have 16"):
        convert(model, adapter=folder / "plus_adapter_small.bin", clip_source=tmp_path / "tower")
    with pytest.raises(UserError, match="holds no image_proj and ip_adapter"):
        convert(model, adapter=folder / "image_encoder/model.safetensors", clip_source=tmp_path / "tower")
    with pytest.raises(UserError, match="is an IP-Adapter; convert a Stable Diffusion with it"):
        convert(file)
    with pytest.raises(UserError, match=r"is added to a Stable Diffusion, and .* is a CompVis checkpoint"):
        convert(golden / "rdm_small.ckpt", adapter=file)
    shutil.copytree(golden / "heads/sd/sd2_small_diffusers", tmp_path / "sd2")
    with pytest.raises(UserError, match="the weights do not fit the IP-Adapter of this U-Net"):
        tower(24).save(tmp_path / "wide", "float32")
        convert(tmp_path / "sd2", adapter=file, clip_source=tmp_path / "wide")


def test_the_bundle_is_whole(bundle):
    assert isinstance(bundle, Bundle)
    assert bundle.config["conditioning"]["neighbors"] == 4
    assert bundle.config["sampling"]["condition"] == "text+neighbors"
    assert "images" in bundle.denoiser.supports


def test_the_clip_of_the_released_adapters_is_known_by_its_shapes():
    shapes = {
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.positional_embedding": (257, 1280),
        "token_embedding.weight": (49408, 1024),
        "positional_embedding": (77, 1024),
        "text_projection": (1024, 1024),
        **{f"visual.transformer.resblocks.{i}.ln_1.weight": (1280,) for i in range(32)},
        **{f"transformer.resblocks.{i}.ln_1.weight": (1024,) for i in range(24)},
    }
    settings = config_from_openai({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
    assert settings["vision"]["heads"] == settings["text"]["heads"] == 16
    assert settings["vision"]["activation"] == settings["text"]["activation"] == "gelu"
    # The published number of OpenCLIP's image tower, and of its text tower with the projection and the scale.
    assert trees.count(abstract_params(build_clip(settings))) == 632_076_800 + 354_032_641


@pytest.mark.slow
def test_the_released_adapters_have_the_published_numbers_of_parameters():
    settings = load_architecture("sd15").denoiser.to_dict()
    counts = [trees.count(abstract_params(build_denoiser({**settings, "adapter": has}))) for has in (False, True)]
    assert counts[1] - counts[0] == 19_169_280
    face = {"kind": "all_patches", "patch_dim": 1280, "token_dim": 768, "tokens": 257}
    assert trees.count(abstract_params(build_image_adapter(face))) == 2_625_024
    base = {"kind": "vector", "vector_dim": 1024, "token_dim": 768}
    plus = {
        "kind": "patches",
        "patch_dim": 1280,
        "width": 768,
        "token_dim": 768,
        "tokens": 16,
        "layers": 4,
        "heads": 12,
    }
    sizes = [trees.count(abstract_params(build_image_adapter(one))) for one in (base, plus)]
    assert sizes == [3_150_336, 29_918_208]
