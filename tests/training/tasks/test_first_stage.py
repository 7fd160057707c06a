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
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.first_stage import FirstStageTask

SHARED = {"ch": 4, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 16, "z_channels": 2}
SETTINGS = {
    "kl": {"kind": "kl", "embed_dim": 2, "num_groups": 2, **SHARED},
    "vq": {"kind": "vq", "embed_dim": 2, "num_groups": 2, "num_codes": 8, **SHARED},
}


def task_of(kind, start=0):
    loss = {
        "kl_weight": 1e-6,
        "codebook_weight": 1.0,
        "perceptual": {"kind": "clip", "bundle": "", "weight": 0.0},
        "adversarial": {"weight": 0.5, "start": start, "layers": 1},
    }
    config = ConfigDict({"crop": 16, "loss": loss, "data": {"size": 16}})
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    pictures = ImageSet(images, [""] * 4, [{}] * 4, np.arange(4), "0" * 64)
    settings, judge = SETTINGS[kind], PatchDiscriminator(ch=4, num_layers=1)
    return FirstStageTask(config, pictures, pictures, build_autoencoder(settings), settings, None, judge)


def ready(task):
    params, stats = jax.jit(task.init)(jax.random.key(0))
    return params, Held(stats, {}), {"image": jnp.asarray(task.pictures.images)}, jax.random.key(1)


def norms(grads):
    return {part: float(np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(grads[part])))) for part in grads}


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_until_it_starts_the_discriminator_neither_learns_nor_teaches(kind):
    task = task_of(kind, start=5)
    params, held, batch, key = ready(task)
    grad = jax.jit(jax.grad(task.loss, has_aux=True))
    before, (parts, _) = grad(params, held, batch, key, jnp.asarray(4))
    after, _ = grad(params, held, batch, key, jnp.asarray(5))
    assert norms(before)["discriminator"] == 0.0 < norms(after)["discriminator"]
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), before["autoencoder"], after["autoencoder"])
    assert max(jax.tree.leaves(moved)) > 0.0
    assert np.isfinite(list(map(float, parts.values()))).all()


def test_each_network_learns_from_its_own_terms_alone():
    task = task_of("kl")
    params, held, batch, key = ready(task)
    grads, (parts, stats) = jax.jit(jax.grad(task.loss, has_aux=True))(params, held, batch, key, jnp.asarray(0))

    def autoencoder_terms(own):
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        moments = task.module.apply({"params": own}, image, method="encode")
        mean, logvar = split_moments(moments)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        output = task.module.apply({"params": own}, z, method="decode")
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1.0 - logvar) / 4
        fake, _ = task.discriminator.apply(
            {"params": params["discriminator"], "batch_stats": held.stats}, output, train=True, mutable=["batch_stats"]
        )
        nll = jnp.sum(jnp.abs(output - image)) / 4
        return nll + 1e-6 * kl - 0.5 * parts["adaptive_weight"] * jnp.mean(fake), (output, image)

    expected, (output, image) = jax.jit(jax.grad(autoencoder_terms, has_aux=True))(params["autoencoder"])
    for name, leaf in expected["decoder"]["conv_out"].items():
        np.testing.assert_allclose(grads["autoencoder"]["decoder"]["conv_out"][name], leaf, rtol=2e-3, atol=1e-3)

    def judge_terms(own):
        real, one = task.discriminator.apply(
            {"params": own, "batch_stats": held.stats}, image, train=True, mutable=["batch_stats"]
        )
        fake, two = task.discriminator.apply(
            {"params": own, "batch_stats": one["batch_stats"]}, output, train=True, mutable=["batch_stats"]
        )
        return 0.5 * jnp.mean(jax.nn.relu(1 - real)) + 0.5 * jnp.mean(jax.nn.relu(1 + fake)), two["batch_stats"]

    expected, means = jax.jit(jax.grad(judge_terms, has_aux=True))(params["discriminator"])
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(grads["discriminator"]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    for one, other in zip(jax.tree.leaves(means), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_adaptive_weight_makes_both_pulls_on_the_last_kernel_equal():
    task = task_of("vq")
    params, held, batch, key = ready(task)
    _, (parts, _) = jax.jit(task.loss)(params, held, batch, key, jnp.asarray(0))
    image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
    z, _, _ = jax.jit(task._latents)(params["autoencoder"], image, key)
    kernel = params["autoencoder"]["decoder"]["conv_out"]["kernel"]

    def output(kernel):
        decoder = params["autoencoder"]["decoder"]
        swapped = {**decoder, "conv_out": {**decoder["conv_out"], "kernel": kernel}}
        return task._decode({**params["autoencoder"], "decoder": swapped}, z)

    def judged(kernel):
        return adversarial.generator_loss(task._judge(params["discriminator"], held.stats, output(kernel))[0])

    def differs(kernel):
        return jnp.mean(jnp.abs(output(kernel) - image))

    pulls = [jnp.linalg.norm(jax.jit(jax.grad(term))(kernel)) for term in (differs, judged)]
    assert float(parts["adaptive_weight"]) == pytest.approx(float(pulls[0] / (pulls[1] + 1e-4)), rel=1e-3)
    assert 1.0 <= float(parts["codes_used"]) <= 8.0


def test_the_average_and_the_export_hold_the_autoencoder_alone():
    task = task_of("kl")
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert list(task.averaged(params)) == ["autoencoder"]


def test_missing_weights_of_the_perceptual_distance_name_the_command_that_makes_them():
    with pytest.raises(UserError, match=r"rdm convert vgg\.pth --vgg vgg16\.pth --out runs/lpips"):
        open_perceptual(ConfigDict({"kind": "lpips", "bundle": "", "weight": 1.0}), 16)
    with pytest.raises(UserError, match="unknown perceptual distance 'lpip'; did you mean 'lpips'"):
        open_perceptual(ConfigDict({"kind": "lpip", "bundle": "", "weight": 1.0}), 16)


def test_a_perceptual_distance_joins_the_error_by_its_weight():
    task = task_of("kl")
    params, held, batch, key = ready(task)
    from rdm_jax.training.perceptual import Perceptual

    seeing = dataclasses.replace(
        task, features=Perceptual({}, lambda params, x, y: jnp.mean((x - y) ** 2, axis=(1, 2, 3)))
    )
    config = task.config.copy_and_resolve_references()
    config.loss.perceptual.weight = 2.0
    seeing = dataclasses.replace(seeing, config=config)
    _, (plain, _) = jax.jit(task.loss)(params, held, batch, key, jnp.asarray(0))
    _, (parts, _) = jax.jit(seeing.loss)(params, held, batch, key, jnp.asarray(0))
    np.testing.assert_allclose(parts["nll"], plain["nll"] + 2.0 * parts["perceptual"] * 16 * 16 * 3, rtol=1e-5)
