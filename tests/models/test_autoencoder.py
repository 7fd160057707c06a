"""The autoencoders' sizes and closed forms; tests/convert compares their outputs with the originals'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models import AutoencoderKL, AutoencoderVQ, build_autoencoder
from rdm_jax.models.autoencoder import kl_divergence, sample_moments, split_moments

TINY = {
    "ch": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 16,
    "z_channels": 2,
    "embed_dim": 3,
    "num_groups": 4,
}


@pytest.mark.parametrize(("kind", "cls", "channels"), [("kl", AutoencoderKL, 6), ("vq", AutoencoderVQ, 3)])
def test_sizes_and_errors(random_params, kind, cls, channels):
    config = {**TINY, "kind": kind} | ({"num_codes": 5} if kind == "vq" else {})
    autoencoder = build_autoencoder(config)
    assert isinstance(autoencoder, cls) and autoencoder.downsampling == 2
    image = jnp.zeros((2, 6, 10, 3))
    params = random_params(autoencoder, image)
    decoded = jax.eval_shape(autoencoder.apply, params, image)
    assert decoded.shape == image.shape and decoded.dtype == image.dtype
    latent = jax.eval_shape(lambda: autoencoder.apply(params, image, method="encode"))
    assert latent.shape == (2, 3, 5, channels) and latent.dtype == image.dtype
    with pytest.raises(UserError, match="image size 6x9 is not allowed; height and width must be multiples of 2"):
        autoencoder.apply(params, image[:, :, :9], method="encode")


def test_attention_is_at_the_configured_resolution():
    autoencoder = build_autoencoder({**TINY, "kind": "kl"})
    params = jax.eval_shape(autoencoder.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    attended = {name for name in (*params["encoder"], *params["decoder"]) if "attn" in name}
    assert attended == {"down_1_attn_0", "mid_attn_1", "up_1_attn_0", "up_1_attn_1"}


def test_moments_follow_their_closed_forms():
    rng = np.random.default_rng(0)
    mean, logvar, noise = rng.normal(size=(3, 2, 4, 4, 3)).astype(np.float32)
    moments = jnp.concatenate([mean, logvar], axis=-1)
    np.testing.assert_allclose(
        sample_moments(moments, jnp.asarray(noise)), mean + np.exp(logvar / 2) * noise, rtol=1e-5
    )
    expected = (0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(kl_divergence(moments), expected, rtol=1e-5)
    np.testing.assert_array_equal(kl_divergence(jnp.zeros((2, 4, 4, 6))), np.zeros(2))
    _, clipped = split_moments(jnp.full((1, 1, 1, 2), 100.0))
    assert clipped == 20.0
    _, clipped = split_moments(jnp.full((1, 1, 1, 2), -100.0))
    assert clipped == -30.0


@pytest.mark.parametrize(("legacy", "weights"), [(True, (1.0, 0.25)), (False, (0.25, 1.0))])
def test_quantization_takes_the_nearest_code(legacy, weights):
    autoencoder = build_autoencoder({**TINY, "kind": "vq", "num_codes": 7, "legacy": legacy})
    rng = np.random.default_rng(0)
    codebook, h = (rng.normal(size=s).astype(np.float32) for s in ((7, 3), (2, 4, 5, 3)))
    nearest = ((h[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)

    def quantize(codebook, h):
        return autoencoder.apply({"params": {"codebook": codebook}}, h, method="quantize")

    codes, indices, loss = quantize(jnp.asarray(codebook), jnp.asarray(h))
    np.testing.assert_array_equal(indices, nearest)
    np.testing.assert_allclose(codes, codebook[nearest], atol=1e-6)
    gap = ((h - codebook[nearest]) ** 2).mean()
    np.testing.assert_allclose(loss, 1.25 * gap, rtol=1e-5)
    to_codes, to_h = jax.grad(lambda c, h: quantize(c, h)[2], (0, 1))(jnp.asarray(codebook), jnp.asarray(h))
    np.testing.assert_allclose(to_h, weights[0] * 2 * (h - codebook[nearest]) / h.size, atol=1e-6)
    summed = np.zeros_like(codebook)
    np.add.at(summed, nearest, 2 * (codebook[nearest] - h) / h.size)
    np.testing.assert_allclose(to_codes, weights[1] * summed, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda h: quantize(jnp.asarray(codebook), h)[0].sum())(jnp.asarray(h)), 1.0)


def test_configurations_are_checked():
    with pytest.raises(UserError, match="unknown autoencoder kind 'kll'; did you mean 'kl'"):
        build_autoencoder({**TINY, "kind": "kll"})
    with pytest.raises(UserError, match="unknown autoencoder setting 'num_codes'"):
        build_autoencoder({**TINY, "kind": "kl", "num_codes": 5})
