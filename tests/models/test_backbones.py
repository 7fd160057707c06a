"""Every backbone keeps the protocol, refuses what it does not support, and treats context tokens as a weighted set.

The outputs of DiT and U-ViT are compared with the originals' in tests/convert/test_patch_transformers.py.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.factory import latent_shape
from rdm_jax.models import BACKBONES, abstract_params, build_denoiser
from rdm_jax.models.backbone import Backbone
from rdm_jax.models.condition import FEATURES, Condition, ImageTokens
from rdm_jax.models.vit_layers import positions
from rdm_jax.parts import PARTS
from rdm_jax.training.loop import matching_parts
from tests.helpers.networks import UNET

PATCHES = {
    "in_channels": 3,
    "out_channels": 4,
    "latent_size": 4,
    "patch_size": 2,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "context_dim": 6,
}
TRANSFORMERS = {
    f"{kind}, {context}": {"kind": kind, "context": context, **PATCHES}
    for kind in ("dit", "uvit")
    for context in ("cross_attention", "tokens")
}
SECTIONS = PARTS["denoiser"].sections
# Of the PyU-Net the coarse stage; its output has as many channels as its input.
PYUNET = {**UNET, "kind": "pyunet", "out_channels": 3, "gate_channels": 4}
ALL = {"unet": UNET, "unet_pair": {**UNET, "kind": "unet_pair"}, "pyunet": PYUNET, **TRANSFORMERS}


def arguments(network, tokens=4, seed=1):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (2, 4, 4, network.in_channels))
    t = jax.random.uniform(keys[1], (2,), maxval=1000.0)
    return x, t, jax.random.normal(keys[2], (2, tokens, network.context_dim))


@pytest.fixture(scope="module", params=TRANSFORMERS)
def transformer(request, random_params):
    """The name of a transformer, its module and random parameters."""
    network = build_denoiser(TRANSFORMERS[request.param])
    return request.param, network, random_params(network, *network.smallest_inputs)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_every_backbone_is_here():
    assert {settings["kind"] for settings in ALL.values()} == set(BACKBONES)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ALL.values(), ids=ALL)
def test_a_backbone_keeps_the_protocol(settings):
    network = build_denoiser({**settings, "dtype": "bfloat16", "remat": True, "attention_implementation": "xla"})
    assert isinstance(network, Backbone)
    channels = settings["out_channels"]
    assert (network.in_channels, network.out_channels, network.context_dim, network.dropout) == (3, channels, 6, 0.0)
    assert network.supports <= set(FEATURES)
    assert "any_size" in network.supports or network.latent_size % network.size_multiple == 0
    params = abstract_params(network)
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
    x, t, tokens = arguments(network)
    shape = jax.eval_shape(network.apply, {"params": trees.unflatten(params)}, x, t, Condition(tokens))
    assert shape.shape == (2, 4, 4, channels) and shape.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("settings", ALL.values(), ids=ALL)
def test_features_are_supported_or_refused(settings):
    network = build_denoiser(settings)
    variables = {"params": trees.unflatten(abstract_params(network))}
    x, t, tokens = arguments(network)
    uses = {
        "token_weights": (x, Condition(tokens, jnp.ones((2, 4)))),
        "spatial_weights": (x, Condition(tokens, jnp.ones((2, 4, 4, 4)))),
        "paint": (x, Condition(tokens, paint=jnp.ones((2, 4, 4, 4)))),
        "channels": (x, Condition(tokens, channels=x)),
        "vector": (x, Condition(tokens, vector=jnp.ones((2, 5)))),
        "guidance": (x, Condition(tokens, guidance=jnp.ones(2))),
        "images": (x, Condition(tokens, images=ImageTokens(tokens[:, None], jnp.ones((2, 1))))),
        "any_size": (jnp.zeros((2, 8, 4, 3)), Condition(tokens)),
    }
    assert set(uses) == set(FEATURES)
    for feature, (x, condition) in uses.items():
        if feature in network.supports:
            assert jax.eval_shape(network.apply, variables, x, t, condition).shape == (
                *x.shape[:3],
                settings["out_channels"],
            )
        else:
            words = "latent size 8x4 is not allowed" if feature == "any_size" else FEATURES[feature]
            with pytest.raises(UserError, match=words):
                jax.eval_shape(network.apply, variables, x, t, condition)


@pytest.mark.slow
def test_context_is_a_weighted_set(transformer):
    name, network, params = transformer
    x, t, tokens = arguments(network)
    weights = jnp.tile(jnp.array([1.0, 0.0, 1.0, 2.0]), (2, 1))

    @jax.jit
    def outputs(params, x, t, tokens, weights):
        conditions = {
            "all": Condition(tokens),
            "reversed": Condition(tokens[:, ::-1]),
            "ones": Condition(tokens, jnp.ones_like(weights)),
            "weighted": Condition(tokens, weights),
            "repeated": Condition(tokens[:, jnp.array([3, 0, 2, 3])]),
            "none": Condition(tokens[:, :0]),
            "zeros": Condition(jnp.zeros_like(tokens[:, :1])),
            "absent": Condition(tokens, jnp.zeros_like(weights)),
        }
        return {name: network.apply(params, x, t, condition) for name, condition in conditions.items()}

    out = outputs(params, x, t, tokens, weights)
    close(out["reversed"], out["all"])
    close(out["ones"], out["all"])
    close(out["weighted"], out["repeated"])
    assert np.abs(out["weighted"] - out["all"]).max() > 1e-3
    close(out["none"], out["zeros" if "cross" in name else "absent"])
    # Images of a batch do not influence each other.
    other = outputs(params, *(argument.at[0].add(1.0) for argument in (x, t, tokens, weights)))
    close(other["all"][1], out["all"][1])
    assert np.abs(other["all"][0] - out["all"][0]).max() > 1e-3


def test_weights_by_region_are_averaged_over_patches(random_params):
    network = build_denoiser(TRANSFORMERS["dit, cross_attention"])
    params, (x, t, tokens) = random_params(network, *network.smallest_inputs), arguments(network)
    by_token = np.tile(np.array([1.0, 3.0, 1.0, 1.0], np.float32), (2, 1))
    columns = np.array([0.0, 2.0, 0.0, 2.0], np.float32)  # 1 on average in a patch of two columns
    weights = np.broadcast_to(columns[:, None] * by_token[:, None, None, :], (2, 4, 4, 4))

    @jax.jit
    def outputs(params):
        return [network.apply(params, x, t, Condition(tokens, jnp.asarray(each))) for each in (weights, by_token)]

    close(*outputs(params))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit, cross_attention", "uvit, tokens"])
def test_recomputation_dropout_and_half_precision(name, random_params):
    network = build_denoiser(TRANSFORMERS[name])
    params = random_params(network, *network.smallest_inputs)
    x, t, tokens = arguments(network)
    condition = Condition(tokens, jnp.array([[1.0, 0.5, 2.0, 1.0]] * 2))

    def gradient(network, params, **keywords):
        return jax.grad(lambda p: jnp.mean(network.apply(p, x, t, condition, **keywords) ** 2))(params)

    @jax.jit
    def outputs(params, key):
        dropping = {"deterministic": False, "rngs": {"dropout": key}}
        half = network.clone(dtype="bfloat16")
        return {
            "gradients": [gradient(network.clone(remat=remat), params) for remat in (False, True)],
            "dropped": network.clone(dropout=0.5).apply(params, x, t, condition, **dropping),
            "quiet": network.clone(dropout=0.5).apply(params, x, t, condition),
            "whole": network.apply(params, x, t, condition),
            "half": half.apply(params, x, t, condition),
        }

    # jax.nn.dot_product_attention itself promotes types where they are not float32.
    with jax.numpy_dtype_promotion("standard"):
        out, again, other = (outputs(params, jax.random.key(seed)) for seed in (0, 0, 1))
    plain, recomputed = (trees.flatten(tree) for tree in out["gradients"])
    for path, leaf in plain.items():
        np.testing.assert_allclose(recomputed[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)
        assert np.abs(leaf).max() > 0, path
    np.testing.assert_array_equal(out["dropped"], again["dropped"])
    assert np.abs(out["dropped"] - other["dropped"]).max() > 1e-3
    close(out["quiet"], out["whole"])
    assert out["half"].dtype == jnp.float32
    assert np.abs(out["half"] - out["whole"]).mean() < 0.05 * np.abs(out["whole"]).mean()


@pytest.mark.slow
def test_a_dit_starts_as_the_identity_of_its_blocks_and_predicts_zero():
    network = build_denoiser({**TRANSFORMERS["dit, cross_attention"], "vector_dim": 5})
    x, t, tokens = arguments(network)
    condition = Condition(tokens, vector=jnp.eye(5)[:2])

    @jax.jit
    def start(key):
        params = network.init(key, x, t, condition)

        def loss(p):
            out = network.apply(p, x, t, condition)
            return jnp.mean((out - 1.0) ** 2), out

        grads, out = jax.grad(loss, has_aux=True)(params)
        zero = {path: jnp.abs(leaf).max() for path, leaf in trees.flatten(params["params"]).items()}
        return out, zero, trees.flatten(grads["params"])["out/kernel"]

    out, sizes, gradient = start(jax.random.key(0))
    assert not out.any() and gradient.any()
    kernels = {path for path, size in sizes.items() if path.endswith("kernel") and not size}
    assert {path.split("/")[-2] for path in kernels} == {"modulation", "modulation_out", "out"}


def test_a_uvit_starts_with_small_weights():
    network = build_denoiser({**TRANSFORMERS["uvit, tokens"], "width": 32})
    params = jax.jit(
        lambda key: network.init(
            key, *jax.tree.map(jnp.zeros_like, arguments(network)[:2]), Condition(jnp.zeros((2, 1, 6)))
        )
    )(jax.random.key(0))["params"]
    flat = {path: leaf for path, leaf in trees.flatten(params).items() if path.endswith(("kernel", "pos_embed"))}
    del flat["conv_out/kernel"]
    spread = np.concatenate([np.ravel(leaf) for leaf in flat.values()])
    assert 0.015 < spread.std() < 0.02 and np.abs(spread).max() <= 0.04 + 1e-6


def test_a_vector_is_embedded_and_required(random_params):
    for settings in TRANSFORMERS.values():
        network = build_denoiser({**settings, "vector_dim": 5, "context_dim": 0})
        variables = {"params": trees.unflatten(abstract_params(network))}
        x, t, tokens = arguments(build_denoiser(settings))
        assert network.supports >= {"vector"} and "token_weights" not in network.supports
        apply = jax.eval_shape
        assert apply(network.apply, variables, x, t, Condition(vector=jnp.ones((2, 5)))).shape == (2, 4, 4, 4)
        with pytest.raises(UserError, match="takes a vector of 5 numbers, and the condition has none"):
            apply(network.apply, variables, x, t, Condition())
        with pytest.raises(UserError, match="takes a vector of 5 numbers, and the condition has one of 3"):
            apply(network.apply, variables, x, t, Condition(vector=jnp.ones((2, 3))))
        with pytest.raises(UserError, match=r"takes no context tokens .*the condition has 4; use a model"):
            apply(network.apply, variables, x, t, Condition(tokens, vector=jnp.ones((2, 5))))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dit, tokens", {"context": "sequence"}, "unknown context mode 'sequence'.*cross_attention, tokens"),
        ("dit, tokens", {"heads": 0}, "heads 0 is too small"),
        ("dit, tokens", {"patch_size": 3}, "patch_size=3 does not divide latent_size=4"),
        ("dit, tokens", {"heads": 3}, "width=16 is not a multiple of heads=3 and of 4"),
        ("dit, tokens", {"context_dim": 7}, "context tokens have 6 numbers, the DiT takes 7"),
        ("dit, tokens", {"in_channels": 2}, "the latent has 3 channels, the DiT takes 2"),
        ("dit, tokens", {"path": "line"}, "unknown path 'line'"),
        ("uvit, tokens", {"depth": 3}, "depth=3 is odd"),
        ("uvit, tokens", {"depth": 3, "decoder_depth": 2}, "decoder_depth=2 is out of range; .* 0 to 1 stand behind"),
        ("uvit, tokens", {"decoder_depth": -1}, "decoder_depth=-1 is out of range"),
        ("uvit, tokens", {"latent_size": 8}, "latent size 4x4 is not allowed; .* those of 8x8"),
        ("uvit, tokens", {"context_positions": 7}, "the condition has 4 tokens, and this U-ViT takes 7 exactly"),
        ("uvit, cross_attention", {"context_positions": 4}, "context_positions=4 needs context='tokens'"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, message):
    x, t, tokens = arguments(build_denoiser(TRANSFORMERS[name]))
    network = build_denoiser({**TRANSFORMERS[name], **change})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), x, t, Condition(tokens))


def test_ascend_with_equal_halves_is_the_uvit_to_the_bit(random_params):
    settings = {**TRANSFORMERS["uvit, tokens"], "depth": 4}
    network, ascend = (build_denoiser({**settings, **more}) for more in ({}, {"decoder_depth": 2}))
    assert abstract_params(network) == abstract_params(ascend)
    params, (x, t, tokens) = random_params(network, *network.smallest_inputs), arguments(network)
    outputs = [jax.jit(each.apply)(params, x, t, Condition(tokens)) for each in (network, ascend)]
    np.testing.assert_array_equal(*outputs)


def test_the_outermost_blocks_of_ascend_are_connected(random_params):
    # If the last block reads its skip alone, only the first block is before it.
    network = build_denoiser({**TRANSFORMERS["uvit, tokens"], "depth": 4, "decoder_depth": 1})
    assert {path.split("/")[0] for path in abstract_params(network)} >= {"in_0", "in_1", "in_2", "mid", "out_0"}
    assert not any(path.startswith("out_1") for path in abstract_params(network))
    params, (x, t, tokens) = random_params(network, *network.smallest_inputs), arguments(network)
    apply = jax.jit(network.apply)
    flat = {path: jnp.asarray(leaf) for path, leaf in trees.flatten(params["params"]).items()}
    flat["out_0/skip/kernel"] = flat["out_0/skip/kernel"].at[:16].set(0.0)

    def output(**changed):
        scaled = {path: leaf * changed.get(path.split("/")[0], 1.0) for path, leaf in flat.items()}
        return apply({"params": trees.unflatten(scaled)}, x, t, Condition(tokens))

    np.testing.assert_array_equal(output(), output(in_1=2.0, in_2=2.0, mid=2.0))
    assert np.abs(output() - output(in_0=2.0)).max() > 1e-3


@pytest.mark.slow
def test_a_network_on_a_path_takes_its_coordinates(random_params):
    # The same parameters, evaluated at the time and the scale that the path has at t.
    plain = build_denoiser(TRANSFORMERS["dit, tokens"])
    params, (x, _, tokens) = random_params(plain, *plain.smallest_inputs), arguments(plain)
    t, s = jnp.array([-0.5, 299.5]), np.array([1.0, 0.7], np.float32)
    ones = np.ones(2, np.float32)
    for path, scale in (("linear", np.hypot(s, 1 - s)), ("gvp", ones), ("vp", ones)):
        network = build_denoiser({**TRANSFORMERS["dit, tokens"], "path": path})
        assert abstract_params(network) == abstract_params(plain)
        expected = plain.apply(params, x * scale[:, None, None, None], jnp.asarray(s), Condition(tokens))
        close(network.apply(params, x, t, Condition(tokens)), expected)


def test_learned_positions_order_the_context(random_params):
    network = build_denoiser({**TRANSFORMERS["uvit, tokens"], "context_positions": 4})
    params, (x, t, tokens) = random_params(network, *network.smallest_inputs), arguments(network)
    apply = jax.jit(network.apply)
    one, other = (apply(params, x, t, Condition(each)) for each in (tokens, tokens[:, ::-1]))
    assert np.abs(one - other).max() > 1e-3


def test_positions_of_other_sizes_lie_in_the_trained_range():
    square = positions(4, 4, 4, 16)
    assert square.shape == (16, 16)
    np.testing.assert_allclose(positions(8, 4, 4, 16)[::1][[0, 8, 16, 24]], square[[0, 4, 8, 12]])
    np.testing.assert_allclose(positions(4, 8, 4, 16)[:8:2], square[:4])
    # Columns first: the first half of the channels is sin and cos of the column at 10000^(-i / 4).
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(square[7, :8], np.concatenate([np.sin(3 * frequencies), np.cos(3 * frequencies)]))
    np.testing.assert_allclose(square[7, 8:], np.concatenate([np.sin(frequencies), np.cos(frequencies)]))


def test_the_size_of_images_is_checked_before_anything_runs():
    autoencoder = SimpleNamespace(downsampling=8)
    dit, uvit = (build_denoiser(TRANSFORMERS[f"{kind}, tokens"]) for kind in ("dit", "uvit"))
    assert latent_shape(dit, autoencoder, 64, 32) == (8, 4, 3) and latent_shape(uvit, autoencoder, 32, 32) == (4, 4, 3)
    with pytest.raises(UserError, match=r"height 40 is not a multiple of 16.*use 32 or 48"):
        latent_shape(dit, autoencoder, 40, 32)
    with pytest.raises(UserError, match="height 64, width 32: this model generates images of 32x32 only"):
        latent_shape(uvit, autoencoder, 64, 32)


def test_parameters_of_another_backbone_are_named():
    dit, unet = (trees.unflatten(abstract_params(build_denoiser(ALL[name]))) for name in ("dit, tokens", "unet"))
    with pytest.raises(UserError, match="the parameters are those of a dit, and the configuration describes a unet"):
        Bundle({key: {} for key in SECTIONS} | {"name": "one", "denoiser": UNET}, {"denoiser": dit})
    bundle = Bundle({key: {} for key in SECTIONS} | {"name": "one", "denoiser": UNET}, {"denoiser": unet})
    with pytest.raises(UserError, match="--init-from one: its denoiser is a unet, and this run trains a dit"):
        matching_parts(bundle, {"denoiser": dit})


def test_settings_are_checked():
    fields = {field.name for field in dataclasses.fields(build_denoiser(TRANSFORMERS["dit, tokens"]))}
    assert {"in_channels", "out_channels", "context_dim", "latent_size"} <= fields
    with pytest.raises(UserError, match="unknown denoiser dit setting 'widht'; did you mean 'width'"):
        build_denoiser({**TRANSFORMERS["dit, tokens"], "widht": 16})
    with pytest.raises(UserError, match=r"unknown denoiser kind 'vit'.*dit, pyunet, unet, unet_pair, uvit"):
        build_denoiser({**PATCHES, "kind": "vit"})
