"""The autoencoder's loss against its definition, and what its terms are for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_float
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import build_autoencoder
from rdm_jax.training.config import load_config
from rdm_jax.training.perceptual import clip_features, open_perceptual
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.autoencoder import (
    AutoencoderTask,
    halved,
    make,
    psnr,
    reconstruction_error,
    structural_similarity,
)
from tests.helpers import tiny

EMPTY = Extras({}, {})
CONFIG = "style_scenes/autoencoder"


@pytest.fixture(scope="module")
def task():
    config = load_config(CONFIG, ("data.size=16", "crop=16", "model.ch=4", "model.ch_mult=[1,1]", "model.num_groups=2"))
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    images = ImageSet(images, [""] * 8, [{}] * 8, np.arange(8), "0" * 64)
    settings = config.model.to_dict()
    return AutoencoderTask(config, images, images, build_autoencoder(settings), settings)


def test_psnr_is_that_of_images_in_eight_bits():
    # One level of 255 off everywhere: 20 log10 255, whatever the range that images are held in.
    np.testing.assert_allclose(psnr(jnp.asarray((2.0 / 255.0) ** 2)), 20.0 * np.log10(255.0), rtol=1e-6)


def test_the_error_is_the_weighted_sum_of_its_parts():
    rng = np.random.default_rng(0)
    one, two = (jnp.asarray(x, jnp.float32) for x in rng.uniform(-1, 1, (2, 2, 5, 6, 3)))
    error, parts = reconstruction_error(one, two, ConfigDict({"squared_weight": 2.0, "edge_weight": 3.0}))
    off = np.asarray(one - two)
    edges = np.abs(off[:, 1:] - off[:, :-1]).mean() + np.abs(off[:, :, 1:] - off[:, :, :-1]).mean()
    np.testing.assert_allclose(parts["edges"], edges, rtol=1e-5)
    np.testing.assert_allclose(error, np.abs(off).mean() + 2.0 * (off**2).mean() + 3.0 * edges, rtol=1e-5)
    # A constant error has no edges: only what is lost in lines and dots counts twice.
    constant, parts = reconstruction_error(two + 0.5, two, ConfigDict({"squared_weight": 0.0, "edge_weight": 3.0}))
    np.testing.assert_allclose(constant, 0.5, rtol=1e-5)


def test_half_a_scale_is_the_mean_of_squares():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    expected = np.asarray(x).reshape(2, 2, 2, 3, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(halved(x), expected, rtol=1e-6)


@pytest.mark.slow
def test_the_loss_holds_every_term_and_half_the_scale_counts_by_its_weight(task):
    params, _ = jax.jit(task.init)(jax.random.key(0))
    batch = {"image": jnp.asarray(task.images.images)}
    key, step = jax.random.key(1), jnp.zeros((), jnp.int32)
    (loss, (parts, _)), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, EMPTY, batch, key, step)
    weights = task.config.loss
    expected = parts["absolute"] + weights.squared_weight * 4.0 / 10 ** (parts["psnr"] / 10)
    expected += weights.edge_weight * parts["edges"] + weights.kl_weight * parts["kl"]
    np.testing.assert_allclose(loss, expected + weights.half_scale_weight * parts["half_scale"], rtol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_features_are_the_unit_tokens_behind_every_block():
    bundle = tiny.bundle()
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    found = np.asarray(jax.jit(clip_features(bundle))(bundle.params["clip"], jnp.asarray(to_float(images))))
    assert found.shape == (3, 1, 1 + 4, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=1e-5)
    # The readout norms the class token of the last block, and a norm does not see length.
    token, vision = found[:, -1, 0], bundle.params["clip"]["vision"]
    token = (token - token.mean(-1, keepdims=True)) / token.std(-1, keepdims=True)
    normed = token * vision["norm_out"]["scale"] + vision["norm_out"]["bias"]
    pixels = (jnp.asarray(images) / 255.0 - 0.5) / 0.25
    encode = jax.jit(lambda p, x: bundle.clip.apply({"params": p}, x, method="encode_image"))
    expected = np.asarray(encode(bundle.params["clip"], pixels))
    np.testing.assert_allclose(normed @ vision["projection"]["kernel"], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_the_distance_of_features_joins_the_loss_by_its_weight(task, tmp_path):
    config = task.config.copy_and_resolve_references()
    config.loss.feature_weight = 0.7
    tiny.bundle().save(tmp_path / "base")
    perceptual = open_perceptual(ConfigDict({"kind": "clip", "bundle": str(tmp_path / "base")}), 16)
    seeing = dataclasses.replace(task, config=config, features=perceptual)
    (params, stats), batch = jax.jit(task.init)(jax.random.key(0)), {"image": jnp.asarray(task.images.images)}
    arguments = params, Extras(stats, seeing.frozen), batch, jax.random.key(1), jnp.zeros((), jnp.int32)
    without, _ = jax.jit(task.loss)(*arguments)
    loss, (parts, _) = jax.jit(seeing.loss)(*arguments)
    assert parts["features"] > 0.0
    np.testing.assert_allclose(loss, without + 0.7 * parts["features"], rtol=1e-5)


def test_features_of_another_size_are_refused(tmp_path):
    tiny.bundle().save(tmp_path / "base")
    config = load_config(CONFIG, ("loss.feature_weight=0.5", f"base={tmp_path / 'base'}", "crop=32"))
    with pytest.raises(UserError, match=r"crop=32: the CLIP of .* takes 16 pixels"):
        make(config, tmp_path, lambda *_: None)


def test_structural_similarity_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1.0, 1.0, (2, 1, 12, 10, 2))
    y = 0.7 * x + 0.3 * y
    found = np.asarray(structural_similarity(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))
    assert found.shape == (1, 6, 4, 2)
    for i, j, c in ((0, 0, 0), (5, 3, 1), (2, 1, 0)):
        a, b = (v[0, i : i + 7, j : j + 7, c].ravel() for v in (x, y))
        cov = np.cov(a, b)
        luminance = (2 * a.mean() * b.mean() + 4e-4) / (a.mean() ** 2 + b.mean() ** 2 + 4e-4)
        expected = luminance * (2 * cov[0, 1] + 3.6e-3) / (cov[0, 0] + cov[1, 1] + 3.6e-3)
        np.testing.assert_allclose(found[0, i, j, c], expected, rtol=1e-4)


def test_structural_similarity_prefers_contrast_where_the_squared_error_prefers_a_pale_one() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-1.0, 1.0, (1, 32, 32, 1)).astype(np.float32)
    # The guess correlates by a half: the squared error is least at half the contrast.
    guess = np.sqrt(0.25) * image + np.sqrt(0.75) * rng.uniform(-1.0, 1.0, image.shape).astype(np.float32)
    contrasts = np.linspace(0.1, 1.5, 29)
    similar = [float(jnp.mean(structural_similarity(jnp.asarray(c * guess), jnp.asarray(image)))) for c in contrasts]
    squared = [float(np.mean((c * guess - image) ** 2)) for c in contrasts]
    assert 0.75 < contrasts[np.argmax(similar)] < 1.1
    assert contrasts[np.argmin(squared)] < 0.6
