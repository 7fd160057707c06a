"""Re-Imagen's conditioning: neighbors are a set, none is the text alone, and sampling sees what training saw."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.conditioning.adapter import NeighborTokens
from rdm_jax.conditioning.features import feature_tokens, middle_features
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit
from rdm_jax.factory import encoder_from
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors
from rdm_jax.training.conditioning import CODES
from rdm_jax.training.config import load_config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import re_imagen
from tests.helpers import tiny

CONFIG = "style_scenes/re_imagen"
SMALL = "sampling.height=16", "sampling.width=16", "sampling.steps=2", "emphasis.style.neon=1"
K = 2


@pytest.fixture(scope="module")
def task(make_diffusion_task):
    database = Path(make_diffusion_task().config.data.neighbors).parent / "database"
    given = *SMALL, f"data.database={database}", f"conditioning.neighbors={K}"
    return make_diffusion_task(*given, config=CONFIG, task=re_imagen)


@pytest.fixture(scope="module")
def params(task):
    made, _ = jax.jit(task.init)(jax.random.key(0))
    return {part: tiny.randomize(tree) for part, tree in made.items()}


@pytest.fixture(scope="module")
def batch(task):
    records = [task.read(row, np.random.default_rng(row)) for row in range(4)]
    stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
    codes = [CODES.index(name) for name in ("", "text", "neighbors", "text+neighbors")]
    return task.complete({**stacked, "condition": np.array(codes)})


@pytest.fixture(scope="module")
def conditioned(task, params, batch):
    """The batch with the latents of its neighbors, on the device."""
    flat = batch["neighbor_images"].reshape(-1, 16, 16, 3)
    encode = jax.jit(encoder_from(task.base.autoencoder, task.latents.scaling))
    latents = encode(task.base.params["autoencoder"], jnp.asarray(flat, jnp.float32) / 127.5 - 1.0)
    return {**jax.tree.map(jnp.asarray, batch), "neighbor_latents": latents}


@pytest.fixture(scope="module")
def denoise(task, params):
    """The denoiser's output for four fixed latents under a condition."""
    apply = jax.jit(task.module.apply)
    x, t = jax.random.normal(jax.random.key(1), (4, *task.latents.shape)), jnp.array([3.0, 200.0, 500.0, 900.0])
    return lambda condition: apply({"params": params["denoiser"]}, x, t, condition)


def test_a_batch_has_what_each_condition_names(batch, task):
    np.testing.assert_array_equal(batch["has_neighbors"], [0, 0, 1, 1])
    assert (np.abs(batch["text"]).sum(axis=1) > 0).tolist() == [False, True, False, True]
    assert batch["neighbor_images"].shape == (4, K, 16, 16, 3)
    assert batch["neighbor_captions"].shape == (4, K, tiny.WIDTH)


@pytest.mark.slow
def test_neighbors_are_a_set_and_none_is_the_text_alone(task, params, conditioned, denoise):
    both = jax.jit(task.condition)(params, conditioned)
    latents = conditioned["neighbor_latents"].reshape(4, K, *task.latents.shape)[:, ::-1]
    captions = conditioned["neighbor_captions"][:, ::-1]
    others = {"neighbor_captions": captions, "neighbor_latents": latents.reshape(4 * K, *task.latents.shape)}
    turned = {**conditioned, **others}
    out, other = denoise(both), denoise(jax.jit(task.condition)(params, turned))
    np.testing.assert_allclose(out, other, atol=1e-4)
    alone = denoise(Condition(both.tokens))
    np.testing.assert_allclose(out[:2], alone[:2], atol=1e-5)  # of nothing, and of text
    assert np.abs(out[2:] - alone[2:]).max() > 1e-3


@pytest.mark.slow
def test_the_features_are_those_of_the_clean_image_under_its_caption(task, params, conditioned):
    latents, captions = conditioned["neighbor_latents"][:2], conditioned["neighbor_captions"][0]
    maps = middle_features(task.module, params["denoiser"], latents, captions[:, None])
    assert maps.shape == (2, task.projection.side, task.projection.side, task.projection.channels)
    assert np.abs(maps - middle_features(task.module, params["denoiser"], latents)).max() > 1e-4
    tokens = feature_tokens(task.module, task.projection, params, latents, captions)
    assert tokens.shape == (2, task.projection.tokens, tiny.WIDTH)


