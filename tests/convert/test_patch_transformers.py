"""Released DiTs and U-ViTs: the originals' outputs, every name of the published models, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert import dit, sit, uvit
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.writing import write_back
from rdm_jax.core.errors import UserError
from rdm_jax.factory import schedule_from
from rdm_jax.generator import Generator
from rdm_jax.heads import head_of
from rdm_jax.models.condition import Condition
from rdm_jax.models.vit_layers import positions
from rdm_jax.request import resolve
from rdm_jax.training.config import load_architecture
from tests.helpers import tiny

NAMES = {
    "dit_small.pt": "learned variance",
    "dit_patch4_nosigma.pt": "patches of 4, hidden layers of twice the width",
    "sit_small.pt": "times and latents on the linear path, channels of a variance that are thrown away",
    "uvit_class.pth": "a class token",
    "uvit_text.pth": "text tokens with positions, an MLP for the time, no last convolution",
    "uvit_uncond.pth": "no condition",
}


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads2" / "vit"


@pytest.fixture(scope="module")
def bundles(folder, tmp_path_factory):
    """A function that converts a golden file by its name, once."""
    out = tmp_path_factory.mktemp("bundles")

    def bundle(name):
        if not (out / name).exists():
            convert(folder / name).write(out / name)
        return Bundle.open(out / name)

    return bundle


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_release_computes_what_the_original_does(folder, bundles, nhwc, close, name):
    bundle, data = bundles(name), np.load(folder / f"{Path(name).stem}.npz")
    network = bundle.denoiser
    # U-ViT counts times from 1, where ours are from 0.
    t, x = jnp.asarray(data["t"], jnp.float32) - (1 if name.startswith("uvit") else 0), nhwc(data["x"])
    if name.startswith("sit"):
        t, x = 1000 * (1 - t) - 0.5, x / jnp.hypot(t, 1 - t)[:, None, None, None]
    tokens = jnp.asarray(data["context"]) if "context" in data else None
    vector = jax.nn.one_hot(data["y"], network.vector_dim) if network.vector_dim else None
    out = jax.jit(network.apply)({"params": bundle.params["denoiser"]}, x, t, Condition(tokens, vector=vector))
    close(out, data["out"])


def test_a_release_is_a_bundle_with_its_own_conventions(bundles):
    bundle = bundles("dit_small.pt")
    assert set(bundle.params) == {"denoiser"} and bundle.config["latents"] == {"scale": 0.18215}
    request, options = resolve(bundle.config, head_of(bundle.config), {"condition": "text"}, queries=1)
    assert (request.height, request.width, options.steps) == (64, 64, 250)
    betas = schedule_from(bundle.config["diffusion"]).betas
    np.testing.assert_allclose(betas, 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999, rtol=1e-12)
    latent, pixel = bundles("uvit_class.pth").config, bundles("uvit_uncond.pth").config
    assert latent["sampling"]["height"] == 64 and latent["diffusion"]["beta_end"] == 0.012
    assert pixel["sampling"]["height"] == 8 and pixel["latents"] == {"scale": 1.0}


CONFIGS = {"dit_xl2": "dit_xl2", "uvit_imagenet256_L2": "uvit_l2"}
PUBLISHED = {
    "dit_xl2": (dit, {"depth": 28, "heads": 16, "latent_size": 32, "vector_dim": 1001, "out_channels": 8}),
    "uvit_cifar10_S2": (uvit, {"depth": 12, "heads": 8, "latent_size": 32, "vector_dim": 0}),
    "uvit_imagenet64_M4": (uvit, {"depth": 16, "heads": 12, "latent_size": 64, "vector_dim": 1000}),
    "uvit_imagenet256_L2": (uvit, {"depth": 20, "heads": 16, "latent_size": 32, "vector_dim": 1001}),
    "uvit_imagenet512_H4": (uvit, {"depth": 28, "latent_size": 64, "final_conv": False}),
    "uvit_mscoco_S2_deep": (uvit, {"depth": 16, "latent_size": 32, "context_dim": 768, "context_positions": 77}),
}


def published(golden, name):
    """Returns zeros by the names and shapes of a published model."""
    rows = (golden / "heads2" / "released_keys" / f"{name}_keys.tsv").read_text().splitlines()
    shapes = {key: tuple(map(int, shape.split("x"))) for key, shape, _ in (row.split("\t") for row in rows)}
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_name_of_a_published_model_has_its_place(golden, name):
    state = published(golden, name)
    release, expected = PUBLISHED[name]
    assert [other.is_this(state) for other in (dit, uvit)] == [release is dit, release is uvit]
    if release is dit:
        state["pos_embed"] = positions(16, 16, 16, 1152)[None]
    settings = release.config(state, {})
    assert settings == {**settings, **expected}
    recipes = release.recipes(state, settings, frozenset())
    if name in CONFIGS:
        assert load_architecture(CONFIGS[name]).denoiser.to_dict() == settings
    stored = sum(np.prod(value.shape) for key, value in state.items() if release is uvit or key != "pos_embed")
    assert sum(np.prod(recipe.shape) for recipe in recipes.values()) == stored


def test_a_sit_is_a_dit_on_a_path(folder, bundles, golden):
    bundle = bundles("sit_small.pt")
    assert bundle.config["diffusion"] == {
        "num_timesteps": 1000,
        "schedule": "linear_interpolant",
        "prediction": "linear_velocity",
    }
    request, options = resolve(bundle.config, head_of(bundle.config), {"condition": "text"}, queries=1)
    assert (request.height, options.steps, options.sampler) == (64, 250, "interpolant_sde(last='mean')")
    # By its name, by the option, or not at all.
    assert convert(folder / "dit_small.pt", interpolant="gvp").config["denoiser"]["path"] == "gvp"
    assert "path='gvp'" in convert(folder / "dit_small.pt", interpolant="gvp").config["sampling"]["sampler"]
    assert "path" not in convert(folder / "dit_small.pt").config["denoiser"]
    with pytest.raises(UserError, match="unknown interpolant 'vp'"):
        convert(folder / "sit_small.pt", interpolant="vp")
    with pytest.raises(UserError, match=r"--interpolant does not apply to .*\(U-ViT\); omit it"):
        convert(folder / "uvit_class.pth", interpolant="linear")


def test_every_name_of_a_published_sit_has_its_place(golden):
    # The names and shapes of SiT-XL/2 are DiT-XL/2's; the second half of the last layer's channels is thrown away.
    state = published(golden, "dit_xl2")
    state["pos_embed"] = positions(16, 16, 16, 1152)[None]
    settings = sit.config(state, {}, "linear")
    recipes = dit.recipes(state, settings, frozenset())
    assert load_architecture("sit_xl2").denoiser.to_dict() == settings
    stored = sum(np.prod(value.shape) for name, value in state.items() if name != "pos_embed")
    assert sum(np.prod(recipe.shape) for recipe in recipes.values()) == stored - 16 * 1153
    kernel, full = np.random.default_rng(0).standard_normal((32, 1152)).astype(np.float32), {**state}
    full["final_layer.linear.weight"] = kernel
    kept = dit.recipes(full, settings, frozenset())["out/kernel"].read()
    np.testing.assert_array_equal(kept, kernel.reshape(4, 8, 1152)[:, :4].reshape(16, 1152).T)


def test_an_unconditional_release_of_pixels_generates(bundles):
    generator = Generator.load(bundles("uvit_uncond.pth"))
    result = generator.sample(num_images=2, steps=2)
    assert result.images.shape == (2, 8, 8, 3) and result.prompts == ["unconditional"] * 2


def test_weights_and_arguments_that_do_not_fit_are_refused(folder, tmp_path):
    def refused(message, name, arguments=None, **changes):
        file = tmp_path / "arguments.json"
        own = json.loads((folder / name).with_suffix(".json").read_text()) if arguments is None else arguments
        file.write_text(json.dumps({**own, **changes}))
        with pytest.raises(UserError, match=message):
            convert(folder / name, config=file)

    refused("num_heads=5 does not divide the width 48", "dit_small.pt", num_heads=5)
    refused("the arguments say depth=2, and the weights are of a DiT with depth=3", "dit_small.pt", depth=2)
    refused("the weights are of a U-ViT with conv=True", "uvit_class.pth", conv=False)
    refused("do not say how many heads this DiT of width 48 has; .* by --config", "dit_small.pt", {})
    other = json.loads((folder / "uvit_class.json").read_text())
    refused("unknown argument of a DiT 'img_size'", "dit_small.pt", other)
    refused("unknown argument of a U-ViT 'clip_dim'", "uvit_class.pth", clip_dim=24)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        convert(folder / "dit_small.pt", config=tmp_path / "bad.json")
    with pytest.raises(UserError, match="cannot read"):
        convert(folder / "dit_small.pt", config=tmp_path / "none.json")


def test_a_class_model_gets_no_clip_and_is_not_written_as_a_unet(folder, bundles, tmp_path):
    assert not convert(folder / "dit_small.pt").conditioned
    assert convert(folder / "uvit_text.pth").conditioned == ("denoiser",)
    with pytest.raises(
        UserError, match="has a dit as its denoiser, and diffusers can only be given a model with a unet"
    ):
        write_back(bundles("dit_small.pt").path, "diffusers", tmp_path / "back")
    tiny.bundle().save(tmp_path / "tiny")
    with pytest.raises(UserError, match=r"the DiT takes no context tokens: .*omit --clip"):
        convert(folder / "dit_small.pt", clip_source=tmp_path / "tiny")
