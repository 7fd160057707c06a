import jax
import numpy as np
import pytest

from rdm_jax.conditioning.candidates import Scorer, best_of, ranked
from rdm_jax.conditioning.roles import StyleTokens
from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.vectors import agreement
from rdm_jax.models import build_style_encoder
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors
from tests.helpers import tiny

STYLE_ENCODER = {"image_size": 16, "token_dim": tiny.WIDTH, "widths": [4, 8], "num_groups": 2, "vector_dim": 6}


@pytest.fixture(scope="module")
def model():
    return tiny.bundle(style_encoder=STYLE_ENCODER)


@pytest.fixture(scope="module")
def database(model, tmp_path_factory):
    return Database.open(tiny.database(tmp_path_factory.mktemp("databases"), "squares", model, count=7))


@pytest.fixture(scope="module")
def scorer(model, database):
    return Scorer(ClipEncoder(model), StyleTokens.of(model, [database]))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)


def test_agreement_is_the_mean_cosine():
    generator = np.random.default_rng(1)
    vectors, references = generator.normal(size=(4, 3)), generator.normal(size=(4, 2, 3))
    expected = [
        np.mean([v @ r / np.linalg.norm(v) / np.linalg.norm(r) for r in rs])
        for v, rs in zip(vectors, references, strict=True)
    ]
    np.testing.assert_allclose(agreement(vectors, references), expected)


def test_the_best_of_each_image_is_kept():
    scores, groups = np.array([1.0, 5.0, 3.0, 3.0, 9.0, 0.0]), np.array([7, 2, 7, 7, 2, 4])
    np.testing.assert_array_equal(best_of(scores, groups), [4, 5, 2])


def test_one_candidate_is_kept_as_it_is():
    groups = np.array([0, 1, 2])
    scores = ranked({"style": np.array([0.1, 0.9, 0.5])}, groups)
    np.testing.assert_array_equal(scores, [0, 0, 0])
    np.testing.assert_array_equal(best_of(scores, groups), [0, 1, 2])


def test_measures_count_alike_whatever_their_scale():
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(6), 8)
    style, concept = generator.normal(size=(2, 48))
    scores = ranked({"style": style, "concept": concept}, groups)
    shift = generator.normal(size=6)[groups]
    np.testing.assert_allclose(ranked({"style": 40 * style + shift, "concept": 0.01 * concept}, groups), scores)
    for group in range(6):
        alone = ranked({"style": style}, groups)[groups == group]
        assert alone.std() == pytest.approx(1.0) and alone.mean() == pytest.approx(0.0)
    # Where one measure is the same for all, the other one decides.
    flat = ranked({"style": style, "concept": np.zeros(48)}, groups)
    np.testing.assert_array_equal(best_of(flat, groups), best_of(style, groups))


def test_style_vectors_are_the_style_encoders(scorer, images):
    module = build_style_encoder(STYLE_ENCODER)
    x = np.stack([resize_and_crop(image, 16) for image in images]) / np.float32(127.5) - 1
    _, expected = jax.jit(module.apply)({"params": scorer.style.params}, x)
    np.testing.assert_allclose(scorer.style.vectors(images), expected, atol=1e-5)


def neighbors(database, ids):
    ids = np.array(ids, np.int64)
    embeddings = database.embeddings(ids.reshape(-1)).reshape(*ids.shape, -1)
    return Neighbors(ids, np.zeros(ids.shape, np.float32), embeddings, np.full(ids.shape, database.name))


def test_the_score_is_the_agreement_with_the_prompt_and_with_the_style_neighbors(scorer, database, images):
    ids, groups = [[3, 1], [3, 1], [0, 6], [0, 6], [0, 6]], np.array([0, 0, 1, 1, 1])
    queries = scorer.encoder.encode_texts(["a red boat"] * 2 + ["a blue tree"] * 3)
    thumbnails = scorer.style.vectors(database.thumbnails(np.arange(len(database))))
    expected = ranked(
        {
            "style": agreement(scorer.style.vectors(images), thumbnails[np.array(ids)]),
            "concept": agreement(scorer.encoder.encode_images(images), queries[:, None]),
        },
        groups,
    )
    found = scorer.scores(images, queries, neighbors(database, ids), groups)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_neighbor_itself_is_the_best_candidate_of_its_style(scorer, database):
    shown = database.thumbnails(np.arange(len(database)))
    queries = np.tile(scorer.encoder.encode_texts(["a red boat"]), (len(shown), 1))
    groups = np.zeros(len(shown), np.int64)
    style = {"style": agreement(scorer.style.vectors(shown), scorer.style.vectors(shown)[[4] * len(shown), None])}
    assert best_of(ranked(style, groups), groups) == [4]
    scores = scorer.scores(shown, queries, neighbors(database, [[4]] * len(shown)), groups)
    prompt = scorer.scores(shown, queries, None, groups)
    np.testing.assert_allclose(scores - prompt, ranked(style, groups), atol=1e-4)


def test_a_model_without_a_style_encoder_is_ranked_by_the_prompt(images, database):
    model = tiny.bundle()
    scorer = Scorer(ClipEncoder(model), StyleTokens.of(model, [database]))
    queries = scorer.encoder.encode_texts(["a red boat"] * len(images))
    groups = np.zeros(len(images), np.int64)
    found = scorer.scores(images, queries, neighbors(database, [[0]] * len(images)), groups)
    prompt = agreement(scorer.encoder.encode_images(images), queries[:, None])
    np.testing.assert_allclose(found, ranked({"concept": prompt}, groups), atol=1e-5)
