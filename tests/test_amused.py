"""aMUSEd from its folder to images: prompts as sequences with a vector, micro-conditions, sizes, edits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning import Negative
from rdm_jax.convert.conversion import convert
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.guidance import Outpaint
from rdm_jax.heads.masked.program import conditions_of
from rdm_jax.models import TextStates, TextTransformer
from tests.helpers import amused

SMALL = {"height": 64, "width": 64, "steps": 2}


@pytest.fixture(scope="module")
def generator(golden, tmp_path_factory):
    root = tmp_path_factory.mktemp("amused")
    conversion = convert(amused.write_folder(golden, root / "amused"))
    assert conversion.kind == "aMUSEd pipeline"
    conversion.write(root / "model")
    return Generator.load(Bundle.open(root / "model"))


def test_the_bundle_follows_the_original_program(generator):
    config = generator.bundle.config
    assert (config["head"], config["transformer"]["kind"]) == ("masked", "amused")
    sampling = config["sampling"]
    assert (sampling["steps"], sampling["guidance_scale"], sampling["choice_temperature"]) == (12, 10.0, 2.0)
    assert (sampling["mask_schedule"], sampling["height"], sampling["width"]) == ("linear", 64, 64)
    assert config["conditioning"]["micro_conditions"] == [0.0, 0.0, 6.0]


def test_the_text_encoder_reads_states_before_the_last_block_and_clips_vector(generator):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 531, (2, 77)), jnp.int32)
    params = amused.text_params()
    states, pooled = jax.jit(generator.bundle.text_encoder.apply)(
        {"params": generator.bundle.params["text_encoder"]}, tokens
    )
    vector = TextTransformer(**amused.TEXT, embed_dim=24)
    np.testing.assert_allclose(pooled, jax.jit(vector.apply)({"params": params}, tokens), rtol=1e-4, atol=1e-5)
    fewer = TextStates(**{**amused.TEXT, "layers": 1})
    kept = {name: leaf for name, leaf in params.items() if name not in ("block_1", "projection")}
    normed = jax.jit(fewer.apply)({"params": kept}, tokens)
    centered = np.asarray(states) - np.asarray(states).mean(axis=-1, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    expected = expected * params["norm_out"]["scale"] + params["norm_out"]["bias"]
    np.testing.assert_allclose(normed, expected, rtol=1e-4, atol=1e-5)


def test_the_condition_has_the_prompts_vector_and_the_micro_conditions(generator):
    plan = generator.plan(["a red boat", "a tree"], **{**SMALL, "width": 32})
    given, null = conditions_of(plan, np.asarray([0, 1]))
    assert given.tokens.shape == (2, 77, 20) and given.vector.shape == (2, 29)
    np.testing.assert_array_equal(given.vector[:, 24:], [[32.0, 64.0, 0.0, 0.0, 6.0]] * 2)
    np.testing.assert_array_equal(null.vector[0], null.vector[1])
    assert (given.vector[0] != given.vector[1]).any() and (given.vector[:, :24] != null.vector[:, :24]).any()
    negative = generator.plan("a red boat", conditions=[Negative(prompt="a tree")], **{**SMALL, "width": 32})
    away = conditions_of(negative, np.asarray([0]))[1]
    np.testing.assert_allclose(away.vector[0], given.vector[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_images_of_other_sizes_and_edits(generator, tmp_path):
    result = generator.sample(["a red boat"], num_images=2, **{**SMALL, "width": 32}, seed=1)
    assert result.images.shape == (2, 64, 32, 3) and (result.images[0] != result.images[1]).any()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    guide = Outpaint(image=str(tmp_path / "image.png"), right=12)
    wider = generator.sample("a red boat", guides=[guide], steps=2, seed=1).images
    assert wider.shape == (1, 64, 32, 3)
    np.testing.assert_array_equal(wider[0, :, :20], pixels)
    with pytest.raises(UserError, match="width 36 is not a multiple of 8, as this model needs; use 32 or 40"):
        generator.plan("a red boat", height=64, width=36)


def test_what_it_does_not_take_is_refused(generator):
    with pytest.raises(UserError, match="this model reads prompts, and a query without one is given"):
        generator.plan_vectors(np.ones((1, generator.encoder.identity["width"]), np.float32), None, **SMALL)
