import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax

from rdm_jax.bundle import Bundle
from rdm_jax.data.tokenizer import load_tokenizer, train_tokenizer
from rdm_jax.training.config import load_config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import clip
from rdm_jax.training.tasks.clip import (
    contrastive_loss,
    crop_and_flip,
    disjoint_patches,
    linear_probe,
    neighbor_agreement,
)

CONFIG = "style_scenes/clip"
SMALL = (
    "data.split=",
    "data.held_out=",
    "data.size=16",
    "tokenizer.vocab_size=300",
    "model.embed_dim=8",
    "model.vision.width=16",
    "model.vision.layers=1",
    "model.vision.heads=2",
    "model.vision.patch_size=4",
    "model.vision.image_size=16",
    "model.text.width=16",
    "model.text.layers=1",
    "model.text.heads=2",
    "shift=0",
)


@pytest.fixture
def make(tmp_path):
    """A function of overrides that returns the task on forty random images of 16 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"a red boat {i}.png")

    def make(*overrides: str, start: Bundle | None = None) -> clip.ClipTask:
        places = (f"data.source={folder}", f"data.data_dir={tmp_path / 'data'}")
        return clip.make(load_config(CONFIG, (*SMALL, *places, *overrides)), tmp_path, lambda *_: None, start)

    return make


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


@pytest.mark.slow
def test_images_that_share_a_caption_are_no_negatives_of_each_other() -> None:
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
    images = jnp.arange(2 * 8 * 8 * 3, dtype=jnp.float32).reshape(2, 8, 8, 3)
    moved = crop_and_flip(images, jax.random.key(0), 2)
    assert moved.shape == images.shape
    for before, after in zip(np.asarray(images), np.asarray(moved), strict=True):
        assert set(after.reshape(-1, 3)[:, 0]) <= set(before.reshape(-1, 3)[:, 0])
    np.testing.assert_array_equal(
        np.sort(np.asarray(crop_and_flip(images, jax.random.key(1), 0)).ravel()),
        np.sort(np.asarray(images).ravel()),
    )


def test_neighbor_agreement_of_separated_clusters_is_one() -> None:
    centers = np.eye(4)[np.repeat(np.arange(4), 6)]
    vectors = centers + 0.01 * np.random.default_rng(0).normal(size=centers.shape)
    labels = [{"style": str(i // 6)} for i in range(24)]
    assert dict(neighbor_agreement(vectors, labels)) == {"neighbor_style": 1.0}


def test_a_linear_probe_finds_a_direction_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 12))
    labels = [
        {"side": str(v[0] > 0), "coin": str(coin)} for v, coin in zip(vectors, rng.integers(0, 2, 4000), strict=True)
    ]
    found = dict(linear_probe(vectors, labels))
    assert found["probe_side"] > 0.95
    assert abs(found["probe_coin"] - 0.5) < 0.05


def test_shares_of_patches_are_disjoint_and_differ_between_images() -> None:
    first, second = disjoint_patches(jax.random.key(0), 5, 16, 2)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second], axis=1)), np.tile(np.arange(16), (5, 1)))
    assert len({tuple(row) for row in np.asarray(first)}) == 5
    assert [share.shape for share in disjoint_patches(jax.random.key(0), 5, 17, 3)] == [(5, 5)] * 3


@pytest.mark.slow
def test_a_view_knows_nothing_of_the_other_view_s_patches(make) -> None:
    task = make()
    params, _ = jax.jit(task.init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    pixels = jnp.asarray(rng.normal(size=(3, 16, 16, 3)), jnp.float32)
    first, second = (np.asarray(share) for share in disjoint_patches(jax.random.key(2), 3, 16, 2))
    changed = np.array(pixels)
    for image, patches in enumerate(second):
        for row, column in zip(*np.divmod(patches, 4), strict=True):
            changed[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.0

    encode = jax.jit(
        lambda x, kept: task.module.apply({"params": params["clip"]}, x, kept, method="encode_image"),
    )
    np.testing.assert_allclose(encode(changed, first), encode(pixels, first), rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(encode(changed, second)) - np.asarray(encode(pixels, second))).max() > 1e-3
    whole = np.tile(np.arange(16), (3, 1))
    np.testing.assert_allclose(
        encode(pixels, whole),
        task.module.apply({"params": params["clip"]}, pixels, method="encode_image"),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_the_loss_of_one_view_is_that_of_the_paper_and_views_add_theirs(make) -> None:
    batch = {"image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))}
    one, two, both = (make(f"views={v}", f"image_weight={w}") for v, w in ((1, 0.0), (2, 0.0), (2, 0.7)))
    batch["tokens"] = jnp.asarray(one.tokens[:6])
    params, _ = jax.jit(one.init)(jax.random.key(0))
    np.testing.assert_allclose(np.exp(params["clip"]["logit_scale"]), 40.0, rtol=1e-5)
    key, step = jax.random.key(1), jnp.zeros((), jnp.int32)
    extras = Extras({}, {})
    loss, (metrics, _) = jax.jit(one.loss)(params, extras, batch, key, step)
    flipped = crop_and_flip(batch["image"] / 255.0, jax.random.split(key)[0], 0)
    image, text, scale = jax.jit(one.module.apply)({"params": params["clip"]}, (flipped - 0.5) / 0.25, batch["tokens"])
    np.testing.assert_allclose(loss, contrastive_loss(image, text, scale, batch["tokens"]), rtol=1e-4)
    assert 0.0 <= float(metrics["accuracy"]) <= 1.0
    captions, _ = jax.jit(two.loss)(params, extras, batch, key, step)
    all_, (parts, _) = jax.jit(both.loss)(params, extras, batch, key, step)
    np.testing.assert_allclose(all_, captions + 0.7 * parts["views"], rtol=1e-5)


def test_a_run_that_starts_from_a_bundle_keeps_its_tokenizer(make, tmp_path) -> None:
    train_tokenizer(["a red boat", "a red cat"], 264, tmp_path / "other.json")
    other = load_tokenizer(tmp_path / "other.json")
    start, vocabulary = Bundle({"name": "other"}, {}, other), other.get_vocab()
    assert make().tokenizer.get_vocab() != vocabulary
    (tmp_path / "tokenizer.json").unlink()
    assert make(start=start).tokenizer.get_vocab() == vocabulary
    # A run that continues keeps its own.
    assert make().tokenizer.get_vocab() == vocabulary
    assert make().settings["text"]["vocab_size"] == len(vocabulary)
