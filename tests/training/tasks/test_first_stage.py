"""The published recipe of first stages: who learns from which term, and when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import build_autoencoder
from rdm_jax.models.autoencoder import split_moments
from rdm_jax.models.discriminator import PatchDiscriminator
from rdm_jax.training import adversarial
from rdm_jax.training.perceptual import open_perceptual
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.first_stage import FirstStageTask, entropy_loss
from tests.helpers import frido, vit_vq

SHARED = {"ch": 4, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 16, "z_channels": 2}
SETTINGS = {
    "kl": {"kind": "kl", "embed_dim": 2, "num_groups": 2, **SHARED},
    "vq": {"kind": "vq", "embed_dim": 2, "num_groups": 2, "num_codes": 8, **SHARED},
    "vit_vq": {**vit_vq.TINY, "num_codes": 8},
    "multi_scale_vq": {**frido.FIRST_STAGE, "ch": 4, "shared_ch": 4},
}


def task_of(kind, start=0):
    loss = {
        "absolute_weight": 1.0,
        "squared_weight": 0.0,
        "kl_weight": 1e-6,
        "codebook_weight": 1.0,
        "entropy_weight": 0.0,
        "perceptual": {"kind": "clip", "bundle": "", "weight": 0.0},
        "adversarial": {"weight": 0.5, "adaptive": True, "start": start, "layers": 1},
    }
    config = ConfigDict({"crop": 16, "loss": loss, "data": {"size": 16}})
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    images = ImageSet(images, [""] * 4, [{}] * 4, np.arange(4), "0" * 64)
    settings, discriminator = SETTINGS[kind], PatchDiscriminator(ch=4, num_layers=1)
    return FirstStageTask(config, images, images, build_autoencoder(settings), settings, None, discriminator)


def ready(task):
    params, stats = jax.jit(task.init)(jax.random.key(0))
    return params, Extras(stats, {}), {"image": jnp.asarray(task.images.images)}, jax.random.key(1)


def norms(grads):
    return {part: float(np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(grads[part])))) for part in grads}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq", "vit_vq", "multi_scale_vq"])
def test_until_it_starts_the_discriminator_neither_learns_nor_teaches(kind):
    task = task_of(kind, start=5)
    params, extras, batch, key = ready(task)
    grad = jax.jit(jax.grad(task.loss, has_aux=True))
    before, (parts, _) = grad(params, extras, batch, key, jnp.asarray(4))
    after, _ = grad(params, extras, batch, key, jnp.asarray(5))
    assert norms(before)["discriminator"] == 0.0 < norms(after)["discriminator"]
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), before["autoencoder"], after["autoencoder"])
    assert max(jax.tree.leaves(moved)) > 0.0
    assert np.isfinite(list(map(float, parts.values()))).all()


@pytest.mark.slow
def test_each_network_learns_from_its_own_terms_alone():
    task = task_of("kl")
    discriminator = task.discriminator
    assert discriminator is not None
    params, extras, batch, key = ready(task)
    grads, (parts, stats) = jax.jit(jax.grad(task.loss, has_aux=True))(params, extras, batch, key, jnp.asarray(0))

    def autoencoder_terms(own):
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        moments = task.module.apply({"params": own}, image, method="encode")
        mean, logvar = split_moments(moments)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        output = task.module.apply({"params": own}, z, method="decode")
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1.0 - logvar) / 4
        fake, _ = discriminator.apply(
            {"params": params["discriminator"], "batch_stats": extras.stats},
            output,
            train=True,
            mutable=["batch_stats"],
        )
        nll = jnp.sum(jnp.abs(output - image)) / 4
        return nll + 1e-6 * kl - 0.5 * parts["adaptive_weight"] * jnp.mean(fake), (output, image)

    expected, (output, image) = jax.jit(jax.grad(autoencoder_terms, has_aux=True))(params["autoencoder"])
    for name, leaf in expected["decoder"]["conv_out"].items():
        np.testing.assert_allclose(grads["autoencoder"]["decoder"]["conv_out"][name], leaf, rtol=2e-3, atol=1e-3)

    def discriminator_terms(own):
        real, one = discriminator.apply(
            {"params": own, "batch_stats": extras.stats}, image, train=True, mutable=["batch_stats"]
        )
        fake, two = discriminator.apply(
            {"params": own, "batch_stats": one["batch_stats"]}, output, train=True, mutable=["batch_stats"]
        )
        return 0.5 * jnp.mean(jax.nn.relu(1 - real)) + 0.5 * jnp.mean(jax.nn.relu(1 + fake)), two["batch_stats"]

    expected, means = jax.jit(jax.grad(discriminator_terms, has_aux=True))(params["discriminator"])
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(grads["discriminator"]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    for one, other in zip(jax.tree.leaves(means), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_adaptive_weight_makes_both_pulls_on_the_last_kernel_equal():
    task = task_of("vq")
    params, extras, batch, key = ready(task)
    _, (parts, _) = jax.jit(task.loss)(params, extras, batch, key, jnp.asarray(0))
    image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
    z, _, _ = jax.jit(task._latents)(params["autoencoder"], image, key)
    kernel = params["autoencoder"]["decoder"]["conv_out"]["kernel"]

    def output(kernel):
        decoder = params["autoencoder"]["decoder"]
        swapped = {**decoder, "conv_out": {**decoder["conv_out"], "kernel": kernel}}
        return task._decode({**params["autoencoder"], "decoder": swapped}, z)

    def compared(kernel):
        return adversarial.generator_loss(task._discriminate(params["discriminator"], extras.stats, output(kernel))[0])

    def differs(kernel):
        return jnp.mean(jnp.abs(output(kernel) - image))

    pulls = [jnp.linalg.norm(jax.jit(jax.grad(term))(kernel)) for term in (differs, compared)]
    assert float(parts["adaptive_weight"]) == pytest.approx(float(pulls[0] / (pulls[1] + 1e-4)), rel=1e-3)
    assert 1.0 <= float(parts["codes_used"]) <= 8.0


def test_the_average_and_the_export_hold_the_autoencoder_alone():
    task = task_of("kl")
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert list(task.averaged(params)) == ["autoencoder"]


@pytest.mark.slow
def test_without_an_adaptive_weight_the_discriminator_counts_as_it_is():
    task = task_of("vit_vq")
    task.config.unlock().loss.update({"absolute_weight": 0.0, "squared_weight": 0.25})
    task.config.loss.adversarial.adaptive = False
    params, extras, batch, key = ready(task)
    loss, (parts, _) = jax.jit(task.loss)(params, extras, batch, key, jnp.asarray(0))
    expected = 0.25 * parts["squared"] + parts["quantization"] + 0.5 * parts["generator"] + parts["discriminator"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5) and float(parts["adaptive_weight"]) == 1.0


@pytest.mark.slow
def test_without_a_discriminator_the_loss_has_the_other_terms():
    with_one, without = task_of("vq"), dataclasses.replace(task_of("vq"), discriminator=None)
    without.config.unlock().loss.entropy_weight = 0.5
    params, extras, batch, key = ready(without)
    assert list(params) == ["autoencoder"] and extras.stats == {}
    loss, (parts, stats) = jax.jit(without.loss)(params, extras, batch, key, jnp.asarray(0))
    expected = parts["absolute"] + parts["quantization"] + 0.5 * parts["entropy"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5) and stats == {}
    assert list(jax.eval_shape(with_one.init, jax.random.key(0))[0]) == ["autoencoder", "discriminator"]


def test_the_entropy_term_is_lowest_where_all_codes_are_used_equally():
    own = 1.0 - jnp.eye(4)  # each latent on a code of its own
    assert float(entropy_loss(own)) == pytest.approx(-np.log(4), abs=1e-5)
    assert float(entropy_loss(jnp.zeros((4, 4)))) == pytest.approx(0.0, abs=1e-5)  # near all codes alike
    assert float(entropy_loss(own[:1].repeat(4, axis=0))) == pytest.approx(0.0, abs=1e-5)  # one code for all


@pytest.mark.slow
def test_a_codebook_is_initialized_within_its_bound():
    image = jnp.zeros((1, 2, 2, 3))
    for bound, largest in ((0.0, 1 / 8), (2.0, 2.0)):
        module = build_autoencoder({**SETTINGS["vq"], "codebook_bound": bound})
        codebook = np.abs(jax.jit(module.init)(jax.random.key(0), image)["params"]["codebook"])
        assert 0.5 * largest < codebook.max() <= largest


def test_missing_weights_of_the_perceptual_distance_name_the_command_that_makes_them():
    with pytest.raises(UserError, match=r"rdm convert vgg\.pth --vgg vgg16\.pth --out runs/lpips"):
        open_perceptual(ConfigDict({"kind": "lpips", "bundle": "", "weight": 1.0}), 16)
    with pytest.raises(UserError, match="unknown perceptual distance 'lpip'; did you mean 'lpips'"):
        open_perceptual(ConfigDict({"kind": "lpip", "bundle": "", "weight": 1.0}), 16)


@pytest.mark.slow
def test_a_perceptual_distance_joins_the_error_by_its_weight():
    task = task_of("kl")
    params, extras, batch, key = ready(task)
    from rdm_jax.training.perceptual import Perceptual

    seeing = dataclasses.replace(
        task, features=Perceptual({}, lambda params, x, y: jnp.mean((x - y) ** 2, axis=(1, 2, 3)))
    )
    config = task.config.copy_and_resolve_references()
    config.loss.perceptual.weight = 2.0
    seeing = dataclasses.replace(seeing, config=config)
    _, (plain, _) = jax.jit(task.loss)(params, extras, batch, key, jnp.asarray(0))
    _, (parts, _) = jax.jit(seeing.loss)(params, extras, batch, key, jnp.asarray(0))
    np.testing.assert_allclose(parts["nll"], plain["nll"] + 2.0 * parts["perceptual"] * 16 * 16 * 3, rtol=1e-5)
