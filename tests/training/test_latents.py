"""The scale and the shift of latents, for every kind of first stage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet
from rdm_jax.training.latents import latent_statistics, open_latents
from tests.helpers import tiny


def _latents(count, channels, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(generator.normal(size=channels), 3.0, (count, 4, 4, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_latents_without_a_distribution_have_mean_zero_and_variance_one_in_the_end(channels):
    latents = _latents(50, channels)
    scaling = latent_statistics(latents, gaussian=False)
    scaled = (latents - np.asarray(scaling["shift"], np.float32)) * scaling["scale"]
    assert len(scaling["shift"]) == channels
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0.0, atol=1e-5)
    assert scaled.var() == pytest.approx(1.0, abs=1e-4)


def test_latents_that_are_sampled_have_it_too():
    mean, logvar = _latents(4000, 2), np.full((4000, 4, 4, 2), np.log(4.0), np.float32)
    scaling = latent_statistics(np.concatenate([mean, logvar], axis=-1))
    sampled = mean + 2.0 * np.random.default_rng(1).normal(size=mean.shape)
    scaled = (sampled - scaling["shift"]) * scaling["scale"]
    assert len(scaling["shift"]) == 2 and scaled.var() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_latents_that_no_scale_fits_are_refused(value):
    with np.errstate(invalid="ignore"), pytest.raises(UserError, match=r"no scale makes it 1; .* latents\.scale"):
        latent_statistics(np.full((3, 2, 2, 4), value, np.float16), gaussian=False)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("kind", "channels"), [("kl", 2), ("vq", 3), ("vq", 4)])
def test_a_run_measures_the_latents_that_its_first_stage_gives(tmp_path, kind, channels, cached):
    stage = {**tiny.CONFIG["autoencoder"], "kind": kind, "z_channels": channels, "embed_dim": channels}
    stage |= {"num_codes": 8} if kind == "vq" else {}
    base = Bundle(
        {"name": "stage", "autoencoder": stage},
        {"autoencoder": tiny.random_params({"autoencoder": stage}, "autoencoder")},
    )
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    images = ImageSet(pixels, [""] * 40, [{}] * 40, np.arange(40), "0" * 64)
    data = {"cache_latents": cached, "data_dir": str(tmp_path), "mirror": False}
    config = ConfigDict({"latents": {}, "data": data})
    latents = open_latents(base, images, config, lambda *_: None)
    field = "moments" if cached else "image"
    batch = {field: jnp.asarray(np.stack([latents.read(row, np.random.default_rng(row))[field] for row in range(40)]))}
    x0 = np.asarray(latents.x0(latents.frozen, batch, jax.random.key(0)))
    assert len(latents.scaling["shift"]) == x0.shape[-1] == channels
    np.testing.assert_allclose(x0.mean(axis=(0, 1, 2)), 0.0, atol=0.1)
    assert x0.var() == pytest.approx(1.0, abs=0.1)
