"""The vector of a prompt by a translator or a prior: what retrieves, what conditions, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.conditioning.prior import PriorSampler, encode_text, nearest_to, text_tower
from rdm_jax.conditioning.query_vectors import translate
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.generator import Generator
from rdm_jax.models import WordTable
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Retriever
from tests.helpers import tiny

W = tiny.WIDTH
TRANSLATOR = {"embed_dim": W, "width": 8, "hidden": 8, "depth": 1}
PRIOR = {"embed_dim": W, "text_dim": W, "state_dim": 16, "context_length": 8, "width": 16, "depth": 1, "heads": 2}
PROMPTS = ["a red boat", "a blue tree"]


@pytest.fixture(scope="module")
def generator():
    return Generator.load(tiny.bundle(translator=TRANSLATOR, prior=PRIOR))


@pytest.fixture(scope="module")
def database(generator, tmp_path_factory):
    return Database.open(tiny.database(tmp_path_factory.mktemp("databases"), "one", generator.bundle))


def vectors(generator, prompts=PROMPTS, **options):
    """The query vectors of a plan without neighbors."""
    return generator.plan(prompts, condition="text", prior_steps=3, **options).queries


def test_the_vector_of_the_translator_retrieves_and_conditions(generator, database):
    bundle = generator.bundle
    texts = generator.encoder.encode_queries(PROMPTS)
    expected = jax.jit(bundle.translator.apply)({"params": bundle.params["translator"]}, texts)
    plan = generator.plan(PROMPTS, database=database, condition="text+neighbors", query_vector="translator")
    np.testing.assert_allclose(plan.queries, expected, rtol=1e-4, atol=1e-5)
    found = Retriever(generator.encoder, [database]).retrieve(np.asarray(expected), 2)
    np.testing.assert_array_equal(plan.neighbors.ids, found.ids)
    np.testing.assert_allclose(plan.context.given.tokens[:, 0], unit(np.asarray(expected)), rtol=1e-4, atol=1e-5)
    assert np.abs(plan.queries - generator.plan(PROMPTS, database=database).queries).max() > 0.1


def test_negative_prompts_are_translated_as_well_and_images_are_not(generator):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    given = {"condition": "text", "conditions": "negative(prompt='a blue tree')"}
    plan = generator.plan(["a red boat"], images=[image], query_vector="translator", **given)
    bundle = generator.bundle
    other = translate(bundle.translator, bundle.params["translator"], generator.encoder.encode_queries(PROMPTS[1:]))
    np.testing.assert_allclose(plan.context.null.tokens[0, 0], unit(other)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plan.queries[1], generator.encoder.encode_images([image])[0], rtol=1e-4, atol=1e-5)


def test_the_vector_of_the_prior_depends_on_seed_and_text_and_not_on_the_number_of_texts(generator):
    two, own = vectors(generator, query_vector="prior", seed=3), {"query_vector": "prior", "seed": 3}
    np.testing.assert_array_equal(vectors(generator, **own), two)
    np.testing.assert_array_equal(vectors(generator, PROMPTS[1:], **own), two[1:])  # as a replay has it
    many = vectors(generator, [*PROMPTS, *(f"a boat {i}" for i in range(8))], **own)  # of more than one group
    np.testing.assert_array_equal(many[:2], two)
    for other in ({"seed": 4}, {"prior_guidance_scale": 1.0}, {"query_vector": "text"}):
        assert np.abs(vectors(generator, **{**own, **other}) - two).max() > 1e-4  # random weights see little of x


@pytest.mark.slow
def test_the_sample_that_is_kept_is_the_nearest_of_them_to_the_text(generator):
    bundle, encoder = generator.bundle, ClipEncoder(generator.bundle)
    tower, params = text_tower(bundle)
    rows, null = encoder.tokenize(PROMPTS)[0], encoder.tokenize([""])[0][0]
    states = PriorSampler(bundle.prior, bundle.params["prior"], tower, params, null, 3, 1, 4.0, 3)
    best = vectors(generator, query_vector="prior", prior_samples=6, seed=3)
    texts = encoder.encode_queries(PROMPTS)
    one = states(rows)  # the first of the six
    assert (np.sum(unit(best) * unit(texts), axis=1) >= np.sum(unit(one) * unit(texts), axis=1) - 1e-5).all()
    assert np.abs(best - one).max() > 1e-3
    several = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 3)), jnp.float32)
    own = jnp.repeat(jnp.asarray(np.random.default_rng(1).normal(size=(4, 1, 3)), jnp.float32), 5, axis=1)
    cosines = np.sum(unit(np.asarray(several)) * unit(np.asarray(own)), axis=-1)
    np.testing.assert_array_equal(nearest_to(own, several), several[np.arange(4), cosines.argmax(axis=1)])


def test_the_prior_reads_the_vectors_of_the_clip_s_own_text_tower(generator):
    tower, params = text_tower(generator.bundle)
    rows = generator.encoder.tokenize(["a red boat", "boat " * 20])[0]
    text = jax.jit(lambda rows: encode_text(tower, params, rows))(rows)
    np.testing.assert_allclose(text.vector, generator.encoder.encode_texts(["a red boat", "boat " * 20]), atol=1e-5)
    ends = (rows == 1).argmax(axis=1)
    np.testing.assert_array_equal(np.asarray(text.present).sum(axis=1), ends + 1)
    projection = params["projection"]["kernel"]
    np.testing.assert_allclose(np.asarray(text.states)[[0, 1], ends] @ projection, text.vector, rtol=1e-4, atol=1e-5)


def test_a_model_without_the_part_refuses_the_option_in_one_line():
    bare = Generator.load(tiny.bundle())
    for part in ("translator", "prior"):
        with pytest.raises(
            UserError, match=f"query_vector '{part}' needs a part {part}, and model 'tiny' has none; use text, or"
        ):
            bare.plan("a boat", condition="text", query_vector=part)
    with pytest.raises(UserError, match="prior_steps applies to models with a part prior, and this one has none"):
        bare.plan("a boat", condition="text", prior_steps=3)


def test_values_out_of_range_are_refused_and_options_without_effect_named(generator, caplog):
    with pytest.raises(UserError, match=r"unknown query vector 'image' \(known: prior, text, translator\)"):
        vectors(generator, query_vector="image")
    for name, value in (("prior_samples", 0), ("prior_samples", 65), ("prior_guidance_scale", float("nan"))):
        with pytest.raises(UserError, match=f"{name}|guidance scale nan".replace("_", " ")):
            vectors(generator, query_vector="prior", **{name: value})
    vectors(generator, prior_samples=3)
    assert "prior_samples 3 has no effect: the query vector is 'text'" in caplog.text


def test_a_text_tower_without_states_is_refused():
    config = {**tiny.CONFIG, "prior": PRIOR}
    words = {"kind": "table", "vocab_size": 300, "context_length": 8}
    config["clip"] = {**config["clip"], "text": words}
    bundle = tiny.bundle(**config)
    assert isinstance(bundle.clip.text, WordTable)
    with pytest.raises(UserError, match="gives one vector of a text, and a prior reads the states of its tokens"):
        text_tower(bundle)
