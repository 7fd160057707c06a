import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics.alignment import clip_scores, directional_similarity, retrieval_accuracy


def test_the_clip_score_is_the_cosine_of_each_pair():
    images, texts = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]]), np.array([[1.0, 0.0], [0.0, 5.0], [0.0, -1.0]])
    np.testing.assert_allclose(clip_scores(images, texts), [1.0, np.sqrt(0.5), -1.0])


def test_the_direction_is_that_of_unit_vectors():
    source, text = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    image, source_text = np.array([[0.0, 4.0]]), np.array([[3.0, 0.0]])
    np.testing.assert_allclose(directional_similarity(image, source, text, source_text), [1.0])
    np.testing.assert_allclose(directional_similarity(image, source, source_text, text), [-1.0])
    np.testing.assert_allclose(directional_similarity(source, source, text, source_text), [0.0])


def test_retrieval_counts_the_distractors_before_the_true_item():
    generator = np.random.default_rng(0)
    images, wanted = generator.normal(size=(6, 5)), generator.normal(size=(6, 5))
    distractors = generator.normal(size=(30, 5))
    found = retrieval_accuracy(images, wanted, distractors)

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    ranks = [sum(cosine(x, d) > cosine(x, w) for d in distractors) for x, w in zip(images, wanted, strict=True)]
    np.testing.assert_array_equal(found.ranks, ranks)
    assert found.gallery == 31
    np.testing.assert_array_equal(found.at(5), np.array(ranks) < 5)


def test_a_distractor_equal_to_the_true_item_does_not_count():
    images, wanted = np.random.default_rng(1).normal(size=(2, 8, 16))
    found = retrieval_accuracy(images, wanted, np.tile(wanted, (3, 1)), places=(1,))
    exact = retrieval_accuracy(images, wanted, wanted, places=(1,))
    np.testing.assert_array_equal(found.ranks, 3 * exact.ranks)


def test_the_gallery_must_be_larger_than_k():
    rows = np.ones((2, 3))
    with pytest.raises(UserError, match="more than 20 items, and there are 19"):
        retrieval_accuracy(rows, rows, np.ones((19, 3)))
