"""The second stage of enhancing-transformers against the original's outputs, and with a first stage in one model."""

from __future__ import annotations

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml

from rdm_jax.bundle import Bundle, merge
from rdm_jax.cli.main import main
from rdm_jax.convert.conversion import convert
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.heads.autoregressive import decoding
from rdm_jax.heads.autoregressive.sampling import Sampling
from rdm_jax.models.condition import Condition


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads2/parti"


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """Both stages in one bundle."""
    root = tmp_path_factory.mktemp("stages")
    for name in ("gpt_small", "vitvq_small"):
        convert(folder / f"{name}.ckpt").write(root / name)
    return merge([Bundle.open(root / "vitvq_small"), Bundle.open(root / "gpt_small")], name="classes")


@pytest.fixture(scope="module")
def condition(model, folder):
    classes = jnp.asarray(np.load(folder / "gpt_small.npz")["conds"][:, 0], jnp.int32)
    return Condition(model.input_encoder.apply({"params": model.params["input_encoder"]}, classes))


@pytest.fixture(scope="module")
def logits(model):
    return functools.partial(jax.jit(model.transformer.apply), {"params": model.params["transformer"]})


def test_the_logits_and_the_loss_are_the_originals(folder, logits, condition, close):
    data = np.load(folder / "gpt_small.npz")
    codes = jnp.asarray(data["codes"], jnp.int32)
    ours = logits(codes, condition)
    close(ours, data["logits"], 1e-5)
    loss = float(jnp.mean(optax.softmax_cross_entropy_with_integer_labels(ours, codes)))
    assert loss == pytest.approx(float(data["loss"]), rel=1e-6)
    greedy = jnp.asarray(data["greedy_codes"], jnp.int32)
    close(logits(greedy, condition), data["teacher_forced_logits_on_greedy"], 1e-5)
    close(logits(codes[:, :5], condition), data["logits"][:, :5], 1e-5)


def test_cached_decoding_gives_the_logits_of_one_pass(model, folder, logits, condition):
    """The program's own cache does not: it forgets the position before (`greedy_logits`)."""
    data = np.load(folder / "gpt_small.npz")
    module, params = model.transformer, model.params["transformer"]

    def forced(condition, codes):
        def one(cache, position):
            before = codes[:, jnp.maximum(position - 1, 0)]
            out, cache = module.apply({"params": params}, cache, before, position, method="decode_step")
            return cache, out

        cache = module.apply({"params": params}, condition, method="init_cache")
        return jnp.swapaxes(jax.lax.scan(one, cache, jnp.arange(codes.shape[1]))[1], 0, 1)

    codes = jnp.asarray(data["greedy_codes"], jnp.int32)
    ours = jax.jit(forced)(condition, codes)
    np.testing.assert_allclose(ours, data["teacher_forced_logits_on_greedy"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours[:, 0], data["greedy_logits"][:, 0], atol=1e-5, rtol=1e-5)
    keys, sampling = jax.random.split(jax.random.key(0), len(codes)), Sampling(top_k=1)

    @jax.jit
    def run(condition):
        carry = decoding.start(module, params, condition)
        return decoding.advance(module, params, carry, keys, sampling, 0, codes.shape[1]).codes

    chosen = run(condition)
    np.testing.assert_array_equal(chosen, np.argmax(logits(chosen, condition), axis=-1))


@pytest.mark.slow
def test_both_stages_generate_images_of_a_class(model):
    generator = Generator.load(model)
    one, other = (generator.sample(class_label=label, seed=3, num_images=2).images for label in (3, 8))
    assert one.shape == (2, 32, 32, 3) and (one != other).any() and (one[0] != one[1]).any()
    with pytest.raises(UserError, match="class 10"):
        generator.sample(class_label=10)


def test_stages_are_joined_by_export(folder, tmp_path):
    for name in ("gpt_small", "vitvq_small"):
        assert main(["convert", str(folder / f"{name}.ckpt"), "--out", str(tmp_path / name)]) == 0
    places = [str(tmp_path / "vitvq_small"), str(tmp_path / "gpt_small")]
    assert main(["export", *places, "--out", str(tmp_path / "model")]) == 0
    bundle = Bundle.open(tmp_path / "model")
    assert set(bundle.params) == {"transformer", "input_encoder", "autoencoder"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 4}, "n_layers is 4, and the checkpoint has 3"),
        ({"vocab_img_size": 10}, "vocab_img_size is 10, and the checkpoint has 64"),
        ({"cond_num_tokens": 2}, "cond_num_tokens is 2, and only models of a class, with 1, are supported"),
        ({"n_heads": 5}, "heads=5 does not divide width=48"),
        (None, r"is no yaml with params or model\.params\.transformer\.params"),
    ],
)
def test_a_yaml_that_does_not_fit_is_refused(folder, tmp_path, changes, message):
    shutil.copy(folder / "gpt_small.ckpt", tmp_path / "gpt.ckpt")
    content = yaml.safe_load((folder / "gpt_small.yaml").read_text())
    content["params"] = {**content["params"], **(changes or {})}
    (tmp_path / "gpt.yaml").write_text(yaml.safe_dump({"model": {}} if changes is None else content))
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "gpt.ckpt")


def test_another_first_stage_is_refused(model):
    stage = {**model.config["autoencoder"], "num_codes": 10}
    params = {**model.params, "autoencoder": {**model.params["autoencoder"], "codebook": np.zeros((10, 8), np.float32)}}
    with pytest.raises(UserError, match="predicts 64 codes, and its first stage has 10"):
        Bundle({**model.config, "autoencoder": stage}, params)
    with pytest.raises(
        UserError, match="the condition has 2 tokens of 48 numbers, and this transformer takes one of 48"
    ):
        model.transformer.apply(
            {"params": model.params["transformer"]}, jnp.zeros((1, 3), jnp.int32), Condition(jnp.zeros((1, 2, 48)))
        )
