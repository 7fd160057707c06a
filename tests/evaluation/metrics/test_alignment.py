import numpy as np

from rdm_jax.evaluation.metrics.alignment import clip_scores, directional_similarity, ranks_among


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
    images, own, gallery = generator.normal(size=(6, 5)), generator.normal(size=(6, 5)), generator.normal(size=(30, 5))
    gallery[3] = own[1]
    names = [f"item {number}" for number in range(30)]
    own_names = ["other", "item 3", *["other"] * 4]

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    expected = []
    for row, (x, w) in enumerate(zip(images, own, strict=True)):
        left_out = 3 if row == 1 else 29
        distractors = np.delete(gallery, left_out, axis=0)
        expected.append(sum(cosine(x, d) > cosine(x, w) for d in distractors))
    found = ranks_among(images, own, gallery, own_names, names)
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected)) > 3


def test_an_item_equal_to_the_true_one_is_not_before_it():
    images, own = np.random.default_rng(1).normal(size=(2, 8, 16))
    found = ranks_among(images, own, np.tile(own, (3, 1)), ["a"] * 8, [f"{number}" for number in range(24)])
    once = ranks_among(images, own, own, ["a"] * 8, [f"{number}" for number in range(8)])
    assert (np.abs(found - 3 * once) <= 2).all()  # the last item is left out: once of three, or once
