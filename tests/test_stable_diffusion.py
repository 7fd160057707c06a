"""Whole runs of Stable Diffusion from a prompt: against the original programs, and with the project's conditions."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning import Also, Interleave, Interpolate, Negative, Region, Switch, Weights
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit
from rdm_jax.core.vectors import unit
from rdm_jax.editing.mixing import direction_of
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import tiny
from tests.helpers.stable_diffusion import SIZE, adapted_bundle, data_of, golden_generator, run, tower


@pytest.mark.slow
@pytest.mark.parametrize(("model", "guidance"), [("sd1", 7.5), ("sd2", 9.0)])
def test_four_steps_of_ddim_are_those_of_the_original(golden, tmp_path, model, guidance):
    generator, data = golden_generator(golden, model), data_of(golden, model)
    for image, row in enumerate((0, 2)):
        latent, decoded = run(generator, str(data["texts"][row]), tmp_path, data["ddim_x_T"][image], steps=4)
        expected = data["ddim_x"][-1, image]
        np.testing.assert_allclose(latent, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(latent, data["diffusers_ddim_final"][image], atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(decoded, data["decoded"][image], atol=1e-3)
    assert generator.plan("a", **SIZE).options.guidance_scale == guidance == data["guidance_scale"]


@pytest.mark.slow
def test_five_steps_of_plms_are_those_of_the_original(golden, tmp_path):
    generator, data = golden_generator(golden, "sd1"), data_of(golden, "sd1")
    settings = {"steps": 5, "sampler": "plms"}
    latent, _ = run(generator, str(data["texts"][0]), tmp_path, data["plms_x_T"][0], **settings)
    expected = data["plms_x"][-1, 0]
    np.testing.assert_allclose(latent, expected, atol=1e-3 * np.abs(expected).max())


def context_of(golden, prompt, *conditions, **options):
    plan = golden_generator(golden, "sd1").plan(prompt, conditions=list(conditions), steps=4, **SIZE, **options)
    return plan.context


def test_the_null_condition_is_the_empty_prompt_or_the_negative_one(golden):
    data = data_of(golden, "sd1")
    context = context_of(golden, "a red boat")
    np.testing.assert_allclose(context.null.tokens[0], data["context"][1], atol=1e-4)
    negative = context_of(golden, "a red boat", Negative(prompt=str(data["texts"][0])))
    np.testing.assert_allclose(negative.null.tokens[0], data["context"][0], atol=1e-4)
    np.testing.assert_array_equal(negative.given.tokens, context.given.tokens)


def test_conditions_have_sequences_of_their_own(golden):
    other, own = "a painting of the red boat", "the boat"
    one, two = (context_of(golden, prompt).given.tokens for prompt in (own, other))
    context = context_of(golden, own, Also(prompt=other), Switch(prompt=other, after=0.5))
    np.testing.assert_array_equal(context.also[0].tokens, two)
    np.testing.assert_array_equal(context.given.target, two)
    np.testing.assert_array_equal(context.given.tokens, one)
    for share, expected in ((0.0, one), (1.0, two)):
        found = context_of(golden, own, Interpolate(prompt=other, share=share)).given.tokens
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_prompts_of_several_windows_leave_the_others_as_they_are(golden):
    data = data_of(golden, "sd1")
    context = context_of(golden, [str(data["texts"][3]), "a red boat"], long_prompts="windows")
    alone = context_of(golden, "a red boat")
    assert context.given.tokens.shape[1] > 77
    np.testing.assert_array_equal(context.given.tokens[1, :77], alone.given.tokens[0])
    assert context.given.weights is not None and not context.given.weights[1, 77:].any()
    prompts = [str(data["texts"][3]), "a red boat"]
    weighed = context_of(golden, prompts, Weights(of_query=2.0), long_prompts="windows").given.weights
    assert weighed is not None and weighed.max() == 2.0 and not weighed[1, 77:].any()
    assert context.null.weights is not None and not context.null.weights[:, 77:].any()


def test_what_needs_another_model_is_refused(golden):
    generator = golden_generator(golden, "sd1")
    with pytest.raises(UserError, match="has no CLIP, and images as queries"):
        generator.plan(images=[np.zeros((16, 16, 3), np.uint8)], **SIZE)
    with pytest.raises(UserError, match="has no clip"):
        generator.plan("a boat", candidates=2, **SIZE)
    with pytest.raises(UserError, match="reads prompts, and a query without one is given"):
        generator.plan_vectors(np.zeros((1, 0)), None, **SIZE)
    with pytest.raises(UserError, match="adapter_scale applies to models with a part image_adapter"):
        generator.plan("a boat", adapter_scale=0.5, **SIZE)
    with pytest.raises(UserError, match="unknown way with long prompts 'cut'"):
        generator.plan("a boat", long_prompts="cut", **SIZE)


@pytest.fixture(scope="module")
def adapted(golden, tmp_path_factory):
    """The golden model with an adapter, and two databases of its CLIP."""
    generator, folder = Generator.load(adapted_bundle(golden)), tmp_path_factory.mktemp("databases")
    places = [tiny.database(folder, name, generator.bundle, seed=seed) for seed, name in enumerate(("one", "two"))]
    return generator, [Database.open(place) for place in places]


def adapted_plan(adapted, *conditions, **options):
    generator, databases = adapted
    given = {"database": databases[0], "neighbors": 3, "adapter_scale": 0.5, **options}
    return generator.plan("a red boat", conditions=list(conditions), steps=2, **SIZE, **given)


def test_neighbors_are_read_by_the_adapter(golden, adapted):
    generator, _ = adapted
    plan = adapted_plan(adapted)
    images, null = plan.context.given.images, plan.context.null.images
    assert images.tokens.shape == (1, 1, 12, 32) and plan.context.given.tokens.shape == (1, 77, 32)
    np.testing.assert_array_equal(images.scales, [[0.5]])
    apply = generator.bundle.image_adapter.apply
    variables = {"params": generator.bundle.params["image_adapter"]}
    tokens = apply(variables, jnp.asarray(plan.neighbors.embeddings[0])).reshape(12, 32)
    np.testing.assert_allclose(images.tokens[0, 0], tokens, atol=1e-5)
    zeros = np.load(golden / "heads/ip_adapter/ip_adapter.npz")["ip_tokens_uncond"][0]
    np.testing.assert_allclose(null.tokens[0, 0], np.tile(zeros, (3, 1)), atol=1e-5)
    np.testing.assert_array_equal(null.scales, images.scales)
    assert adapted_plan(adapted, condition="text", database=None, neighbors=None).context.given.images is None
    alone = adapted_plan(adapted, condition="neighbors").context.given
    np.testing.assert_allclose(alone.tokens[0], data_of(golden, "sd1")["context"][1], atol=1e-4)
    np.testing.assert_array_equal(alone.images.tokens, images.tokens)


@pytest.mark.slow
def test_the_plus_adapter_reads_the_images_of_neighbors(golden, tmp_path):
    generator = Generator.load(adapted_bundle(golden, "plus"))
    database = Database.open(tiny.database(tmp_path, "one", generator.bundle))
    plan = generator.plan("a red boat", database=database, neighbors=2, **SIZE)
    images, null = plan.context.given.images, plan.context.null.images
    assert images.tokens.shape == null.tokens.shape == (1, 1, 10, 32)
    side = generator.encoder.image_size
    shown = [fit(image, side, side) for image in database.thumbnails(plan.neighbors.ids[0])]
    apply = generator.bundle.image_adapter.apply
    project = functools.partial(apply, {"params": generator.bundle.params["image_adapter"]})
    patches = generator.encoder.encode_patches(shown)
    nothing = np.concatenate([generator.encoder.mean_patches] * 2)
    for found, read in ((images, patches), (null, nothing)):
        tokens = np.asarray(project(jnp.asarray(read))).reshape(10, 32)
        np.testing.assert_allclose(found.tokens[0, 0], tokens, atol=1e-4)


def test_conditions_act_on_the_images_of_an_adapter(adapted, tmp_path):
    one, two = (adapted_plan(adapted, database=database).context.given.images for database in adapted[1])
    two_place = str(adapted[1][1].path)
    negative = adapted_plan(adapted, Negative(prompt="the sea")).context
    np.testing.assert_array_equal(negative.null.images.tokens, adapted_plan(adapted).context.null.images.tokens)
    away = adapted_plan(adapted, Negative(database=two_place)).context
    np.testing.assert_array_equal(away.null.images.tokens, two.tokens)
    weighed = adapted_plan(adapted, Weights(of_neighbors=[1.0, 0.0, 2.0])).context
    np.testing.assert_array_equal(weighed.given.images.weights[0, 0], np.repeat([1.0, 0.0, 2.0], 4))
    interleaved = adapted_plan(adapted, Interleave()).context.null
    np.testing.assert_array_equal(interleaved.images.tokens, one.tokens)
    np.testing.assert_array_equal(interleaved.tokens, adapted_plan(adapted).context.null.tokens)
    np.testing.assert_array_equal(interleaved.target, adapted_plan(adapted).context.given.tokens)
    style = adapted_plan(adapted, adapter_blocks="style").context
    np.testing.assert_array_equal(style.null.images.blocks, style.given.images.blocks)
    assert style.given.images.blocks.tolist() == [[0, 0, 0, 0, 1]]
    switched = adapted_plan(adapted, Switch(database=two_place)).context.given
    np.testing.assert_array_equal(switched.image_target, two.tokens)
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    regions = adapted_plan(adapted, Region(mask=str(tmp_path / "mask.png"), database=two_place)).context
    painted = regions.given.images
    np.testing.assert_array_equal(painted.tokens, np.concatenate([one.tokens, two.tokens], axis=1))
    np.testing.assert_array_equal(painted.scales[0, 0], [[0.5, 0.0]] * 4 + [[0.0, 0.5]] * 4)
    np.testing.assert_array_equal(regions.null.images.scales, painted.scales)


def test_the_direction_between_two_prompts_is_that_of_their_vectors(adapted):
    generator, _ = adapted
    one, other = generator.encoder.encode_texts(["a red boat", "the boat"])
    found = direction_of(adapted_plan(adapted, Switch(prompt="the boat")))
    np.testing.assert_allclose(found[0], unit(other) - unit(one), atol=1e-6)
    with pytest.raises(UserError, match="both conditions are the same"):
        direction_of(adapted_plan(adapted, Switch(prompt="a red boat")))


@pytest.mark.slow
def test_a_database_changes_the_images_unless_its_scale_is_zero(adapted):
    generator, (one, two) = adapted

    def sampled(database, scale):
        options = {"database": database, "neighbors": 3, "adapter_scale": scale, "steps": 2, "seed": 5}
        return generator.sample("a red boat", **SIZE, **options).images.astype(int)

    assert np.abs(sampled(one, 1.0) - sampled(two, 1.0)).max() > 2
    assert np.abs(sampled(one, 0.0) - sampled(two, 0.0)).max() <= 1


def test_an_adapter_needs_its_own_databases_and_a_scale_in_range(adapted, tmp_path):
    generator, _ = adapted
    foreign = tiny.database(tmp_path, "foreign", tower(16))
    with pytest.raises(UserError, match="foreign"):
        generator.plan("a red boat", database=Database.open(foreign), **SIZE)
    with pytest.raises(UserError, match=r"adapter_scale -1\.0 is out of range"):
        adapted_plan(adapted, adapter_scale=-1.0)


@pytest.mark.slow
def test_a_run_is_reproducible_and_follows_the_prompt(golden):
    generator = golden_generator(golden, "sd1")
    one, again, other = (
        generator.sample(prompt, steps=2, seed=3, **SIZE).images for prompt in ("a red boat", "a red boat", "the sea")
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).max() > 0
