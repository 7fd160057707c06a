"""Networks on noisy latents: their inputs, that they are trained, and that their bundle opens again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_float
from rdm_jax.data.image_set import LazyImages, load_images
from rdm_jax.data.sources import open_source
from rdm_jax.diffusion.schedule import signal_noise
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import complete_config
from rdm_jax.training.latents import encode_moments, latent_statistics
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import make_task
from rdm_jax.training.tasks.noised import noised_latents
from tests.helpers import tiny

MODEL = {
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "num_groups": 4,
    "num_head_channels": 8,
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function of a task's name that returns it, on two hundred images lit from one side and a tiny model."""
    root = tmp_path_factory.mktemp("noised")
    generator = np.random.default_rng(0)
    for side, lit in (("left", slice(0, 8)), ("right", slice(8, 16))):
        (root / "images" / side).mkdir(parents=True)
        for i in range(100):
            pixels = generator.normal(60, 20, (16, 16, 3))
            pixels[:, lit] += 130
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / side / f"{i:03d}.png")
    model, images = tiny.bundle(), load_images(open_source(str(root / "images")), 16, root / "cache")
    quant = model.params["autoencoder"]["quant"]
    quant["kernel"], quant["bias"] = np.array(quant["kernel"]), np.array(quant["bias"])
    quant["kernel"][:, 2:], quant["bias"][2:] = 0.0, -10.0  # random weights would drown images in their own variance
    latents = latent_statistics(encode_moments(model, images, root / "cache", lambda *_: None))
    Bundle({**model.config, "latents": latents}, model.params, model.tokenizer).save(root / "model", "float32")

    def make(task: str, **changes):
        source = {"source": str(root / "images"), "split": "", "held_out": "", "data_dir": str(root), "size": 16}
        settings = {"task": task, "name": "noised", "base": str(root / "model"), "steps": 1, "batch_size": 8}
        settings |= {"data": source | changes, "model": MODEL}
        settings |= {"attributes": ("folder",)} if task == "noised_classifier" else {}
        return make_task(complete_config(settings), root, lambda *_: None)

    return make


def batch_of(task, rows):
    records = [task.read(row, np.random.default_rng(row)) for row in rows]
    return {name: jnp.asarray(np.stack([record[name] for record in records])) for name in records[0]}


def test_what_is_read_is_noised_by_the_model_s_own_schedule(make):
    task = make("noised_clip")
    batch = batch_of(task, range(8))
    x, t = noised_latents(task.latents, task.schedule, {}, batch, jax.random.key(0))
    posterior, noise, _ = jax.random.split(jax.random.key(0), 3)
    x0 = task.latents.x0({}, batch, posterior)
    alpha, sigma = (np.asarray(v)[:, None, None, None] for v in signal_noise(task.schedule, t))
    expected = alpha * np.asarray(x0) + sigma * np.asarray(jax.random.normal(noise, x0.shape))
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    assert len(set(np.asarray(t).tolist())) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noised_clip", "noised_classifier"])
def test_it_learns_evaluates_and_its_bundle_opens_again(make, name, tmp_path):
    task = make(name)
    params, stats = jax.jit(task.init)(jax.random.key(0))
    tx = optax.adam(3e-3)
    batch, extras = batch_of(task, range(0, task.size, 4)), Extras(stats, task.frozen)

    @jax.jit
    def step(params, opt_state, key):
        grad = jax.value_and_grad(task.loss, has_aux=True)
        (loss, _), grads = grad(params, extras, batch, key, jnp.zeros((), jnp.int32))
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = tx.init(params), []
    for i in range(60):
        params, opt_state, loss = step(params, opt_state, jax.random.key(i))
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    values = dict(task.evaluate(params))
    assert values == dict(task.evaluate(params)) and all(np.isfinite(value) for value in values.values())
    if name == "noised_classifier":
        seen = dict(dataclasses.replace(task, held_out=task.latents, held_out_classes=task.classes).evaluate(params))
        assert seen["accuracy_0/folder"] > 0.75 > seen["accuracy_3/folder"]  # the lit side drowns in the noise
    task.export(jax.device_get(params)).save(tmp_path / "model", "float32")
    bundle = Bundle.open(tmp_path / "model")
    module = getattr(bundle, name)
    x, t = jnp.ones((2, *task.latents.shape)), jnp.array([3, 700])
    expected = jax.jit(task.module.apply)({"params": params[name]}, x, t)
    found = jax.jit(module.apply)({"params": bundle.params[name]}, x, t)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_latents_are_those_of_the_images_that_are_learned_from(make):
    # The fixture has cached those of all images before: some are kept for evaluation, and the others move up.
    task = make("noised_clip")
    for latents in (task.latents, task.held_out):
        encode = jax.jit(lambda p, x: task.base.autoencoder.apply({"params": p}, x, method="encode"))
        expected = encode(task.base.params["autoencoder"], to_float(np.asarray(latents.images.images)))
        assert len(latents.moments) == len(latents.images)
        np.testing.assert_allclose(latents.moments, expected, rtol=2e-2, atol=2e-2)  # stored in float16


def test_the_clean_vectors_are_those_of_the_frozen_tower(make):
    task = make("noised_clip")
    images = task.latents.images.images[:3]
    expected = ClipEncoder(task.base).encode_images(np.asarray(images))
    np.testing.assert_allclose(batch_of(task, range(3))["vector"], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_images_encoded_in_every_step_give_the_latents_of_those_encoded_ahead(make):
    ahead, now = make("noised_classifier"), make("noised_classifier", cache_latents=False)
    assert "moments" in batch_of(ahead, [0]) and "image" in batch_of(now, [0]) and now.frozen
    one = ahead.latents.x0({}, batch_of(ahead, range(4)), jax.random.key(5))
    other = now.latents.x0(now.frozen, batch_of(now, range(4)), jax.random.key(5))
    np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2)  # the moments were stored in float16


def test_images_decoded_every_time_are_those_of_the_cache(make):
    cached, streamed = make("noised_classifier"), make("noised_classifier", cache=False)
    np.testing.assert_array_equal(cached.latents.images.images[:5], streamed.latents.images.images[:5])
    np.testing.assert_array_equal(
        cached.latents.images.images[3, 2:9, 1:7], streamed.latents.images.images[3, 2:9, 1:7]
    )
    assert isinstance(streamed.latents.images.images, LazyImages)  # the held-out ones were taken out of them undecoded
    assert cached.names == streamed.names == {"folder": ["left", "right"]}


def test_a_model_without_a_unet_is_refused(make, tmp_path):
    whole = tiny.bundle()
    config = {key: whole.config[key] for key in ("schema", "name", "clip")}
    Bundle(config, {"clip": whole.params["clip"]}, whole.tokenizer).save(tmp_path / "clip")
    with pytest.raises(UserError, match="autoencoder"):
        settings = {"task": "noised_clip", "base": str(tmp_path / "clip"), "steps": 1, "batch_size": 8, "model": MODEL}
        make_task(complete_config(settings), tmp_path, lambda *_: None)
