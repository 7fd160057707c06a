import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from rdm_jax.training.tasks.clip import contrastive_loss, crop_and_flip, neighbour_agreement


def test_contrastive_loss_is_symmetric_cross_entropy() -> None:
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(2, 5, 8))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, text)]
    logits = 7.0 * unit[0] @ unit[1].T
    expected = -0.5 * np.mean(np.diag(log_softmax(logits, 1)) + np.diag(log_softmax(logits, 0)))
    actual = contrastive_loss(
        jnp.asarray(image, jnp.float32), jnp.asarray(text, jnp.float32), jnp.float32(7.0), jnp.arange(5)[:, None]
    )
    np.testing.assert_allclose(float(actual), expected, rtol=1e-5)


def test_pictures_that_share_a_caption_are_no_negatives_of_each_other() -> None:
    generator = np.random.default_rng(0)
    image, text = (jnp.asarray(v, jnp.float32) for v in generator.normal(size=(2, 3, 8)))
    image, text = image.at[1].set(image[0]), text.at[1].set(text[0])
    tokens = jnp.asarray([[1, 2], [1, 2], [1, 3]])
    apart = contrastive_loss(image, text, jnp.float32(5.0), tokens)
    # Each of the twins then stands against the third alone.
    once = contrastive_loss(image[1:], text[1:], jnp.float32(5.0), tokens[1:])
    first = image[0] / jnp.linalg.norm(image[0])
    third = image[2] / jnp.linalg.norm(image[2])
    t0, t2 = text[0] / jnp.linalg.norm(text[0]), text[2] / jnp.linalg.norm(text[2])
    twin = (
        0.5 * (jnp.logaddexp(5 * first @ t0, 5 * first @ t2) + jnp.logaddexp(5 * first @ t0, 5 * third @ t0))
        - 5 * first @ t0
    )
    others = (
        0.5
        * (
            jax.nn.logsumexp(5 * jnp.stack([third @ t0, third @ t0, third @ t2]))
            + jax.nn.logsumexp(5 * jnp.stack([first @ t2, first @ t2, third @ t2]))
        )
        - 5 * third @ t2
    )
    np.testing.assert_allclose(float(apart), float((2 * twin + others) / 3), rtol=1e-5)
    assert np.isfinite(float(once))


def test_shift_and_flip_move_pixels_and_make_none() -> None:
    pictures = jnp.arange(2 * 8 * 8 * 3, dtype=jnp.float32).reshape(2, 8, 8, 3)
    moved = crop_and_flip(pictures, jax.random.key(0), 2)
    assert moved.shape == pictures.shape
    for before, after in zip(np.asarray(pictures), np.asarray(moved), strict=True):
        assert set(after.reshape(-1, 3)[:, 0]) <= set(before.reshape(-1, 3)[:, 0])
    np.testing.assert_array_equal(
        np.sort(np.asarray(crop_and_flip(pictures, jax.random.key(1), 0)).ravel()),
        np.sort(np.asarray(pictures).ravel()),
    )


def test_neighbour_agreement_of_separated_clusters_is_one() -> None:
    centres = np.eye(4)[np.repeat(np.arange(4), 6)]
    vectors = centres + 0.01 * np.random.default_rng(0).normal(size=centres.shape)
    labels = [{"style": str(i // 6)} for i in range(24)]
    assert dict(neighbour_agreement(vectors, labels)) == {"neighbour_style": 1.0}
