"""Translator and prior: what they are trained on, that they learn, and that their bundles open and answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import complete_config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import make_task
from rdm_jax.training.tasks.pairs import statistics_of
from tests.helpers import tiny

MODELS = {
    "translator": {"width": 16, "hidden": 16, "depth": 1},
    "prior": {"width": 16, "depth": 1, "heads": 2},
}
COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
CAPTIONS = {"red": "a red boat", "blue": "a blue boat"}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function of a task's name that returns it, on eighty noisy images of two captions and a tiny model."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    for name, color in COLORS.items():
        for i in range(40):
            pixels = np.array(color) + generator.normal(0, 20, (16, 16, 3))
            file = root / "images" / f"{name}{i:03d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
            file.with_suffix(".txt").write_text(CAPTIONS[name])
    model = tiny.bundle()
    tokens = model.params["clip"]["text"]["tokens"]
    tokens["embedding"] = 20.0 * np.asarray(tokens["embedding"])  # for texts to differ as much as their places do
    model.save(root / "model", "float32")

    def make(task, source="images", **changes):
        data = {"source": str(root / source), "split": "", "held_out": "", "data_dir": str(root), "size": 16}
        settings = {"task": task, "name": "pairs", "base": str(root / "model"), "steps": 1, "batch_size": 8}
        return make_task(
            complete_config({**settings, "data": data, "model": MODELS[task], **changes}), root, lambda *_: None
        )

    return make


def batch_of(task, rows):
    records = [task.read(row, np.random.default_rng(row)) for row in rows]
    return {name: jnp.asarray(np.stack([record[name] for record in records])) for name in records[0]}


def test_a_pair_is_the_clip_s_own_vectors_of_an_image_and_its_caption(make):
    task = make("translator")
    encoder, batch = ClipEncoder(task.base), batch_of(task, [0, 50])
    assert (task.size, len(task.held_out)) == (76, 4)  # every twentieth is held out
    captions = [CAPTIONS["blue"], CAPTIONS["red"]]  # in the order of the files' names, without the held-out ones
    np.testing.assert_allclose(batch["text"], encoder.encode_texts(captions), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(batch["tokens"], encoder.tokenize(captions)[0])
    statistics = statistics_of("image", task.pairs.images)
    every = task.pairs.images.astype(np.float64)
    np.testing.assert_allclose(statistics["image_mean"], every.mean(axis=0), atol=1e-5)
    params, _ = jax.jit(task.init)(jax.random.key(0))
    np.testing.assert_allclose(params["translator"]["image_std"], np.maximum(every.std(axis=0), 1e-3), rtol=1e-4)


@pytest.mark.slow
def test_without_its_text_an_example_has_the_empty_one(make):
    dropped, kept = make("prior", null_probability=1.0), make("prior", null_probability=0.0)
    params, _ = jax.jit(dropped.init)(jax.random.key(0))
    batch, key, zero = batch_of(dropped, range(8)), jax.random.key(1), jnp.zeros((), jnp.int32)
    empty = {**batch, "tokens": jnp.repeat(jnp.asarray(dropped.null)[None], 8, axis=0)}
    extras = Extras({}, dropped.frozen)

    def loss(task, batch):
        return float(jax.jit(lambda batch: task.loss(params, extras, batch, key, zero)[0])(batch))

    assert loss(dropped, batch) == pytest.approx(loss(kept, empty), rel=1e-5)
    assert abs(loss(dropped, batch) - loss(kept, batch)) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["translator", "prior"])
def test_it_learns_evaluates_and_its_bundle_answers(make, name, tmp_path):
    task = make(name)
    params, stats = jax.jit(task.init)(jax.random.key(0))
    before = dict(task.evaluate(params))
    tx = optax.adam(1e-2)
    batch, extras = batch_of(task, range(0, task.size, 2)), Extras(stats, task.frozen)

    @jax.jit
    def step(params, opt_state, key):
        grads = jax.grad(lambda params: task.loss(params, extras, batch, key, jnp.zeros((), jnp.int32))[0])(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state, fixed = tx.init(params), np.asarray(params[name]["image_mean"])
    for i in range(150):
        params, opt_state = step(params, opt_state, jax.random.key(i))
    np.testing.assert_array_equal(params[name]["image_mean"], fixed)
    after = dict(task.evaluate(params))
    assert after["loss"] < 0.8 * before["loss"] and after["cosine"] > max(before["cosine"], after["cosine_text"])
    task.export(jax.device_get(params)).save(tmp_path / "model", "float32")
    generator = Generator.load(tmp_path / "model")
    plan = generator.plan([CAPTIONS["red"], CAPTIONS["blue"]], condition="text", query_vector=name)
    images = task.pairs.images.astype(np.float32)
    means = np.stack([images[38:].mean(axis=0), images[:38].mean(axis=0)])  # of red and of blue images
    distances = np.linalg.norm(plan.queries[:, None] - means[None], axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=1), [0, 1])
    assert set(Bundle.open(tmp_path / "model").params) == {*task.base.params, name}


def test_images_without_captions_are_refused(make, tmp_path):
    (tmp_path / "bare").mkdir()
    for i in range(20):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / "bare" / f"{i:03d}.png")
        (tmp_path / "bare" / f"{i:03d}.txt").write_text("")
    with pytest.raises(UserError, match=r"have no captions; give data\.source a set with captions"):
        make("translator", source=str(tmp_path / "bare"))