@pytest.mark.slow
def test_gradients_reach_the_projection_and_the_features(task, params, batch):
    arrays, extras = jax.tree.map(jnp.asarray, batch), Extras({}, task.frozen)

    def loss(trained):
        return task.loss(trained, extras, arrays, jax.random.key(0), jnp.zeros((), jnp.int32))[0]

    grads = jax.jit(jax.grad(loss))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["image_adapter"]["map"]))
    assert np.isfinite(float(jax.jit(loss)(params)))


@pytest.mark.slow
def test_sampling_has_the_tokens_of_training(task, params, batch, conditioned, tmp_path):
    task.export(params).save(tmp_path / "model", "float32")
    generator = Generator.load(tmp_path / "model")
    encoder = ClipEncoder(generator.bundle)
    assert task.conditions.neighbors is not None
    found = task.conditions.neighbors.ids(task.images.rows[:1])[:, :2]
    names = np.full(found.shape, task.database.name)
    neighbors = Neighbors(found, np.zeros(found.shape, np.float32), np.zeros((1, 2, tiny.WIDTH), np.float32), names)
    adapter = NeighborTokens.of(generator.bundle, encoder, 1.0, "all", [task.database])
    assert adapter is not None
    images = np.stack([fit(image, 16, 16) for image in task.database.thumbnails(found.ravel())])
    captions = np.asarray(task.captions[found.ravel()], np.float32)
    encode = encoder_from(task.base.autoencoder, task.latents.scaling)
    latents = encode(task.base.params["autoencoder"], jnp.asarray(images, jnp.float32) / 127.5 - 1.0)
    expected = feature_tokens(task.module, task.projection, params, latents, jnp.asarray(captions))
    tokens = adapter.tokens(neighbors)
    assert tokens.shape == (1, 2 * task.projection.tokens, tiny.WIDTH)
    np.testing.assert_allclose(tokens[0], np.asarray(expected).reshape(-1, tiny.WIDTH), atol=5e-3)
    assert not adapter.null(adapter.group(tokens)).tokens.any()


@pytest.mark.slow
def test_a_trained_model_generates_with_and_without_neighbors(task, params, tmp_path):
    task.export(params).save(tmp_path / "model", "float32")
    generator, database = Generator.load(tmp_path / "model"), task.database

    def sample(**options):
        return generator.sample(["a red boat"], steps=2, seed=1, guidance_scale=3.0, **options).images.astype(int)

    both = sample(condition="text+neighbors", neighbors=2, database=database)
    alone = sample(condition="text")
    assert both.shape == (1, 16, 16, 3) and (both != alone).any()
    silent = sample(condition="text+neighbors", neighbors=2, database=database, adapter_scale=0.0)
    assert np.abs(silent - alone).max() <= 1
    interleaved = {"conditions": ["interleave(query_share=0.5)"]}
    turns = sample(condition="text+neighbors", neighbors=2, database=database, **interleaved)
    assert (turns != both).any()
    assert sample(condition="neighbors", neighbors=2, database=database).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model={kind: uvit, patch_size: 2, width: 8, depth: 2, heads: 2}",
            "reads a U-Net's features",
        ),
        ("data.database=", "sees the images of neighbors; give data.neighbors, their data.database"),
        ("conditioning.null=learned", "conditioning.null=learned has no place here"),
    ],
)
def test_what_the_task_cannot_do_is_one_line(override, message):
    with pytest.raises(UserError, match=message):
        load_config(CONFIG, [override])


def test_vectors_alone_are_refused(task, params):
    generator = Generator.load(task.export(params))
    with pytest.raises(UserError, match="only the vectors are known"):
        generator.plan_vectors(np.zeros((1, tiny.WIDTH), np.float32), np.zeros((1, 2, tiny.WIDTH), np.float32))
