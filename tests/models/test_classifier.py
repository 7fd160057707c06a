import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models.classifier import build_classifier

CONFIG = {"classes": {"subject": ["cat", "sun"], "style": ["a", "b", "c"]}, "stem": [4, 8], "widths": [8, 16]}


@pytest.fixture(scope="module")
def tiny():
    module = build_classifier({**CONFIG, "num_groups": 4})
    images = jax.random.uniform(jax.random.key(0), (3, 64, 64, 3), jnp.float32, -1.0, 1.0)
    shapes = jax.eval_shape(module.init, jax.random.key(1), images)
    generator = np.random.default_rng(0)
    return (
        module,
        jax.tree.map(lambda leaf: jnp.asarray(0.2 * generator.standard_normal(leaf.shape, np.float32)), shapes),
        images,
    )


def test_one_head_for_each_attribute_in_the_order_of_the_configuration(tiny):
    module, params, images = tiny
    logits = module.apply(params, images)
    assert [(name, values.shape) for name, values in logits.items()] == [("subject", (3, 2)), ("style", (3, 3))]


def test_the_heads_read_the_features(tiny):
    module, params, images = tiny
    features = module.apply(params, images, method="features")
    assert features.shape == (3, 4 + 8 + 2 * 16)
    logits = module.apply(params, images)
    head = params["params"]["heads_style"]
    np.testing.assert_allclose(logits["style"], features @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-5)


def test_images_are_independent(tiny):
    module, params, images = tiny
    together = module.apply(params, images)["subject"]
    alone = jnp.concatenate([module.apply(params, images[i : i + 1])["subject"] for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_the_stem_distinguishes_textures_of_one_mean(tiny):
    module, params, _ = tiny
    board = np.indices((64, 64)).sum(axis=0) % 2 * 2.0 - 1.0
    checks = jnp.asarray(np.broadcast_to(board[None, :, :, None], (1, 64, 64, 3)), jnp.float32)
    flat = jnp.zeros_like(checks)
    a, b = (module.apply(params, x, method="features")[:, :12] for x in (checks, flat))
    assert float(jnp.abs(a - b).max()) > 0.01


def test_an_invalid_configuration_is_refused():
    with pytest.raises(UserError, match="unknown classifier setting 'width'; did you mean 'widths'"):
        build_classifier({**CONFIG, "width": 3})
    with pytest.raises(UserError, match="lacks classes"):
        build_classifier({})
