"""Queries of several terms, against their closed form."""

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.query import mixed_query
from tests.retrieval.conftest import noise, unit


def test_one_text_is_its_vector_at_length_1(encoder):
    np.testing.assert_allclose(mixed_query(encoder, ["a"]), unit(encoder.encode_texts(["a"])), atol=1e-6)


def test_a_query_is_the_weighted_sum_of_its_terms(encoder):
    images = noise(2)
    texts = unit(encoder.encode_texts(["a", "b", "no", "never"]))
    seen = unit(encoder.encode_images(images))
    expected = texts[0] + texts[1] - 0.3 * (texts[2] + texts[3]) + 1.7 * (seen[0] + seen[1])
    query = mixed_query(encoder, ["a", "b"], images, ["no", "never"], image_weight=1.7, negative_weight=0.3)
    np.testing.assert_allclose(query, unit(expected[None]), atol=1e-6)
    assert query.dtype == np.float32 and query.shape == (1, 24)


def test_the_lengths_of_vectors_have_no_effect(encoder):
    class Longer(type(encoder)):
        def encode_images(self, images):
            return 1000 * super().encode_images(images)

    images = noise(1)
    np.testing.assert_allclose(mixed_query(Longer(), ["a"], images), mixed_query(encoder, ["a"], images), atol=1e-6)


def test_the_order_of_texts_has_no_effect_and_a_weight_of_0_omits_a_term(encoder):
    np.testing.assert_allclose(mixed_query(encoder, ["a", "b"]), mixed_query(encoder, ["b", "a"]), atol=1e-6)
    without = mixed_query(encoder, ["a"], noise(1), ["b"], image_weight=0.0, negative_weight=0.0)
    np.testing.assert_allclose(without, mixed_query(encoder, ["a"]), atol=1e-6)


def test_neighbors_move_away_from_a_negative_text(encoder, database):
    from rdm_jax.retrieval.retriever import Retriever

    retriever, no = Retriever(encoder, [database]), unit(encoder.encode_texts(["no"]))[0]
    near = [
        unit(retriever.retrieve(mixed_query(encoder, ["a"], negatives=["no"], negative_weight=w), 20).embeddings[0])
        for w in (0.0, 0.5, 1.0, 4.0)
    ]
    likeness = [float((rows @ no).mean()) for rows in near]
    assert likeness == sorted(likeness, reverse=True) and likeness[0] > likeness[-1] + 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the query is empty; give a text or an image"),
        ({"negatives": ["no"]}, "the query is empty"),
        ({"texts": ["a"], "image_weight": -1.0}, "image weight -1.0 is out of range"),
        ({"texts": ["a"], "negative_weight": float("nan")}, "negative weight nan is out of range"),
        ({"texts": ["a"], "negative_weight": float("inf")}, "negative weight inf is out of range"),
        ({"texts": ["a"], "negatives": ["a"], "negative_weight": 1.0}, "cancel each other out"),
    ],
)
def test_queries_without_a_direction_are_refused(encoder, arguments, message):
    with pytest.raises(UserError, match=message):
        mixed_query(encoder, **arguments)
