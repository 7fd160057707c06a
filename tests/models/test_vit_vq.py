"""The ViT-VQGAN's codes: nearest by the cosine, and of a residual quantizer each nearer to the latent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.factory import code_count, codes_decoder_from, codes_encoder_from
from rdm_jax.models import build_autoencoder
from tests.helpers import tiny
from tests.helpers.vit_vq import TINY


def ready(levels):
    config = {"autoencoder": {**TINY, "levels": levels}}
    return build_autoencoder(config["autoencoder"]), tiny.random_params(config, "autoencoder")


def latents(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal((*shape, TINY["embed_dim"])), jnp.float32)


def test_codes_are_the_nearest_by_the_cosine_whatever_the_lengths():
    module, params = ready(1)
    h = latents(2, 3, 3)
    run = jax.jit(lambda params, h: module.apply({"params": params}, h, method="quantize"))
    codes, indices, loss = run(params, h)
    unit = [np.asarray(one) / np.linalg.norm(one, axis=-1, keepdims=True) for one in (h, params["codebook"])]
    np.testing.assert_array_equal(indices, np.argmax(unit[0] @ unit[1].T, axis=-1))
    np.testing.assert_allclose(codes, unit[1][np.asarray(indices)], rtol=1e-5, atol=1e-6)
    assert float(loss) == pytest.approx(1.25 * np.mean((unit[0] - unit[1][np.asarray(indices)]) ** 2), rel=1e-5)
    longer = {**params, "codebook": 7.0 * params["codebook"]}
    again = run(longer, 0.1 * h)
    np.testing.assert_array_equal(again[1], indices)
    assert float(again[2]) == pytest.approx(float(loss), rel=1e-5)
    zero = run(params, jnp.zeros((1, 1, 1, TINY["embed_dim"])))
    assert np.isfinite(zero[0]).all() and np.isfinite(zero[2])


def test_each_level_of_a_residual_quantizer_takes_the_code_nearest_to_the_rest():
    module, params = ready(3)
    h = latents(2, 2, 2)
    codes, indices, _ = jax.jit(lambda h: module.apply({"params": params}, h, method="quantize"))(h)
    assert indices.shape == (2, 2, 2, 3)
    table = np.asarray(params["codebook"]) / np.linalg.norm(params["codebook"], axis=1, keepdims=True)
    rest, total = np.asarray(h, np.float64), np.zeros(h.shape)
    for level in range(3):
        cosine = rest @ table.T
        np.testing.assert_array_equal(indices[..., level], np.argmax(cosine, axis=-1))
        own = table[np.asarray(indices)[..., level]]
        rest, total = rest - own, total + own
    np.testing.assert_allclose(codes, total, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 2])
def test_images_are_decoded_from_their_codes(levels):
    module, params = ready(levels)
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    codes = jax.jit(codes_encoder_from(module))(params, images)
    assert codes.shape == (2, 16 * levels) == (2, code_count(module, (4, 4)))
    assert module.code_shape == ((levels,) if levels > 1 else ())
    decoded = jax.jit(codes_decoder_from(module, (4, 4)))(params, codes)
    direct = jax.jit(lambda x: module.apply({"params": params}, x))(images)
    assert decoded.shape == images.shape
    np.testing.assert_allclose(decoded, direct, rtol=1e-4, atol=1e-5)


def test_sizes():
    module, params = ready(1)
    assert (module.downsampling, module.embed_dim, module.encoded, module.scales) == (4, 4, 1, 1)
    wide = jnp.zeros((1, 8, 24, 3))
    assert jax.eval_shape(lambda: module.apply({"params": params}, wide)).shape == wide.shape
    for setting, message in (
        ({"patch_size": 3}, "patch_size=3 does not divide resolution=16"),
        ({"decoder_width": 10}, "decoder_width=10 is not a multiple of 4"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(build_autoencoder({**TINY, **setting}).init, jax.random.key(0), wide)
    with pytest.raises(UserError, match="image size 8x22 is not allowed; height and width must be multiples of 4"):
        module.apply({"params": params}, wide[:, :, :22], method="encode")


def test_the_straight_through_gradient_is_that_of_the_latent_as_it_is():
    module, params = ready(1)
    h = latents(1, 2, 2)
    weights = latents(1, 2, 2) * 2.0

    def passed(h):
        return jnp.sum(weights * module.apply({"params": params}, h, method="quantize")[0])

    np.testing.assert_allclose(jax.jit(jax.grad(passed))(h), weights, rtol=1e-6)
