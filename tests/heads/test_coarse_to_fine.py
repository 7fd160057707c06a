"""Models of two scales: the order of the stages, what an image depends on, conditions, starts, records, and errors."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.diffusion.samplers import SAMPLERS, num_steps
from rdm_jax.diffusion.samplers.base import sample, with_keys
from rdm_jax.diffusion.samplers.coarse_to_fine import CoarseToFine, join_stages, stage_network
from rdm_jax.diffusion.schedule import build_schedule
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.database import Database
from tests.helpers import frido, tiny

SCHEDULE = build_schedule({"schedule": "cosine", "num_timesteps": 1000})


@pytest.fixture(scope="module")
def bundle():
    return frido.bundle()


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_denoises_one_scale_and_then_the_other(name):
    """With a network that knows x0, the result is x0; the coarse scale is its mean in squares, whatever comes after."""
    spacing = {} if name in ("ddpm", "lcm") else {"spacing": "compvis"}
    sampler = CoarseToFine(SAMPLERS[name](**spacing))
    plan = sampler.plan(SCHEDULE, 6)
    assert num_steps(plan) % 2 == 0 and plan.coefficients["begins"].sum() == 1
    count = num_steps(plan) // 2
    np.testing.assert_array_equal(plan.coefficients["fine"], np.repeat([0.0, 1.0], count))
    x0 = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    keys = jax.random.split(jax.random.key(1), 2)

    def apply(x, t, condition):
        return x0[..., :3] if condition.channels is None else x0[..., 3:] + 0.0 * condition.channels

    def denoiser(x_t, info):
        return make_denoiser(stage_network(apply, info), Condition(), "x0")(x_t, info)

    x = np.asarray(jax.jit(lambda x: sample(sampler, with_keys(plan, keys), x, denoiser))(jnp.ones((2, 4, 4, 6))))
    squares = np.asarray(x0)[..., :3].reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4), keepdims=True)
    expected = np.concatenate([np.broadcast_to(squares, (2, 2, 2, 2, 2, 3)).reshape(2, 4, 4, 3), x0[..., 3:]], axis=-1)
    np.testing.assert_allclose(x, expected, atol=0.15)  # some samplers end at the least noisy time


def test_the_fine_stage_may_have_another_number_of_steps():
    inner = SAMPLERS["ddim"]()
    plan = join_stages([inner.plan(SCHEDULE, 4), inner.plan(SCHEDULE, 2)])
    assert plan.coefficients["fine"].tolist() == [0, 0, 0, 0, 1, 1]
    assert plan.coefficients["begins"].tolist() == [0, 0, 0, 0, 1, 0]


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(generator):
    both = generator.sample("a red boat", num_images=3, batch_size=3, steps=2, seed=5).images
    alone = generator.sample("a red boat", num_images=3, batch_size=1, steps=2, seed=5).images
    assert both.shape == (3, 16, 16, 3) and np.abs(both.astype(int) - alone.astype(int)).max() <= 2
    assert (both[0] != both[1]).any()


@pytest.mark.slow
def test_neighbors_steps_and_a_start_change_the_images(generator, bundle, tmp_path):
    database = Database.open(tiny.database(tmp_path, "squares", bundle))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "image.png")

    def images(**settings):
        given = {"database": database, "condition": "text+neighbors", "steps": 2, "guidance_scale": 20.0, **settings}
        return generator.sample("a red boat", seed=1, **given).images.astype(int)

    plain = images()
    assert np.abs(images(condition="text", database=None) - plain).max() > 1
    assert np.abs(images(fine_steps=4) - plain).max() > 1
    assert np.abs(images(fine_steps=2) - plain).max() == 0
    started = images(init=str(tmp_path / "image.png"), strength=0.5)
    assert started.shape == plain.shape and np.abs(started - plain).max() > 1


@pytest.mark.slow
def test_a_model_on_disk_samples_and_replays(bundle, tmp_path, own_environment, capsys):
    bundle.save(tmp_path / "model", dtype="float32")
    options = ["--model", str(tmp_path / "model"), "--condition", "text", "--steps", "2", "--fine-steps", "1"]
    assert main(["sample", "a red boat", *options, "--out", str(tmp_path / "out")]) == 0
    (file,) = sorted((tmp_path / "out").glob("*.png"))[:1]
    again = tmp_path / "again.png"
    assert main(["replay", str(file), "--model", str(tmp_path / "model"), "--out", str(again)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(again)))
    assert main(["sample", "a red boat", *options, "--guide", "threshold(bound=1)", "--out", str(tmp_path / "no")]) == 2
    assert "guides need the whole latent in every step" in capsys.readouterr().err


def test_what_needs_whole_latents_is_refused(generator):
    for feature in ("channels", "known_region", "inversion", "mixing"):
        reason = generator.head.supports(feature, generator.bundle)
        assert reason == "its denoiser, a pyunet, denoises one scale of a latent after another"
    for feature in ("token_weights", "composition", "step_schedule", "init", "any_size"):
        assert generator.head.supports(feature, generator.bundle) is None
    with pytest.raises(UserError, match="generates from coarse to fine, and guides need the whole latent"):
        generator.sample("a red boat", steps=1, guides=("threshold(bound=1)",))
    with pytest.raises(UserError, match="fine steps -1 is too small; use 0 or more"):
        generator.sample("a red boat", steps=1, fine_steps=-1)


def test_fine_steps_of_another_model_have_no_effect(caplog):
    Generator.load(tiny.bundle()).plan("a red boat", condition="text", steps=1, fine_steps=2)
    assert "fine_steps 2 has no effect: this model does not generate from coarse to fine" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": tiny.CONFIG["autoencoder"]}, "2 stages of 2 channels, and its first stage 1 scale of 2"),
        (
            {"autoencoder": {**frido.FIRST_STAGE, "scale_channels": 3}},
            "2 stages of 2 channels, and its first stage 2 scales of 3; give the first stage that it was trained with",
        ),
    ],
)
def test_stages_that_do_not_fit_the_first_stage_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        frido.bundle(**changes)


def test_parameters_of_another_codebook_are_refused(bundle):
    stage = {**bundle.config["autoencoder"], "num_codes": [8, 16]}
    with pytest.raises(
        UserError, match=r"autoencoder of model 'frido' does not fit .*fine_codebook has shape \(12, 2\)"
    ):
        Bundle({**bundle.config, "autoencoder": stage}, bundle.params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "block"}, "a PyU-Net has transformers, and attention is 'block'"),
        ({"condition_channels": 3}, "a PyU-Net takes no channels of a condition"),
        ({"out_channels": 4}, "out_channels=4, in_channels=2: a PyU-Net predicts no variance"),
        ({"coarse_noise": 2.0}, "coarse_noise=2.0 is out of range"),
        ({"channel_mult": (2,)}, "channel_mult begins with 2, and a PyU-Net's with 1"),
    ],
)
def test_settings_of_the_network_are_checked(bundle, settings, message):
    module = dataclasses.replace(bundle.denoiser, **settings)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), *bundle.denoiser.smallest_inputs)


@pytest.mark.slow
def test_without_the_coarse_scale_gates_have_no_effect(bundle):
    """In the coarse stage a gated norm is its group norm, and in the fine one a gate of zeros leaves it as it is."""
    module, params = bundle.denoiser, bundle.params["denoiser"]
    x, t = jax.random.normal(jax.random.key(0), (1, 4, 4, 2)), jnp.asarray([10.0])
    tokens = jnp.ones((1, 1, tiny.WIDTH))

    def zeroed(path, leaf):
        name = jax.tree_util.keystr(path)
        return 0.0 * leaf if "gamma" in name or "beta" in name else leaf

    evaluate = jax.jit(module.apply)
    without = jax.tree_util.tree_map_with_path(zeroed, params)
    plain = evaluate({"params": params}, x, t, Condition(tokens))
    np.testing.assert_array_equal(evaluate({"params": without}, x, t, Condition(tokens)), plain)
    fine = evaluate({"params": params}, x, t, Condition(tokens, channels=x))
    other = evaluate({"params": params}, x, t, Condition(tokens, channels=2.0 * x))
    assert np.abs(fine - other).max() > 1e-3
    ungated = evaluate({"params": without}, x, t, Condition(tokens, channels=x))
    np.testing.assert_array_equal(ungated, evaluate({"params": without}, x, t, Condition(tokens, channels=2.0 * x)))
    with pytest.raises(
        UserError, match=r"the coarse scale has the shape \(1, 2, 2, 2\), and the fine one \(1, 4, 4, 2\)"
    ):
        module.apply({"params": params}, x, t, Condition(tokens, channels=x[:, ::2, ::2]))
