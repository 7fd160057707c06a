"""Semantic diffusion guidance: its terms in numpy, independent images, noise from their own keys."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.keys import image_keys, normal
from rdm_jax.guidance.gradient import gradient_guidance
from rdm_jax.guidance.semantic import Reference, Text, gram, renoised, semantic
from tests.helpers.mixture import info_at, mixture

KEYS = image_keys(0, jnp.arange(4))
X = normal(image_keys(1, jnp.arange(4)), (4, 4, 3))
REFERENCE = normal(image_keys(2, jnp.arange(4)), (4, 4, 3))
TEXT = normal(image_keys(3, jnp.arange(4)), (6,))
MIX = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
INFO = info_at(400, KEYS)


def encode(x, t):
    """A vector and two feature maps, of the image and its time."""
    first = jnp.tanh(x @ MIX) * (1.0 + t.reshape(-1, 1, 1, 1) / 1000.0)
    second = first[:, ::2, ::2] ** 2
    return jnp.mean(first, axis=(1, 2)), [first, second]


def by_hand(i):
    """The four terms of image i in numpy."""
    wanted = np.asarray(renoised(REFERENCE, X.shape, INFO))[i]
    t = jnp.full((1,), 400)
    vector, maps = encode(X[i : i + 1], t)
    sought, sought_maps = encode(jnp.asarray(wanted)[None], t)

    def cosine(a, b):
        a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def table(features):
        flat = np.asarray(features, np.float64)[0].reshape(-1, features.shape[-1])
        return flat.T @ flat / len(flat)

    def share(a, b):
        return np.linalg.norm(a - b) ** 2 / np.linalg.norm(b) ** 2

    pairs = list(zip(maps, sought_maps, strict=True))
    structure = -sum(share(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)
    style = -sum(share(table(a), table(b)) for a, b in pairs)
    return [cosine(vector, TEXT[i]), cosine(vector, sought), structure, style]


@pytest.mark.slow
def test_the_terms_are_those_of_the_paper():
    expected = np.array([by_hand(i) for i in range(4)])
    alone = [
        semantic(encode, [Text(TEXT, 1.0)]),
        semantic(encode, [Reference(REFERENCE, content=1.0)]),
        semantic(encode, [Reference(REFERENCE, structure=1.0)]),
        semantic(encode, [Reference(REFERENCE, style=1.0)]),
    ]
    for column, one in enumerate(alone):
        np.testing.assert_allclose(one.measure(X, INFO), expected[:, column], rtol=1e-4)
    weights = np.array([2.0, -1.0, 0.5, 3.0])
    whole = semantic(encode, [Text(TEXT, 2.0), Reference(REFERENCE, content=-1.0, structure=0.5, style=3.0)])
    np.testing.assert_allclose(whole.measure(X, INFO), expected @ weights, rtol=1e-4)


def test_the_similarity_of_the_noised_reference_itself_is_one():
    same = renoised(REFERENCE, X.shape, INFO)
    values = semantic(encode, [Reference(REFERENCE, content=1.0, structure=1.0, style=1.0)]).measure(same, INFO)
    np.testing.assert_allclose(values, 1.0, atol=1e-6)


def test_images_are_independent_and_have_noise_of_their_own():
    # The released code's Gram matrices mix the batch.
    guide = gradient_guidance([semantic(encode, [Text(TEXT, 5.0), Reference(REFERENCE, 5.0, 5.0, 5.0)])])
    together = jax.jit(guide(mixture))(X, INFO)

    @jax.jit
    def guided(x, text, reference, keys):
        guide = gradient_guidance([semantic(encode, [Text(text, 5.0), Reference(reference, 5.0, 5.0, 5.0)])])
        return guide(mixture)(x, dataclasses.replace(INFO, keys=keys))

    for i in (0, 3):
        alone = guided(*(value[i : i + 1] for value in (X, TEXT, REFERENCE, KEYS)))
        np.testing.assert_allclose(alone.eps[0], together.eps[i], rtol=1e-4, atol=1e-5)
    assert gram(encode(X, jnp.full(4, 400))[1][0]).shape == (4, 6, 6)


@pytest.mark.slow
def test_weights_of_images_mix_modes_in_one_batch():
    off = jnp.array([0.0, 1.0, 0.0, 1.0])
    guided = gradient_guidance([semantic(encode, [Text(TEXT, off)])])(mixture)(X, INFO)
    plain, full = mixture(X, INFO), gradient_guidance([semantic(encode, [Text(TEXT, 1.0)])])(mixture)(X, INFO)
    np.testing.assert_allclose(guided.eps[::2], plain.eps[::2], atol=1e-6)
    np.testing.assert_allclose(guided.eps[1::2], full.eps[1::2], atol=1e-6)


@pytest.mark.slow
def test_a_step_along_the_gradient_increases_every_term():
    for one in (
        semantic(encode, [Text(TEXT, 1.0)]),
        semantic(encode, [Reference(REFERENCE, content=1.0)]),
        semantic(encode, [Reference(REFERENCE, structure=1.0)]),
        semantic(encode, [Reference(REFERENCE, style=1.0)]),
    ):
        slope = jax.grad(lambda x, one=one: one.measure(x, INFO).sum())(X)
        assert (one.measure(X + 0.05 * slope, INFO) > one.measure(X, INFO)).all()


def test_a_reference_needs_keys():
    with pytest.raises(ValueError, match="give the plan its keys"):
        semantic(encode, [Reference(REFERENCE, 1.0)]).measure(X, info_at(400))


def test_all_terms_share_one_evaluation_of_the_encoder_on_x_t():
    calls = []

    def counted(x, t):
        calls.append(x.shape)
        return encode(x, t)

    terms = [Text(TEXT, 1.0), Text(-TEXT, 0.5), Reference(REFERENCE, 1.0), Reference(-REFERENCE, 0.0, 2.0, 3.0)]
    together = gradient_guidance([semantic(counted, terms)])(mixture)(X, INFO)
    assert len(calls) == 3  # x_t, and each reference
    apart = gradient_guidance([semantic(encode, [term]) for term in terms])(mixture)(X, INFO)
    np.testing.assert_allclose(together.eps, apart.eps, rtol=1e-4, atol=1e-5)
