"""RARM against the original's outputs: logits, loss, cached decoding, sampled tokens, conversion."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.core.errors import UserError
from rdm_jax.heads.autoregressive import decoding
from rdm_jax.heads.autoregressive.sampling import Sampling, check_sampling, choose, filtered
from rdm_jax.models.condition import Condition
from tests.helpers import tiny


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads/rarm"


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("rarm") / "model"
    convert(folder / "rarm_small.ckpt").write(out)
    return Bundle.open(out)


@pytest.fixture(scope="module")
def logits(bundle):
    module, params = bundle.transformer, bundle.params["transformer"]
    return jax.jit(lambda codes, condition: module.apply({"params": params}, codes, condition))


@pytest.fixture(scope="module")
def data(folder):
    return np.load(folder / "rarm.npz")


def _close(ours, theirs):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.slow
def test_the_logits_and_the_loss_are_those_of_the_original(bundle, logits, data):
    codes, neighbors = jnp.asarray(data["codes"], jnp.int32), jnp.asarray(data["neighbors"])
    ours = logits(codes, Condition(neighbors))
    _close(ours, data["logits"])
    _close(logits(codes, Condition(jnp.zeros_like(neighbors))), data["logits_zero_context"])
    _close(logits(codes, Condition(neighbors[:, :0])), data["logits_zero_context"])
    _close(logits(codes, Condition(neighbors[:, :1])), data["logits_one_neighbor"])
    _close(logits(codes[:, :5], Condition(neighbors)), data["logits_prefix5"])
    target = jnp.asarray(data["forward_target"], jnp.int32)
    forward = logits(target, Condition(neighbors))
    _close(forward, data["forward_logits"])
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(forward, target))
    np.testing.assert_allclose(loss, data["loss"][0], rtol=1e-5)


def test_weights_count_neighbors(logits, data):
    codes, neighbors = jnp.asarray(data["codes"], jnp.int32), jnp.asarray(data["neighbors"])
    first = jnp.asarray([[1.0, 0.0, 0.0, 0.0]] * 2)
    _close(logits(codes, Condition(neighbors, first)), data["logits_one_neighbor"])
    twice = jnp.concatenate([neighbors[:, :2], neighbors[:, :1], neighbors[:, :1]], axis=1)
    weighted = logits(codes, Condition(neighbors[:, :2], jnp.asarray([[3.0, 1.0]] * 2)))
    _close(weighted, np.asarray(logits(codes, Condition(twice))))


def test_what_the_transformer_does_not_support_is_refused(bundle, data):
    module, codes = bundle.transformer, jnp.asarray(data["codes"], jnp.int32)
    regions = Condition(jnp.zeros((2, 4, 24)), jnp.ones((2, 4, 4, 4)))
    with pytest.raises(UserError, match="the token transformer does not support weights of tokens by region"):
        module.apply({"params": bundle.params["transformer"]}, codes, regions)
    with pytest.raises(UserError, match="context tokens have 23 numbers, the transformer takes 24"):
        module.apply({"params": bundle.params["transformer"]}, codes, Condition(jnp.zeros((2, 4, 23))))


@pytest.mark.slow
def test_the_first_stage_computes_what_the_original_does(bundle, data):
    module, params = bundle.autoencoder, {"params": bundle.params["autoencoder"]}
    image = jnp.asarray(data["image"].transpose(0, 2, 3, 1))
    codes = module.apply(params, image, method="codes")
    np.testing.assert_array_equal(np.asarray(codes).reshape(2, -1), data["image_codes"])
    decoded = module.apply(params, jnp.asarray(data["codes"].reshape(2, 4, 4)), method="decode_codes")
    _close(decoded.transpose(0, 3, 1, 2), data["decoded"])


def _decode(bundle, sampling, neighbors, uniforms, guided, codes=None):
    """Returns the codes that given uniform numbers [16, b] choose."""
    module, params = bundle.transformer, bundle.params["transformer"]
    condition = Condition(jnp.asarray(neighbors))
    null = Condition(jnp.zeros_like(condition.tokens)) if guided else None
    step = functools.partial(decoding.step_with, module, params)

    @jax.jit
    def run(sampling, uniforms, codes):
        def one(position, carry):
            return step(carry, uniforms[position], sampling, position)

        return jax.lax.fori_loop(0, 16, one, decoding.start(module, params, condition, null, codes)).codes

    if codes is None:
        codes = np.full((2, 16), decoding.UNKNOWN)
    return run(sampling, jnp.asarray(uniforms, jnp.float32), jnp.asarray(codes, jnp.int32))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, guided, sampling",
    [
        ("greedy", False, Sampling(top_k=1)),
        ("greedy_guided", True, Sampling(top_k=1, guidance_scale=3.0)),
        ("topk", False, Sampling(temperature=0.8, top_k=12)),
        ("topk_guided", True, Sampling(temperature=1.2, top_k=12, guidance_scale=2.5)),
    ],
)
def test_the_same_uniform_numbers_give_the_same_tokens(bundle, folder, name, guided, sampling):
    stored = np.load(folder / "rarm_sampling.npz")
    uniforms = stored[f"{name}_uniforms"] if f"{name}_uniforms" in stored else np.full((16, 2), 0.5)
    ours = _decode(bundle, sampling, stored["neighbors"], uniforms, guided)
    np.testing.assert_array_equal(ours, stored[f"{name}_tokens"])
    decoded = bundle.autoencoder.apply(
        {"params": bundle.params["autoencoder"]}, ours.reshape(2, 4, 4), method="decode_codes"
    )
    _close(decoded.transpose(0, 3, 1, 2), stored[f"{name}_decoded"])
    if f"{name}_probs" in stored:
        per_step = stored[f"{name}_model_logits"]
        if guided:
            per_step = per_step[:, 2:] + 2.5 * (per_step[:, :2] - per_step[:, 2:])
        _close(jax.nn.softmax(filtered(jnp.asarray(per_step), sampling)), stored[f"{name}_probs"])


def test_given_codes_are_kept_and_continued(bundle, folder, data):
    stored = np.load(folder / "rarm_sampling.npz")
    known = np.where(np.arange(16) < 8, data["codes"], decoding.UNKNOWN)
    ours = _decode(bundle, Sampling(top_k=1), stored["neighbors"], np.full((16, 2), 0.5), False, known)
    np.testing.assert_array_equal(ours, stored["half_tokens"])


def test_cached_decoding_is_uncached_decoding(bundle, logits, data):
    module, params = bundle.transformer, {"params": bundle.params["transformer"]}
    codes, neighbors = jnp.asarray(data["codes"], jnp.int32), jnp.asarray(data["neighbors"])
    condition = Condition(neighbors, jnp.asarray([[1.0, 0.5, 0.0, 2.0]] * 2))
    inputs = jnp.concatenate([jnp.full((2, 1), module.start_token), codes[:, :-1]], axis=1)

    @jax.jit
    def decode(condition):
        def step(cache, at):
            position, token = at
            logits, cache = module.apply(params, cache, token, position, method="decode_step")
            return cache, logits

        cache = module.apply(params, condition, method="init_cache")
        return jax.lax.scan(step, cache, (jnp.arange(16), inputs.T))[1]

    _close(np.asarray(decode(condition)).swapaxes(0, 1), np.asarray(logits(codes, condition)))


@pytest.mark.slow
def test_chunks_and_batches_do_not_change_an_image(bundle, data):
    module, params = bundle.transformer, bundle.params["transformer"]
    keys = jax.random.split(jax.random.key(3), 2)
    neighbors = jnp.asarray(data["neighbors"])
    advance = jax.jit(functools.partial(decoding.advance, module, params), static_argnums=4)
    sampling = Sampling(temperature=0.9, top_k=20, top_p=0.9)

    def chunks(rows, sizes):
        carry = decoding.start(module, params, Condition(neighbors[rows]))
        first = 0
        for size in sizes:
            carry = advance(carry, keys[rows], sampling, first, size)
            first += size
        return np.asarray(carry.codes)

    both = chunks(slice(0, 2), (8, 8))
    np.testing.assert_array_equal(both, chunks(slice(0, 2), (16,)))
    np.testing.assert_array_equal(both[1:], chunks(slice(1, 2), (16,)))
    assert (both >= 0).all() and (both[0] != both[1]).any()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_p=0.5), [1.0, 0.0, 0.0, 0.0]),
        (Sampling(top_p=0.7), [2 / 3, 1 / 3, 0.0, 0.0]),
        (Sampling(top_k=2, top_p=0.6), [1.0, 0.0, 0.0, 0.0]),  # of two codes the first has two thirds
        (Sampling(top_k=3), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0]),
        (Sampling(temperature=0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
    ],
)
def test_top_k_and_top_p_keep_the_most_probable_codes(sampling, kept):
    order = np.array([2, 0, 3, 1])  # the codes are not sorted
    logits = jnp.log(jnp.asarray([0.5, 0.25, 0.15, 0.1]))[order]
    np.testing.assert_allclose(jax.nn.softmax(filtered(logits, sampling)), np.array(kept)[order], rtol=1e-5)


def test_codes_are_chosen_by_the_inverse_of_the_cumulative_probability():
    logits = jnp.log(jnp.asarray([0.5, 0.0, 0.25, 0.25]))
    uniform = jnp.asarray([0.0, 0.49, 0.51, 0.74, 0.76, 0.999999])
    np.testing.assert_array_equal(choose(jnp.broadcast_to(logits, (6, 4)), uniform), [0, 0, 2, 2, 3, 3])


def test_the_bundle_follows_the_original_script(bundle):
    assert bundle.config["head"] == "autoregressive"
    assert bundle.config["conditioning"] == {"neighbors": 4, "unit_tokens": False, "null": "zeros"}
    sampling = bundle.config["sampling"]
    assert (sampling["condition"], sampling["top_k"], sampling["temperature"], sampling["height"]) == (
        "neighbors",
        256,
        1.0,
        64,
    )


def test_another_first_stage_is_refused(folder, tmp_path):
    text = (folder / "rarm_small.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("n_embed: 96", "n_embed: 64"))
    with pytest.raises(UserError, match="a codebook of 64 codes with 16 channels, and the checkpoint's has 96 with 16"):
        convert(folder / "rarm_small.ckpt", config=tmp_path / "config.yaml")


def test_a_bundle_with_another_codebook_is_refused(bundle):
    other = {**bundle.config, "transformer": {**bundle.config["transformer"], "num_codes": 64}}
    params = tiny.random_params(other, "transformer")
    with pytest.raises(UserError, match="predicts 64 codes, and its first stage has 96; give the first stage"):
        Bundle(other, {**bundle.params, "transformer": params})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temperature": 0.0}, "temperature 0 is not allowed; give more than 0, or top_k 1"),
        ({"top_p": 0.0}, "top_p 0 is not allowed"),
        ({"top_p": 1.5}, "top_p 1.5 is not allowed"),
        ({"top_k": -1}, "top_k -1 is not allowed; give 1 to 96"),
        ({"top_k": 97}, "top_k 97 is not allowed"),
        ({"guidance_scale": -1.0}, "guidance_scale -1 is not allowed"),
    ],
)
def test_invalid_sampling_is_refused(settings, message):
    valid = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "guidance_scale": 1.0, "num_codes": 96}
    assert check_sampling(**valid) == Sampling()
    with pytest.raises(UserError, match=message):
        check_sampling(**{**valid, **settings})
