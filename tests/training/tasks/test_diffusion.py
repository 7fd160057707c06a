"""The diffusion task: what an epoch holds, the loss, evaluation, figures and export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.sidecar import NeighborSidecar
from rdm_jax.training.figures import Figures
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.conditioned import repeats
from tests.helpers import tiny

NEIGHBORS = "conditioning.null_probability=0.0", "conditioning.text_probability=0.0"
BOTH = (*NEIGHBORS, "conditioning.text_and_neighbors_probability=1.0")


def test_emphasis_repeats_images_in_an_epoch(make_diffusion_task):
    task = make_diffusion_task()
    emphasis = ConfigDict({"folder": {"wash": 3}})
    task.config.unlock().emphasis = emphasis
    # Ten of "line", then ten of "wash": of each, two are held out.
    line, wash = (np.setdiff1d(np.arange(start, start + 12), task.held_out) for start in (0, 12))
    np.testing.assert_array_equal(task.rows, [*line, *np.repeat(wash, 3)])
    assert task.size == 10 + 3 * 10
    record = task.read(11, np.random.default_rng(0))
    np.testing.assert_array_equal(record["moments"], task.latents.moments[12])


@pytest.mark.parametrize(
    ("emphasis", "message"),
    [
        ({"folder": {"wsh": 2}}, r"unknown emphasis\.folder 'wsh'; did you mean 'wash'\? .*or set it to 1"),
        ({"folder": {"wash": 0}}, r"emphasis\.folder\.wash=0 is out of range; give 1 or more"),
    ],
)
def test_emphasis_on_nothing_is_refused(emphasis, message):
    with pytest.raises(UserError, match=message):
        repeats([{"folder": "wash"}, {"folder": "line"}], ConfigDict(emphasis))
    assert list(repeats([{}], ConfigDict({"folder": {"wsh": 1}}))) == [1]


def test_held_out_images_are_spread_over_the_set(make_diffusion_task):
    task = make_diffusion_task(*BOTH)
    assert task.held_out.tolist() == [5, 11, 17, 23] and not set(task.rows) & set(task.held_out)
    assert len(task.rows) + len(task.held_out) == 24
    with pytest.raises(UserError, match="held_out_rows=24 leaves none of 24 images"):
        make_diffusion_task("data.held_out_rows=24")


@pytest.mark.slow
def test_an_exported_model_generates_and_evaluation_is_deterministic(make_diffusion_task):
    task = make_diffusion_task()
    params, stats = jax.jit(task.init)(jax.random.key(0))
    assert list(task.evaluate(params)) == list(task.evaluate(params))
    batch = task.complete({name: value[None] for name, value in task.read(0, np.random.default_rng(0)).items()})
    extras = Extras(stats, task.frozen)
    loss, (bands, _) = jax.jit(task.loss)(params, extras, batch, jax.random.key(0), jnp.zeros((), jnp.int32))
    assert float(loss) == pytest.approx(sum(map(float, bands.values())), rel=1e-6)  # one image is in one band
    bundle = task.export(params)
    generated = Generator.load(bundle).sample(["a red boat"], condition="text", steps=2, height=16, width=16)
    assert generated.images.shape == (1, 16, 16, 3)


@pytest.mark.slow
def test_a_learned_null_token_has_a_gradient_is_exported_and_guides(make_diffusion_task):
    task = make_diffusion_task("conditioning.null=learned", "conditioning.null_probability=1.0")
    params, stats = jax.jit(task.init)(jax.random.key(0))
    records = [task.read(row, np.random.default_rng(row)) for row in range(4)]
    batch = task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
    batch = jax.tree.map(jnp.asarray, batch)
    assert batch["null"].all() and not batch["context"].any()
    # The output layers of an initial U-Net are zero, and no condition has a gradient: randomize the parameters.
    params = {**params, "denoiser": tiny.randomize(params["denoiser"])}
    grad = jax.jit(jax.grad(lambda p: task.loss(p, Extras(stats, {}), batch, jax.random.key(0), jnp.zeros((), int))[0]))
    assert np.abs(grad(params)["null"]["token"]).max() > 0
    figures, generated = Figures(), []
    for value in (0.0, 3.0):  # the second call reuses what the first compiled, and must have the new token
        moved = {**params, "null": {"token": jnp.full((tiny.WIDTH,), value)}}
        bundle = task.export(jax.device_get(moved))
        assert bundle.config["conditioning"]["null_token"] == [value] * tiny.WIDTH
        bundle.config["sampling"].update(steps=2, height=16, width=16, guidance_scale=3.0)
        given = {"texts": ["", ""], "trained": ("denoiser",), "condition": "text", "seed": 0}
        generated.append(figures.generate(bundle, np.ones((2, tiny.WIDTH)), None, **given))
    assert (generated[0] != generated[1]).any()


@pytest.mark.slow
def test_figures_show_images_their_neighbors_and_what_is_generated(make_diffusion_task):
    sampling = "sampling.steps=2", "sampling.height=16", "sampling.width=16", "sampling.condition=neighbors"
    task = make_diffusion_task(*sampling)
    params, _ = jax.jit(task.init)(jax.random.key(0))
    ((name, sheet),) = task.figures(jax.device_get(params))
    assert name == "samples" and sheet.dtype == np.uint8
    sidecar = task.conditions.neighbors
    opened = NeighborSidecar.open(sidecar.path, Database.open(sidecar.path.parent / "database"))
    conditions = dataclasses.replace(task.conditions, neighbors=opened)
    ((_, taller),) = dataclasses.replace(task, conditions=conditions).figures(jax.device_get(params))
    assert taller.shape[0] > sheet.shape[0] and taller.shape[1] >= sheet.shape[1]


@pytest.mark.slow
def test_a_learned_variance_is_trained_exported_and_sampled(make_diffusion_task):
    task = make_diffusion_task("diffusion.learned_variance=true", "diffusion.clip=1.0")
    params, stats = jax.jit(task.init)(jax.random.key(0))
    assert task.module.out_channels == 2 * task.module.in_channels
    params = {**params, "denoiser": tiny.randomize(params["denoiser"])}
    batch = task.complete({name: value[None] for name, value in task.read(0, np.random.default_rng(0)).items()})
    batch, extras = jax.tree.map(jnp.asarray, batch), Extras(stats, {})
    grad = jax.jit(jax.grad(lambda p: task.loss(p, extras, batch, jax.random.key(0), jnp.zeros((), jnp.int32))[0]))
    spread = grad(params)["denoiser"]["conv_out"]["bias"][task.module.in_channels :]
    assert (np.abs(spread) > 0).all()
    generator = Generator.load(task.export(jax.device_get(params)))
    options = {"condition": "text", "steps": 2, "height": 16, "width": 16, "sampler": "ddpm(variance='learned')"}
    assert generator.sample(["a red boat"], **options).images.shape == (1, 16, 16, 3)


@pytest.mark.slow
def test_an_expert_is_trained_on_its_range_and_names_it(make_diffusion_task):
    task = make_diffusion_task("expert_level=1", "expert_index=1", "time_density=uniform")
    assert task.model.config["diffusion"]["range"] == [500, 1000]
    assert "range" not in make_diffusion_task().model.config["diffusion"]
    params, stats = task.init(jax.random.key(0))
    batch = {name: jnp.asarray(value) for name, value in next(task.held_out_batches()).items()}
    _, (bands, _) = jax.jit(task.loss)(params, Extras(stats, task.frozen), batch, jax.random.key(1), jnp.int32(0))
    assert float(bands["band_0"]) == float(bands["band_1"]) == 0.0
    assert float(bands["band_2"]) + float(bands["band_3"]) > 0
