"""Codes from the tokens of a text and from neighbors: one attention, cached decoding, candidates, records, errors."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.conditioning.candidates import agreement
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.heads.autoregressive import decoding
from rdm_jax.heads.autoregressive.sampling import Sampling
from rdm_jax.models.condition import Condition, ImageTokens
from tests.helpers import parti, tiny


@pytest.fixture(scope="module")
def bundle():
    return parti.bundle()


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle)


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    return tiny.database(tmp_path_factory.mktemp("databases"), "squares", bundle)


@pytest.fixture(scope="module")
def logits(bundle):
    module, params = bundle.transformer, bundle.params["transformer"]
    return jax.jit(lambda codes, condition: module.apply({"params": params}, codes, condition))


def arrays(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


CODES = jnp.asarray(np.random.default_rng(9).integers(0, parti.CODES, (2, parti.TOKENS)), jnp.int32)


@pytest.mark.slow
def test_neighbors_are_further_tokens_of_the_one_attention(logits):
    text, images = arrays(0, 2, 5, parti.WIDTH), arrays(1, 2, 1, 3, parti.WIDTH)

    def beside(scale, weights=None):
        return logits(CODES, Condition(text, images=ImageTokens(images, jnp.full((2, 1), scale), weights)))

    joined = jnp.concatenate([text, images[:, 0]], axis=1)
    np.testing.assert_allclose(beside(1.0), logits(CODES, Condition(joined)), atol=1e-5)
    np.testing.assert_allclose(beside(0.0), logits(CODES, Condition(text)), atol=1e-5)
    twice = jnp.concatenate([joined, images[:, 0]], axis=1)
    np.testing.assert_allclose(beside(2.0), logits(CODES, Condition(twice)), atol=1e-5)
    first = jnp.concatenate([text, images[:, 0, :1]], axis=1)
    only = jnp.asarray([[[1.0, 0.0, 0.0]]] * 2)
    np.testing.assert_allclose(beside(1.0, only), logits(CODES, Condition(first)), atol=1e-5)
    assert np.abs(beside(1.0) - beside(0.0)).max() > 1e-2


def test_cached_decoding_gives_the_logits_of_one_pass(bundle, logits):
    """Greedy codes, one after another, are the most probable ones given all before them in one pass."""
    module, params = bundle.transformer, bundle.params["transformer"]
    images = ImageTokens(arrays(1, 2, 1, 3, parti.WIDTH), jnp.ones((2, 1)))
    condition, sampling = Condition(arrays(0, 2, 5, parti.WIDTH), images=images), Sampling(top_k=1)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def run(condition):
        carry = decoding.start(module, params, condition)
        return decoding.advance(module, params, carry, keys, sampling, 0, parti.TOKENS).codes

    codes = run(condition)
    np.testing.assert_array_equal(codes, np.argmax(logits(codes, condition), axis=-1))
    assert len(np.unique(codes)) > 1


@pytest.mark.slow
def test_a_prompt_and_a_database_both_change_the_image_and_the_scale_weighs_the_neighbors(generator, folder):
    def sample(prompt="a red boat", **options):
        return generator.sample(prompt, seed=3, **options).images.astype(int)

    with_both, text = sample(database=folder), sample(condition="text")
    assert with_both.shape == (1, 16, 16, 3)
    assert np.abs(with_both - text).max() > 2
    assert np.abs(sample("a blue tree", condition="text") - text).max() > 2
    assert np.abs(sample(database=folder, adapter_scale=0.0) - text).max() <= 2
    alone = sample(database=folder, condition="neighbors")
    assert np.abs(alone - with_both).max() > 2
    assert np.abs(sample(database=folder, conditions=("weights(of_neighbors=0)",)) - text).max() <= 2


def test_the_null_condition_is_the_empty_text_without_neighbors(generator, folder):
    plan = generator.plan("a red boat", database=folder)
    null = plan.context.null
    empty = generator.plan("a red boat", database=folder, condition="neighbors").context.given
    np.testing.assert_allclose(null.tokens, empty.tokens, atol=1e-6)
    assert np.abs(plan.context.given.tokens - empty.tokens).max() > 1e-2
    np.testing.assert_array_equal(null.images.scales, 0.0)
    np.testing.assert_array_equal(plan.context.given.images.scales, 1.0)


@pytest.mark.slow
def test_the_candidate_nearest_to_the_prompt_is_kept(generator):
    options = {"condition": "text", "num_images": 2, "seed": 1, "batch_size": 6}
    kept = generator.sample("a red boat", candidates=3, **options)
    plan = generator.plan("a red boat", **options)
    many = [index + 2**24 * turn for index in plan.indices for turn in range(3)]
    every = dataclasses.replace(plan, indices=many, rows=[0] * 6)
    (all_of_them,) = list(generator.generate(every))
    cosines = agreement(generator.encoder.encode_images(all_of_them.images), all_of_them.queries[:, None])
    assert len(set(cosines.round(6))) > 1
    for number, image in enumerate(kept.images):
        best = 3 * number + int(np.argmax(cosines[3 * number :][:3]))
        np.testing.assert_array_equal(image, all_of_them.images[best])


@pytest.mark.slow
def test_an_image_is_replayed_from_its_record(bundle, tmp_path, capsys):
    bundle.save(tmp_path / "model", dtype="float32")
    stored = tiny.database(tmp_path, "squares", Bundle.open(tmp_path / "model"))
    options = ["--model", str(tmp_path / "model"), "--database", str(stored), "--seed", "4", "--candidates", "2"]
    options += ["--adapter-scale", "0.5", "--temperature", "0.8", "--top-k", "6"]
    assert main(["sample", "a red boat", *options, "--out", str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "00000-4.png"
    again = tmp_path / "again.png"
    places = ["--model", str(tmp_path / "model"), "--database", str(stored)]
    assert main(["replay", str(file), *places, "--out", str(again)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(again)))
    assert main(["sample", "a red boat", *options, "--steps", "8", "--out", str(tmp_path / "no")]) == 2
    assert "steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transformer": {**parti.CONFIG["transformer"], "num_codes": 10}},
            "predicts 10 codes, and its first stage has 12",
        ),
        (
            {"text_encoder": {**parti.CONFIG["text_encoder"], "width": 8}},
            "the text_encoder of model 'parti' makes tokens of 8 numbers, and its transformer takes 12; give the parts",
        ),
        (
            {"image_adapter": {**parti.CONFIG["image_adapter"], "token_dim": 8}},
            "the image_adapter of model 'parti' makes tokens of 8 numbers, and its transformer takes 12",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        parti.bundle(**changes)


def test_what_cannot_be_sampled_is_refused_in_one_line(generator, folder):
    with pytest.raises(UserError, match="size 24x16 is not possible: this model generates 32 tokens, images of 16x16"):
        generator.sample("a red boat", condition="text", width=24)
    with pytest.raises(UserError, match="adapter_blocks style: every block of model 'parti' attends to neighbors"):
        generator.sample("a red boat", database=folder, adapter_blocks="style")


@pytest.mark.slow
def test_a_model_without_a_projection_takes_no_neighbors(folder):
    generator = Generator.load(parti.bundle(image_adapter=None))
    assert generator.sample("a red boat", condition="text").images.shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="model 'parti' takes no neighbors; use --condition text without a database"):
        generator.sample("a red boat", database=folder, condition="text+neighbors")


def test_masked_codes_take_no_residual_first_stage():
    transformer = {**parti.CONFIG["transformer"], "causal": False}
    sampling = {"condition": "text", "steps": 4, "height": 16, "width": 16}
    bundle = parti.bundle(transformer=transformer, head="masked", sampling=sampling)
    with pytest.raises(
        UserError, match="has 2 codes for each latent, and the head 'masked' predicts one; use the head"
    ):
        Generator.load(bundle).sample("a red boat")


def test_tokens_out_of_range_and_another_first_stage_are_refused(bundle):
    short = parti.bundle(text_encoder={**parti.CONFIG["text_encoder"], "vocab_size": 20})
    with pytest.raises(
        UserError, match=r"the tokenizer of model 'parti' has .* tokens, and its text encoder 20; export"
    ):
        Generator.load(short).sample("a red boat", condition="text")
    plain = {**bundle.config["autoencoder"], "levels": 1}
    with pytest.raises(
        UserError, match="has 32 positions, and they are not the codes of a square of latents with 1 code"
    ):
        Bundle({**bundle.config, "autoencoder": plain}, bundle.params, bundle.tokenizer)
