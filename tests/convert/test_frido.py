"""Frido against the original's outputs: networks, losses and samplers, and the names of the releases."""

from __future__ import annotations

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.convert import frido
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.mapping import Recipe, assemble
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.convert.writing import write_back
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.diffusion.objective import diffusion_loss
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.samplers import base as samplers
from rdm_jax.diffusion.samplers.coarse_to_fine import CoarseToFine, stage_network
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.samplers.plms import PLMS
from rdm_jax.diffusion.schedule import signal_noise
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.models import abstract_params, build_autoencoder, build_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.training.config import load_architecture
from rdm_jax.training.denoising import scales_of
from rdm_jax.training.latents import latent_statistics


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads2/frido"


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """The converted golden checkpoint."""
    out = tmp_path_factory.mktemp("frido") / "bundle"
    convert(folder / "frido_small.ckpt").write(out)
    return Bundle.open(out)


@pytest.fixture(scope="module")
def evaluate(model):
    """The PyU-Net with its parameters, compiled: (x, t, condition) to its output."""
    return functools.partial(jax.jit(model.denoiser.apply), {"params": model.params["denoiser"]})


@pytest.mark.slow
def test_both_stages_compute_what_the_original_does(folder, evaluate, nhwc, close):
    data = np.load(folder / "pyunet.npz")
    x, t = nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    (coarse, fine), tokens = jnp.split(x, 2, axis=-1), jnp.asarray(data["context"])
    close(evaluate(coarse, t, Condition(tokens)), data["out_stage0"])
    close(evaluate(fine, t, Condition(tokens, channels=coarse)), data["out_stage1"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frido_first_stage", "msvqgan_small"])
def test_the_first_stage_computes_what_the_original_does(folder, model, nhwc, close, name):
    data = np.load(folder / f"{name}.npz")
    if name == "msvqgan_small":
        conversion = convert(folder / f"{name}.ckpt")
        module = build_autoencoder(conversion.config["autoencoder"])
        params = assemble(conversion.parts["autoencoder"])
    else:
        module, params = model.autoencoder, model.params["autoencoder"]
    source_of = functools.partial(frido.first_stage_source, prefix="")

    def run(params, image):
        latent = module.apply({"params": params}, image, method="encode")
        quantized, indices, loss = module.apply({"params": params}, latent, method="quantize")
        decoded = module.apply({"params": params}, quantized, method="decode", quantize=False)
        again = module.apply({"params": params}, latent, method="decode")
        return loss + jnp.mean(decoded**2), (latent, indices, loss, decoded, again)

    gradient, (latent, indices, loss, decoded, again) = jax.jit(jax.grad(run, has_aux=True))(
        params, nhwc(data["image"])
    )
    close(latent, data["latent"])
    close(decoded, data["decoded"])
    close(again, data["decoded_latent"])
    np.testing.assert_allclose(loss, data["codebook_loss"], rtol=1e-5)
    codes, first = np.asarray(indices), module.num_codes[0]
    np.testing.assert_array_equal(codes[..., 0].reshape(len(codes), -1), data["latent_codes_coarse_upsampled"])
    np.testing.assert_array_equal(codes[:, ::2, ::2, 0].reshape(-1), data["indices_coarse"])
    np.testing.assert_array_equal(codes[..., 1].reshape(-1) - first, data["indices_fine"])
    compare_gradients(data, gradient, abstract_params(module), source_of)


def compare_gradients(data, gradient, targets, source_of, tolerance=1e-3):
    """Compares the stored gradients, by the original names, with those of our parameters."""
    stored = {key.removeprefix("grad/"): data[key] for key in data if key.startswith("grad/")}
    flat, compared = trees.flatten(gradient), 0
    for path, shape in targets.items():
        source = source_of(path)
        if all(name in stored for name in source.names):
            theirs = Recipe(stored, source, path, tuple(shape.shape), np.dtype(np.float32)).read()
            np.testing.assert_allclose(flat[path], theirs, rtol=0, atol=tolerance * np.abs(theirs).max(), err_msg=path)
            compared += 1
    assert compared == len(stored) > 0


@pytest.mark.slow
def test_the_scale_of_each_part_and_the_losses_are_the_originals(folder, model, nhwc, close):
    data, network = np.load(folder / "training.npz"), model.denoiser
    encode = jax.jit(factory.encoder_from(model.autoencoder, model.config["latents"]))
    close(encode(model.params["autoencoder"], nhwc(data["image"])), data["latent"])
    x0 = nhwc(data["latent"])
    np.testing.assert_allclose(model.config["latents"]["scale"], np.repeat(data["scale_factor"], 4), rtol=1e-6)
    noise, t = nhwc(data["noise"]), jnp.asarray(data["t"], jnp.int32)
    schedule = factory.schedule_from(model.config["diffusion"])
    assert network.coarse_noise == 0.1
    scales = scales_of(network, x0, noise, Condition(jnp.asarray(data["context"])))
    alpha, sigma = (per_image(value, 4) for value in signal_noise(schedule, t))
    for i, (part, own, condition) in enumerate(scales):
        noisy = data[f"x_noisy_stage{i}"][:, 4 * i : 4 * i + 4]
        close(alpha * part + sigma * own, noisy)
        if i:
            close(condition.channels, data["x_noisy_stage1"][:, :4])

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        def apply(x, t, condition):
            return network.apply({"params": params}, x, t, condition)

        each = [
            diffusion_loss(apply, part, condition, t, own, schedule, "eps", error="absolute").mean()
            for part, own, condition in scales
        ]
        return sum(each) / 2, each

    (value, each), gradient = loss(model.params["denoiser"])
    np.testing.assert_allclose(each, [data["loss_stage0"], data["loss_stage1"]], rtol=1e-5)
    np.testing.assert_allclose(value, data["loss"], rtol=1e-5)
    # Two inputs of ReLUs in gated norms are 2e-7: their signs, and with them the gradient, depend on the last bits.
    source_of = frido.pyunet_source(network, prefix="")
    compare_gradients(data, gradient, abstract_params(network), source_of, tolerance=2e-3)


def test_each_scale_of_the_latents_has_unit_variance():
    generator = np.random.default_rng(0)
    encoded = generator.normal(size=(50, 8, 8, 6)) * np.repeat([2.0, 0.5], 3) + 1.0
    scaling = latent_statistics(encoded, gaussian=False, scales=2)
    scaled = (encoded - scaling["shift"]) * scaling["scale"]
    assert len(scaling["scale"]) == 6
    for part in np.split(scaled, 2, axis=-1):
        assert abs(part.std() - 1.0) < 1e-3
    np.testing.assert_allclose(scaling["scale"], np.repeat([0.5, 2.0], 3), rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "plms", "ddim_eta1"])
def test_the_samplers_compute_what_the_original_does(folder, model, nhwc, close, monkeypatch, name):
    data, network = np.load(folder / f"sampler_{name}.npz"), model.denoiser
    inner = PLMS() if name == "plms" else DDIM(eta=float(data["eta"]))
    sampler, schedule = CoarseToFine(inner), factory.schedule_from(model.config["diffusion"])
    plan = sampler.plan(schedule, len(data["ddim_timesteps"]))
    tokens = jnp.asarray(data["context"])
    given, null = Condition(tokens), Condition(jnp.zeros_like(tokens))
    scale = float(data["guidance_scale"])
    if sampler.needs_noise:
        # Of each stage, in the order of the steps; the keys number the steps.
        coarse, fine = (np.moveaxis(data[f"noises_stage{i}"], 2, -1) for i in range(2))
        empty = np.zeros_like(coarse)
        noises = jnp.asarray(np.concatenate([np.concatenate([coarse, empty], -1), fine]))
        steps = len(noises)
        keys = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.uint32)[:, None, None], (steps, len(tokens), 2))
        plan = dataclasses.replace(plan, keys=jax.random.wrap_key_data(keys))
        monkeypatch.setattr(samplers, "normal", lambda keys, shape: noises[jax.random.key_data(keys)[0, -1]])

    @jax.jit
    def run(params, x):
        def denoiser(x_t, info):
            apply = stage_network(lambda *inputs: network.apply({"params": params}, *inputs), info)
            if scale == 1:
                return make_denoiser(apply, given, "eps")(x_t, info)
            return classifier_free_denoiser(apply, given, null, jnp.float32(scale), "eps")(x_t, info)

        def body(carry, info):
            carry, prediction = sampler.step(carry, info, denoiser)
            return carry, (carry.x, prediction.x0)

        return jax.lax.scan(body, sampler.init(x), plan)[1]

    path, predicted = run(model.params["denoiser"], nhwc(data["x_T"]))
    if name == "plms":  # the two evaluations of the first step of each stage are one step of the original
        count = len(data["ddim_timesteps"])
        kept = np.delete(np.arange(2 * (count + 1)), [0, count + 1])
        path, predicted = path[kept], predicted[kept]
    count = len(path) // 2

    def compare(ours, theirs):
        np.testing.assert_allclose(np.moveaxis(np.asarray(ours), -1, 2), theirs, atol=1e-3 * np.abs(theirs).max())

    compare(path[:count, ..., :4], data["traj_stage0"])
    compare(path[count:, ..., 4:], data["traj_stage1"][:, :, 4:])
    compare(predicted[:count, ..., :4], data["pred_x0_stage0"])
    compare(predicted[count:, ..., 4:], data["pred_x0_stage1"][:, :, 4:])
    np.testing.assert_allclose(
        np.moveaxis(np.asarray(path[-1]), -1, 1), data["samples"], atol=1e-3 * np.abs(data["samples"]).max()
    )
    decode = jax.jit(factory.decoder_from(model.autoencoder, model.config["latents"]))
    close(decode(model.params["autoencoder"], path[-1]), data["decoded"], 1e-3)


