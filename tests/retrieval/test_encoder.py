import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import load_tokenizer, train_tokenizer
from rdm_jax.models import build_clip
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.query import mixed_query

CAPTIONS = ["a red cat on a house", "two blue dogs under a tree", "the green boat"]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    file = Path(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"
    train_tokenizer(CAPTIONS, 300, file)
    tokenizer = load_tokenizer(file)
    text = {"width": 16, "layers": 1, "heads": 2, "context_length": 10, "vocab_size": len(tokenizer)}
    text["eos_id"] = tokenizer.eos_token_id
    vision = {"kind": "vit", "width": 16, "layers": 1, "heads": 2, "patch_size": 8, "image_size": 16}
    config = {"embed_dim": 12, "vision": vision, "text": text}
    clip = build_clip(config)
    pixels, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 10), jnp.int32)
    params = jax.jit(clip.init)(jax.random.key(0), pixels, tokens)["params"]
    return Bundle({"name": "tiny", "clip": {**config, "mean": MEAN, "std": STD}}, {"clip": params}, tokenizer)


def random_images(count, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_images_are_normalized_and_projected_by_the_clip(bundle):
    images = random_images(3)
    pixels = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    apply = jax.jit(lambda params, x: bundle.clip.apply({"params": params}, x, method="encode_image"))
    expected = apply(bundle.params["clip"], jnp.asarray(pixels))
    np.testing.assert_allclose(ClipEncoder(bundle).encode_images(images), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 64])
def test_results_do_not_depend_on_batches(bundle, batch_size):
    encoder = ClipEncoder(bundle, batch_size=batch_size)
    images = random_images(19)
    expected = encoder.encode_images(images)
    assert expected.shape == (19, 12) and expected.dtype == np.float32
    np.testing.assert_allclose(
        np.concatenate([encoder.encode_images(images[i : i + 1]) for i in range(19)]), expected, atol=1e-5
    )
    texts = [f"{caption} {i}" for i in range(7) for caption in CAPTIONS]
    expected = encoder.encode_texts(texts)
    np.testing.assert_allclose(np.concatenate([encoder.encode_texts([text]) for text in texts]), expected, atol=1e-5)
    assert encoder.encode_texts([]).shape == encoder.encode_images([]).shape == (0, 12)


def test_other_sizes_are_resized_and_cropped(bundle):
    image = np.full((40, 24, 3), 200, np.uint8)
    image[:4] = image[-4:] = 0
    encoder = ClipEncoder(bundle)
    flat = np.full((16, 16, 3), 200, np.uint8)
    np.testing.assert_allclose(encoder.encode_images([image]), encoder.encode_images([flat]), atol=1e-4)


def test_tokens_are_those_of_training(bundle):
    texts = [*CAPTIONS, "", "A  Red\tCAT", " ".join(["cat"] * 40)]
    expected = bundle.tokenizer(texts, truncation=True, max_length=10, padding="max_length")["input_ids"]
    tokens, _ = ClipEncoder(bundle).tokenize(texts)
    np.testing.assert_array_equal(tokens, expected)
    assert tokens.dtype == np.int32 and (tokens == bundle.tokenizer.eos_token_id).any(axis=1).all()


def test_the_truncated_tail_is_returned(bundle):
    long = "a red cat on a house a red cat on a House, and a boat"
    _, tails = ClipEncoder(bundle).tokenize(["a red cat", long])
    assert tails[0] == "" and tails[1] and long.endswith(tails[1])
    truncated = long[: -len(tails[1])].strip()
    vectors = ClipEncoder(bundle).encode_texts([long, truncated])
    np.testing.assert_array_equal(vectors[0], vectors[1])


LONG = "a red cat on a house under a tree and a green boat"


@pytest.fixture
def warned(caplog):
    """The function that returns the warnings since it was called last."""

    def lines():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    with caplog.at_level(logging.WARNING, "rdm_jax"):
        yield lines


def test_every_text_that_is_cut_is_named_with_its_tail(bundle, warned):
    encoder = ClipEncoder(bundle)
    encoder.encode_texts(["a red cat", LONG, f"the {LONG}", LONG])
    first, second = warned()
    tail = encoder.tokenize([LONG])[1][0]
    assert repr(LONG) in first and first.endswith(repr(tail)) and repr(f"the {LONG}") in second
    assert len(warned()) == 1
    mixed_query(encoder, ["a red cat"], negatives=[LONG])
    assert len(warned()) == 1


def test_many_texts_that_are_cut_have_one_line(bundle, warned):
    encoder = ClipEncoder(bundle)
    texts = [f"{LONG} {number}" for number in range(40)]
    vectors = list(encoder.encode_texts_in_chunks([*texts, "a red cat"], 8))
    (line,) = warned()
    assert "40 of 41 texts" in line and repr(texts[0]) in line
    np.testing.assert_allclose(np.concatenate(vectors), encoder.encode_texts([*texts, "a red cat"]), atol=1e-5)
    assert [len(part) for part in vectors] == [8] * 5 + [1] and len(warned()) == 1


def test_a_word_that_is_unknown_is_named_with_the_nearest_known_ones(bundle, warned):
    encoder = ClipEncoder(bundle)
    encoder.encode_texts(["a red goat", "a red cat", "it is"])
    (line,) = warned()
    assert "'goat'" in line and line.endswith(": boat")
    encoder.encode_texts(["the zyx"])
    (line,) = warned()
    assert "'zyx'" in line and line.endswith("in pieces")
    encoder.encode_texts([f"word{chr(97 + number)}" for number in range(20)])
    (line,) = warned()
    assert "20 words of 20 texts" in line and "'worda'" in line


def test_words_that_are_cut_off_are_not_named_as_unknown(bundle, warned):
    ClipEncoder(bundle).encode_texts([f"{LONG} zeppelin"])
    (line,) = warned()
    assert "cut off" in line


def test_a_text_that_is_no_unicode_is_refused(bundle):
    with pytest.raises(UserError, match="no valid Unicode at character 3"):
        ClipEncoder(bundle).encode_texts(["a \udcff"])


def test_the_identity_is_that_of_the_weights(bundle):
    identity = ClipEncoder(bundle).identity
    assert identity["name"] == "tiny" and identity["width"] == 12 and len(identity["sha256"]) == 64
    changed = jax.tree.map(lambda leaf: leaf + np.float32(1e-3), bundle.params["clip"])
    other = Bundle(bundle.config, {"clip": changed}, bundle.tokenizer)
    assert ClipEncoder(other).identity["sha256"] != identity["sha256"]


def test_a_bundle_without_clip_or_tokenizer_is_refused(bundle):
    with pytest.raises(UserError, match="clip"):
        ClipEncoder(Bundle({"name": "half"}, {}))
    with pytest.raises(UserError, match="has no tokenizer"):
        ClipEncoder(Bundle(bundle.config, bundle.params)).encode_texts(["a"])
