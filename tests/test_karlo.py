"""Whole runs of Karlo against the original program: the prior, the decoder and the upsampler; and its use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning import Context, ScheduledCondition, channels
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion import vectors
from rdm_jax.diffusion.samplers import ddpm
from rdm_jax.diffusion.vectors import sample_vectors
from rdm_jax.heads.diffusion.program import chunk_program, inputs_of
from rdm_jax.models.prior import Text
from tests.helpers.karlo import data_of, golden_generator

ROW = 1


@pytest.fixture
def golden_noise(monkeypatch):
    """A function that replaces the fresh noise of ancestral steps by golden noise, by the times of the steps."""

    def replace(times, noise):
        stored = jnp.asarray(np.concatenate([noise, np.zeros_like(noise[:1])]))  # none in the last step

        def fresh_noise(info, shape, owner):
            return stored[jnp.argmin(jnp.abs(jnp.asarray(times) - info.t.reshape(-1)[0]))]

        monkeypatch.setattr(ddpm, "fresh_noise", fresh_noise)

    return replace


def close(found, expected, tolerance=1e-3):
    """Compares arrays with a tolerance relative to the largest value."""
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def steps_of(generator, plan, states):
    """Yields the noisy image [h, w, c] after each step of a plan, from the golden state [h, w, c] before it.

    From a whole run, rounding would be compared: at t = 999 the error of eps is multiplied by 20,000 and the guidance.
    """
    shape, first = generator.head.shape(plan, 1), np.zeros(1, np.int64)
    inputs = inputs_of(plan, first, first)
    advance = jax.jit(chunk_program(generator.bundle, shape))
    for number, state in enumerate(states):
        carry = shape.sampler.init(jnp.asarray(state[None]))
        yield np.asarray(advance(generator.bundle.params, inputs.chunk(number, 1), carry)[0].x)[0]


def test_the_prior_samples_what_the_original_does(golden, golden_noise, monkeypatch):
    bundle, data = golden_generator(golden).bundle, data_of(golden, "prior_sampling")
    golden_noise(data["timesteps"], data["noises"][:, :, None, None])
    monkeypatch.setattr(vectors, "normal", lambda keys, shape: jnp.asarray(data["start"])[:, None, None])
    fields = (jnp.asarray(data[name], jnp.float32) for name in ("text_embeds", "text_hidden", "text_mask"))
    text = Text(*fields)
    null, given = (jax.tree.map(lambda part, s=s: part[s], text) for s in (slice(3), slice(3, 6)))
    prior, params = bundle.prior, bundle.params["prior"]

    def apply(x, t, text):
        return prior.apply({"params": params}, x, t, text)

    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.jit(lambda: sample_vectors(apply, keys, 24, given, null, float(data["guidance_scale"]), 6))()
    close(x, data["traj"][-1])
    close(prior.apply({"params": params}, x, method="restore"), data["image_embeds"])


@pytest.mark.slow
def test_each_step_of_the_decoder_is_the_original_s(golden, golden_noise):
    generator, data = golden_generator(golden), data_of(golden, "decoder_sampling")
    plan = generator.plan(["a boat"], steps=4, batch_size=1, query_vector="text")
    condition = data_of(golden, "text_proj_small")

    def of(row):
        own = {name: condition[name][row : row + 1] for name in ("context", "context_mask", "added_time_embedding")}
        weights = own["context_mask"].astype(np.float32)
        return ScheduledCondition(own["context"], weights, vector=own["added_time_embedding"])

    plan.__dict__["context"] = Context(of(3 + ROW), of(ROW))  # in place of the one that was made of the prompt
    assert plan.options.guidance_scale == float(data["guidance_scale"])
    np.testing.assert_array_equal(plan.run.infos.t, data["timesteps"])
    golden_noise(data["timesteps"], data["noises"][:, ROW, None])
    states = [data["start"][ROW], *data["traj"][:, ROW]]
    for found, expected in zip(steps_of(generator, plan, states[:-1]), states[1:], strict=True):
        close(found, expected)


@pytest.mark.slow
def test_each_step_of_the_upsampler_is_the_original_s_and_so_is_the_enlarged_image(
    golden, golden_noise, monkeypatch, tmp_path
):
    generator, data = golden_generator(golden, "super_res_first"), data_of(golden, "super_res_sampling")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "small.png")
    monkeypatch.setattr(channels, "to_float", lambda pixels: data["image"][ROW])  # it is none of 256 levels
    size = {"height": 32, "width": 32}  # the golden upsampler doubles the sides
    plan = generator.plan(steps=3, batch_size=1, low_resolution=str(tmp_path / "small.png"), **size)
    close(plan.context.given.channels[0, 0], data["upscaled"][ROW], 1e-5)
    golden_noise(data["timesteps"], data["noises"][:, ROW, None])
    states = [data["start"][ROW], *data["traj"][:, ROW]]
    for found, expected in zip(steps_of(generator, plan, states[:-1]), states[1:], strict=True):
        close(found, expected)


@pytest.mark.slow
def test_a_prompt_becomes_an_image_s_vector_and_an_empty_one_the_learned_null(golden):
    generator = golden_generator(golden)
    bundle = generator.bundle
    assert bundle.config["sampling"]["query_vector"] == "prior" and bundle.config["sampling"]["prior_samples"] == 1
    plan = generator.plan(["a boat", "a red boat"], prior_steps=3, seed=2)
    given, null = plan.context.given, plan.context.null
    assert given.tokens.shape == (2, 13, 40) and given.weights.shape == (2, 13) and given.vector.shape == (2, 128)
    context, params = bundle.vector_context, bundle.params["vector_context"]
    learned = np.asarray(params["null"]) @ np.asarray(params["image_tokens_in"]["kernel"])
    learned = (learned + params["image_tokens_in"]["bias"]).reshape(context.context_dim, 4).T
    np.testing.assert_allclose(null.tokens[0, :4], learned, rtol=1e-3, atol=1e-4)
    again, other = (generator.plan(["a boat"], prior_steps=3, seed=seed).context.given for seed in (2, 3))
    np.testing.assert_allclose(again.tokens[0], given.tokens[0], rtol=1e-4, atol=1e-4)
    assert np.abs(other.tokens - given.tokens[:1])[:, :4].max() > 1e-3
    np.testing.assert_allclose(other.tokens[:, 4:], given.tokens[:1, 4:], rtol=1e-4, atol=1e-4)  # of the text
    text = generator.plan(["a boat"], query_vector="text").context.given
    assert np.abs(text.tokens - given.tokens[:1])[:, :4].max() > 1e-3


def test_what_this_decoder_cannot_read_is_refused(golden):
    generator = golden_generator(golden)
    with pytest.raises(UserError, match="takes no weights of words, and prompt"):
        generator.plan(["a (red:1.5) boat"], prior_steps=2)
    with pytest.raises(UserError, match="reads a prompt in one window; leave long_prompts at truncate"):
        generator.plan(["a boat"], prior_steps=2, long_prompts="windows")
    with pytest.raises(UserError, match="query_vector 'translator' needs a part translator"):
        generator.plan(["a boat"], query_vector="translator")


@pytest.mark.slow
def test_an_image_is_generated_and_upscaled(golden, tmp_path):
    generator = golden_generator(golden)
    one = generator.sample(["a boat"], steps=2, prior_steps=2, seed=1).images
    assert one.shape == (1, 16, 16, 3) and one.std() > 0
    again = generator.sample(["a boat"], steps=2, prior_steps=2, seed=1).images
    np.testing.assert_array_equal(one, again)
    Image.fromarray(one[0]).save(tmp_path / "small.png")
    large = golden_generator(golden, "super_res_first").sample(low_resolution=str(tmp_path / "small.png"), steps=2)
    assert large.images.shape == (1, 64, 64, 3)