SMALLER = {"ch_mult": (1, 1, 2, 4), "decoder_ch_mult": (1, 2, 4), "scale_channels": 3, "num_codes": (4096, 4096)}
PUBLISHED = {
    "frido_pyunet_frido_f16f8_coco": {},
    "frido_pyunet_frido_f8f4_coco_seg": {"in_channels": 3, "out_channels": 3},
    "msvqgan_f16f8_coco": {},
    "msvqgan_f8f4_openimage": {**SMALLER, "attn_resolutions": (64,), "decoder_attn_resolutions": (64,)},
}
"""By the name of a released model: what it has that the architecture `frido_f16f8` has not."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_name_of_a_published_model_has_its_place(golden, name):
    rows = (golden / "heads2/released_keys" / f"{name}_keys.tsv").read_text().splitlines()
    shapes = {key: tuple(map(int, shape.split("x"))) for key, shape, _ in (row.split("\t") for row in rows)}
    part, prefix = ("denoiser", "model.diffusion_model.") if "pyunet" in name else ("autoencoder", "")
    state = {f"{prefix}{key}": np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    settings = {**load_architecture("frido_f16f8")[part].to_dict(), **PUBLISHED[name]}
    if part == "denoiser":
        assert frido.is_this(state) and not frido.is_first_stage(state)
        recipes = frido.pyunet_plan(state, build_denoiser(settings))
    else:
        assert frido.is_first_stage(state) and not frido.is_this(state)
        recipes = frido.first_stage_plan(state, build_autoencoder(settings))
    assert sum(np.prod(one.shape) for one in recipes.values()) == sum(np.prod(shape) for shape in shapes.values())


def changed(folder, out, change, name="frido_small", drop=(), add=None):
    """Writes a golden checkpoint with another yaml, or other tensors, and returns it."""
    content = yaml.safe_load((folder / f"{name}.yaml").read_text())
    change(content["model"]["params"])
    (out / "model.yaml").write_text(yaml.safe_dump(content))
    if not drop and not add:
        shutil.copy(folder / f"{name}.ckpt", out / "model.ckpt")
        return out / "model.ckpt"
    state = {key: np.array(value) for key, value in read_state_dict(folder / f"{name}.ckpt").items()}
    save_file(
        {**{key: value for key, value in state.items() if key not in drop}, **(add or {})}, out / "model.safetensors"
    )
    return out / "model.safetensors"


@pytest.mark.slow
def test_checkpoints_that_do_not_fit_are_refused(folder, tmp_path):
    def refused(message, change=lambda params: None, **tensors):
        with pytest.raises(UserError, match=message) as error:
            convert(changed(folder, tmp_path, change, **tensors))
        assert "\n" not in str(error.value)

    def unet(**settings):
        return lambda params: params["unet_config"]["params"].update(settings)

    def stage(**settings):
        return lambda params: params["first_stage_config"]["params"].update(settings)

    refused(
        r"the PyU-Net's stages have \[3, 3\] channels, and the first stage's scales \[4, 4\]",
        unet(split_embed_dim_list=[3, 3]),
    )
    refused("num_stage is 3, and only 2 is supported", unet(num_stage=3))
    refused("use_SPADE_norm is False, and only True is supported", unet(use_SPADE_norm=False))
    refused(r"embed_dim \[4, 3\] and z_channels \[4, 4\]", stage(embed_dim=[4, 3]))
    refused(r"n_embed \[64\], and a codebook for each of two scales", stage(n_embed=[64]))
    refused(r"do not fit the first stage.*mis-shaped: first_stage_model.ms_quantize.1", stage(n_embed=[64, 32]))
    refused("scale_factor is .*, and a number other than 0", add={"scale_factor": np.zeros(2, np.float32)})
    refused("1 missing: model.diffusion_model.out.1.2.bias", drop=("model.diffusion_model.out.1.2.bias",))
    refused("1 unexpected names: other", add={"other": np.zeros(2, np.float32)})
    refused(
        "conditioned on layouts, labels or scene graphs",
        add={"cond_stage_model.embedding.weight": np.zeros((3, 20), np.float32)},
    )
    with pytest.raises(UserError, match="no moving average"):
        convert(folder / "frido_small.ckpt", weights="ema")


@pytest.mark.slow
def test_the_number_of_heads_follows_the_program(folder, tmp_path):
    """In its legacy form, the default, the program ignores num_head_channels; the golden output has one head."""
    assert convert(folder / "frido_small.ckpt").config["denoiser"]["num_heads"] == 1
    source = changed(folder, tmp_path, lambda params: params["unet_config"]["params"].update(legacy=False))
    denoiser = convert(source).config["denoiser"]
    assert denoiser["num_head_channels"] == 16 and "num_heads" not in denoiser


def test_a_bundle_names_what_its_stages_need(model, tmp_path):
    config = {**model.config, "autoencoder": {**model.config["autoencoder"], "scale_channels": 3}}
    other = build_autoencoder(config["autoencoder"])
    params = {**model.params, "autoencoder": trees.unflatten(abstract_params(other))}
    with pytest.raises(
        UserError, match=r"2 stages of 4 channels, and its first stage 2 scales of 3; give the first stage"
    ):
        Bundle(config, params)
    with pytest.raises(UserError, match="has a pyunet as its denoiser, and compvis"):
        write_back(str(model.path), "compvis", tmp_path / "out")
