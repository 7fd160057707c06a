"""Training a style encoder alone, on styles that a few pixels tell apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet
from rdm_jax.training.config import load_config
from rdm_jax.training.naming import HEAD, init_head, naming_loss
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import style_encoder

SETTINGS = (
    "batch_size=8",
    "data.held_out_rows=12",
    "data.one_color=",
    "style_encoder.widths=8,8",
    "style_encoder.num_groups=4",
    "style_encoder.vector_dim=8",
    "style_encoder.token_dim=8",
)
STYLES = 3


def images(count: int = 60, rare: int = 6) -> ImageSet:
    """Stripes of one direction, of the other, and noise; of the last style only a few."""
    generator = np.random.default_rng(0)
    styles = np.r_[np.arange(count - rare) % 2, np.full(rare, 2)]
    lines = np.where(np.arange(16) % 4 < 2, 0, 255)[generator.integers(0, 4, count)[:, None] + np.arange(16) - 4]
    pixels = generator.integers(0, 256, (count, 16, 16, 3))
    pixels[styles == 0] = lines[styles == 0][:, :, None, None]
    pixels[styles == 1] = lines[styles == 1][:, None, :, None]
    attributes = [{"style": f"s{style}"} for style in styles]
    return ImageSet(pixels.astype(np.uint8), [""] * count, attributes, np.arange(count), "0" * 64)


def task_of(*settings):
    return style_encoder.task_of(load_config("icons/style_encoder", [*SETTINGS, *settings]), images())


def test_balance_decides_how_often_a_rare_style_is_read():
    for balance, expected in (("0.0", 5 / 48), ("1.0", 1 / 3)):
        task = task_of(f"balance={balance}")
        assert task.size == 48
        found = np.array([task.read(0, np.random.default_rng(i))["style"] for i in range(1500)])
        share = float(np.mean(found == 2))
        assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(found)))


def test_a_head_that_points_at_the_vectors_names_all_styles():
    vectors = jnp.eye(4)
    head = {"kernel": jnp.eye(4), "scale": jnp.full((1,), 5.0)}
    loss, named = naming_loss(head, vectors, jnp.arange(4))
    assert named == 1 and float(loss) == pytest.approx(np.log1p(3 * np.exp(-5.0)), rel=1e-4)
    loss, named = naming_loss(head, vectors, jnp.arange(4)[::-1])
    assert named == 0 and float(loss) == pytest.approx(5.0 + np.log1p(3 * np.exp(-5.0)), rel=1e-4)
    assert init_head(jax.random.key(0), 8, 5)["kernel"].shape == (8, 5)


@pytest.mark.slow
def test_training_tells_styles_apart_and_the_export_is_the_encoder_alone():
    task = task_of()
    params, _ = jax.jit(task.init)(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(lambda p, b, key: task.loss(p, Extras({}, {}), b, key, jnp.zeros((), int))[0]))
    generator = np.random.default_rng(0)
    before = dict(task.evaluate(task.averaged(params)))["nearest"]
    for i in range(60):
        records = [task.read(row, generator) for row in range(16)]
        batch = {name: jnp.asarray(np.stack([record[name] for record in records])) for name in records[0]}
        _, gradient = step(params, batch, jax.random.key(i))
        params = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, gradient)
    assert dict(task.evaluate(task.averaged(params)))["nearest"] >= max(before, 0.9)
    assert HEAD in params and set(task.averaged(params)) == {"style_encoder"}
    bundle = task.export(jax.device_get(task.averaged(params)))
    assert bundle.config["style_encoder"]["image_size"] == 16 and set(bundle.params) == {"style_encoder"}


def test_images_without_the_attribute_are_refused():
    with pytest.raises(UserError, match="has no attribute 'family', which the config's data section names"):
        task_of("data.style=family")
