"""A model whose denoiser is a transformer is trained, measured and sampled as one with a U-Net."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.diffusion.samplers import SAMPLERS, sample, with_keys
from rdm_jax.factory import decoder_from
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.database import Database
from rdm_jax.training import flops
from rdm_jax.training.config import load_config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import make_abstract_task
from tests.helpers import tiny

PATCHES = {
    "in_channels": 2,
    "out_channels": 2,
    "latent_size": 8,
    "patch_size": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "context_dim": tiny.WIDTH,
}
PROMPT = ["a red boat"]


@pytest.fixture(scope="module", params=["dit", "uvit"])
def generator(request):
    return Generator.load(tiny.bundle(denoiser={"kind": request.param, **PATCHES}))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    return Database.open(tiny.database(folder, "squares", tiny.bundle()))


def test_neighbors_and_their_weights_change_the_images(generator, database):
    def sample(*conditions):
        settings = {"database": database, "condition": "text+neighbors", "steps": 2, "guidance_scale": 20.0}
        return generator.sample(PROMPT, conditions=conditions, **settings).images.astype(int)

    plain = sample()
    assert plain.shape == (1, 16, 16, 3)
    assert np.abs(sample("weights(of_query=1, of_neighbors=1)") - plain).max() <= 1
    assert np.abs(sample("weights(of_query=0)") - plain).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_evaluates_the_backbone(generator, database, name):
    settings = {"database": database, "condition": "text+neighbors", "guidance_scale": 1.0, "sampler": name}
    plan = generator.plan(PROMPT, steps=4, seed=5, **settings)
    bundle, run = generator.bundle, plan.run
    keys = image_keys(5, jnp.arange(1))
    steps = with_keys(run.steps, keys) if run.sampler.needs_noise else run.steps
    apply = jax.jit(
        lambda x, t, condition: bundle.denoiser.apply({"params": bundle.params["denoiser"]}, x, t, condition)
    )
    denoiser = make_denoiser(apply, Condition(plan.context.given.tokens), bundle.config["diffusion"]["prediction"])
    latent = sample(run.sampler, steps, normal(keys, (8, 8, 2)), denoiser)
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])
    expected = to_uint8(np.asarray(decode(bundle.params["autoencoder"], latent)))
    (result,) = generator.generate(plan)
    assert np.abs(result.images.astype(int) - expected).max() <= 1 and expected.std() > 10


def test_what_a_backbone_does_not_support_is_refused_before_anything_runs(generator, database):
    region = ["region(mask='left.png', prompt='a blue tree')"]
    if generator.bundle.config["denoiser"]["kind"] == "dit":
        assert generator.plan(PROMPT, database=database, height=32, width=16).request.height == 32
        with pytest.raises(UserError, match=r"left\.png"):
            generator.plan(PROMPT, database=database, conditions=region)
        return
    with pytest.raises(UserError, match=r"condition region needs weights of tokens by region, .* a uvit, does not"):
        generator.plan(PROMPT, database=database, conditions=region)
    with pytest.raises(UserError, match=r"height 32, width 16: this model generates images of 16x16 only"):
        generator.plan(PROMPT, database=database, height=32, width=16)


def test_a_model_without_context_is_refused(database):
    denoiser = {"kind": "dit", **PATCHES, "context_dim": 0, "vector_dim": 3}
    generator = Generator.load(tiny.bundle(denoiser=denoiser))
    with pytest.raises(UserError, match=r"the DiT of this model takes no context tokens \(its context_dim is 0\)"):
        generator.sample(PROMPT, database=database, steps=1)


@pytest.mark.slow
def test_the_transformers_of_the_shipped_data_set_have_the_compute_of_its_unet():
    def cost(name):
        task, batch = make_abstract_task(load_config(f"style_scenes/{name}", ["base=style-scenes"]))
        params, stats = jax.eval_shape(task.init, jax.random.key(0))

        def gradient(params, frozen, batch):
            def loss(params):
                return task.loss(params, Extras(stats, frozen), batch, jax.random.key(0), jnp.zeros((), int))[0]

            return jax.grad(loss)(params)

        assert set(batch) >= {"context"} and {leaf.shape[0] for leaf in batch.values()} == {16}
        return flops.count(gradient, params, task.frozen, batch).flops

    unet, dit, uvit = map(cost, ("rdm", "dit", "uvit"))
    assert dit == pytest.approx(unet, rel=0.2) and uvit == pytest.approx(unet, rel=0.2)
