"""Whole runs of Stable Diffusion from a prompt: against the original programs, and with the project's conditions."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.conditioning import Also, Interpolate, Negative, Switch
from rdm_jax.core.errors import UserError
from tests.helpers.stable_diffusion import data_of, golden_generator

SIZE = {"height": 16, "width": 16, "batch_size": 1}


def run(generator, prompt, folder, x_T, **options):
    """Returns the last latents and the image of a run from given noise [c, h, w], both as the originals have them."""
    np.save(folder / "noise.npy", x_T.transpose(1, 2, 0)[None])
    plan = generator.plan(prompt, init=str(folder / "noise.npy"), **SIZE, **options)
    program = generator._program(plan, 1)
    state = program.start(plan, generator.bundle.params, np.zeros(1, np.int64), np.zeros(1, np.int64))
    while state.done < state.total:
        state = program.advance(state)
    return np.asarray(state.carry.x)[0].transpose(2, 0, 1), program.finish(state)[0].transpose(2, 0, 1)


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
    assert context.null.weights is not None and not context.null.weights[:, 77:].any()


def test_what_needs_another_model_is_refused(golden):
    generator = golden_generator(golden, "sd1")
    with pytest.raises(UserError, match="has no CLIP, and images as queries"):
        generator.plan(images=[np.zeros((16, 16, 3), np.uint8)], **SIZE)
    with pytest.raises(UserError, match="has no clip"):
        generator.plan("a boat", candidates=2, **SIZE)
    with pytest.raises(UserError, match="reads prompts, and a query without one is given"):
        generator.plan_vectors(np.zeros((1, 0)), None, **SIZE)
    with pytest.raises(UserError, match="unknown way with long prompts 'cut'"):
        generator.plan("a boat", long_prompts="cut", **SIZE)


def test_a_run_is_reproducible_and_follows_the_prompt(golden):
    generator = golden_generator(golden, "sd1")
    one, again, other = (
        generator.sample(prompt, steps=2, seed=3, **SIZE).images for prompt in ("a red boat", "a red boat", "the sea")
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).max() > 0
