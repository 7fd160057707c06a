"""The networks against the original programs' outputs, with the original weights converted."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.convert import compvis
from rdm_jax.convert.mapping import disassemble
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models.autoencoder import kl_divergence, sample_moments, split_moments
from rdm_jax.models.condition import Condition
from rdm_jax.models.layers import timestep_embedding

FEATURES = {
    "time_embed": "time_2",
    "in0": "in_0_conv",
    "in1_res": "in_1_res",
    "in1_attn": "in_1_attn",
    "in3_down": "in_3_down",
    "in11": "in_11_res",
    "mid": "mid_2_res",
    "out0": "out_0_res",
    "out2_up": "out_2_up",
    "out11": "out_11_attn",
}


def _jitted(network, method, **static):
    return jax.jit(partial(network.apply, method=method, **static))


@pytest.fixture(scope="module")
def rdm(golden, yaml_unet, yaml_autoencoder):
    state = read_state_dict(golden / "rdm_small.ckpt")
    return state, yaml_unet(golden / "rdm_small.yaml"), yaml_autoencoder(golden / "rdm_small.yaml")


@pytest.mark.slow
def test_unet_computes_what_the_original_does(golden, rdm, nhwc, close):
    state, unet, _ = rdm
    data = np.load(golden / "unet.npz")
    apply = jax.jit(partial(unet.apply, capture_intermediates=True, mutable=["intermediates"]))
    raw, ema = ({"params": compvis.unet_params(state, unet, ema=ema)} for ema in (False, True))
    x, t, context = nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), Condition(jnp.asarray(data["context"]))
    out, variables = apply(raw, x, t, context)
    close(out, data["out"])
    for theirs, ours in FEATURES.items():
        close(variables["intermediates"][ours]["__call__"][0], data[f"feat_{theirs}"])
    close(apply(ema, x, t, context)[0], data["out_ema"])
    close(apply(raw, x, t, jax.tree.map(jnp.zeros_like, context))[0], data["out_zero_ctx"])
    # A token repeated is the token alone, by a test of its own: this spares a compilation.
    repeated = Condition(jnp.repeat(jnp.asarray(data["context1"]), 5, axis=1))
    close(apply(raw, x, t, repeated)[0], data["out_ctx1"])
    close(timestep_embedding(t, unet.model_channels), data["t_emb"], 1e-5)


@pytest.mark.slow
def test_unet_takes_other_sizes(golden, rdm, nhwc, close):
    state, unet, _ = rdm
    data = np.load(golden / "unet.npz")
    params, apply = {"params": compvis.unet_params(state, unet)}, jax.jit(unet.apply)
    x, t = nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    close(apply(params, x, t, Condition(jnp.asarray(data["context21"]))), data["out_ctx21"])
    context = Condition(jnp.asarray(data["context"])[:1])
    rectangle = apply(params, nhwc(data["x_rect"]), jnp.asarray(data["t_rect"], jnp.float32), context)
    close(rectangle, data["out_rect"])


@pytest.mark.slow
def test_kl_autoencoder_computes_what_the_original_does(golden, rdm, yaml_autoencoder, nhwc, close):
    autoencoder = yaml_autoencoder(golden / "kl_f16_small.yaml")
    data = np.load(golden / "kl_f16.npz")
    alone = compvis.autoencoder_params(read_state_dict(golden / "kl_f16_small.ckpt"), autoencoder, prefix="")
    params = {"params": alone}
    image = nhwc(data["image"])
    decode = _jitted(autoencoder, "decode")
    encode = _jitted(autoencoder, "encode", capture_intermediates=True, mutable=["intermediates"])
    moments, within = encode(params, image)
    close(within["intermediates"]["encoder"]["__call__"][0], data["enc_h"])
    mean, logvar = split_moments(moments)
    close(moments, data["moments"])
    close(mean, data["mean"])
    close(logvar, data["logvar"])
    close(sample_moments(moments, nhwc(data["noise"])), data["sample"])
    close(kl_divergence(moments), data["kl"])
    close(decode(params, mean), data["dec_mode"])
    scaled = nhwc(data["scaled"]) / np.float32(0.22765929)
    close(decode(params, scaled), data["decode_first_stage"])
    rectangle, _ = encode(params, nhwc(data["image_rect"]))
    close(rectangle, data["moments_rect"])
    close(decode(params, split_moments(rectangle)[0]), data["dec_rect"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vq_f4", "vq_f8", "vq_f16", "vq_f4_noattn"])
def test_vq_autoencoder_computes_what_the_original_does(golden, yaml_autoencoder, nhwc, close, name):
    autoencoder = yaml_autoencoder(golden / f"{name}_small.yaml")
    data = np.load(golden / f"{name}.npz")
    state = read_state_dict(golden / f"{name}_small.ckpt")
    params = compvis.autoencoder_params(state, autoencoder, prefix="")
    np.testing.assert_array_equal(params["codebook"], data["codebook"])
    h = _jitted(autoencoder, "encode")({"params": params}, nhwc(data["image"]))
    close(h, data["h"])

    def objective(codebook, h):
        variables = {"params": {**params, "codebook": codebook}}
        quantized, indices, loss = autoencoder.apply(variables, h, method="quantize")
        return jnp.sum(quantized * nhwc(data["ste_dir"])) + loss, (quantized, indices, loss)

    differentiate = jax.jit(jax.grad(objective, (0, 1), has_aux=True))
    grads, (quantized, indices, loss) = differentiate(params["codebook"], nhwc(data["h"]))
    close(quantized, data["quant"])
    np.testing.assert_array_equal(np.asarray(indices).reshape(-1), data["indices"])
    close(loss, data["loss_legacy"])
    close(grads[0], data["grad_codebook"])
    close(grads[1], data["grad_h"])
    decode = _jitted(autoencoder, "decode", quantize=False)
    close(decode({"params": params}, nhwc(data["h"])), data["dec_noquant"])
    close(decode({"params": params}, quantized), data["dec_from_h"])


@pytest.mark.slow
def test_the_vq_model_computes_what_the_original_does(golden, yaml_unet, yaml_autoencoder, nhwc, close):
    state = read_state_dict(golden / "rdm_vq_small.ckpt")
    unet, autoencoder = yaml_unet(golden / "rdm_vq_small.yaml"), yaml_autoencoder(golden / "rdm_vq_small.yaml")
    unet_params, autoencoder_params = compvis.unet_params(state, unet), compvis.autoencoder_params(state, autoencoder)
    data = np.load(golden / "rdm_vq.npz")
    t = jnp.asarray(data["eps_t"], jnp.int32)
    assert sorted(data["eps_t"]) == [5, 900]
    eps = jax.jit(unet.apply)({"params": unet_params}, nhwc(data["x_T"]), t, Condition(jnp.asarray(data["context"])))
    close(eps, data["eps"])
    decoded = _jitted(autoencoder, "decode")({"params": autoencoder_params}, nhwc(data["samples"]))
    close(decoded, data["decoded"])
    assert state[compvis.GUIDANCE_VECTOR].ndim == 1


def test_every_name_of_a_checkpoint_is_accounted_for(rdm):
    state, unet, _ = rdm
    np.testing.assert_array_equal(
        compvis.unet_params(state, unet, ema=True)["in_1_res"]["conv1"]["kernel"],
        state["model_ema.diffusion_modelinput_blocks10in_layers2weight"].transpose(2, 3, 1, 0),
    )
    assert compvis.unexpected_names(state) == []
    unexpected = {"stranger": np.zeros(1), "model.extra": np.zeros(1)}
    assert compvis.unexpected_names({**state, **unexpected}) == ["model.extra", "stranger"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rdm_small", "rdm_vq_small"])
@pytest.mark.parametrize("ema", [False, True])
def test_tensors_come_back_bit_for_bit(golden, yaml_unet, yaml_autoencoder, name, ema):
    state = read_state_dict(golden / f"{name}.ckpt")
    unet, autoencoder = yaml_unet(golden / f"{name}.yaml"), yaml_autoencoder(golden / f"{name}.yaml")
    flat = trees.flatten(compvis.unet_params(state, unet, ema=ema))
    back = disassemble(flat, compvis.unet_source(unet, ema=ema))
    stage = trees.flatten(compvis.autoencoder_params(state, autoencoder))
    back |= disassemble(stage, compvis.autoencoder_source)
    group = (compvis.EMA_PREFIX + "diffusion", compvis.FIRST_STAGE_PREFIX)
    kept = group if ema else (compvis.UNET_PREFIX, compvis.FIRST_STAGE_PREFIX)
    assert set(back) == {key for key in state if key.startswith(kept)}
    for key, value in back.items():
        assert value.shape == state[key].shape, key
        np.testing.assert_array_equal(value.read(), state[key])


def test_wrong_names_are_listed_together(rdm):
    state, unet, _ = rdm
    prefix = compvis.UNET_PREFIX
    wrong = dict(state)
    del wrong[f"{prefix}out.2.bias"], wrong[f"{prefix}time_embed.0.weight"]
    wrong[f"{prefix}stranger.weight"] = np.zeros(1, np.float32)
    wrong[f"{prefix}out.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as caught:
        compvis.unet_params(wrong, unet)
    message = str(caught.value)
    assert f"2 missing: {prefix}out.2.bias, {prefix}time_embed.0.weight" in message
    assert f"1 unexpected: {prefix}stranger.weight" in message
    assert f"1 mis-shaped: {prefix}out.0.bias (3,) for norm_out/bias (32,)" in message


# The tasks of latent diffusion: (name, the tokens or channels of its condition in the golden file).
TASKS = {
    "cin_v2": ("context", ""),
    "layout2img": ("context", ""),
    "semantic": ("", "concat"),
    "bsr_sr": ("", "concat"),
    "inpainting": ("", "concat"),
    "uncond": ("", ""),
    "churches": ("", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_unets_of_all_tasks_compute_what_the_originals_do(golden, yaml_unet, nhwc, close, task):
    folder, (tokens, channels) = golden / "heads/ldm", TASKS[task]
    state, unet = read_state_dict(folder / f"{task}_small.ckpt"), yaml_unet(folder / f"{task}_small.yaml")
    data = np.load(folder / f"{task}.npz")
    ema = any(name.startswith(compvis.EMA_PREFIX) for name in state)
    params = {"params": compvis.unet_params(state, unet, ema=ema)}
    condition = Condition(
        tokens=jnp.asarray(data[tokens]) if tokens else None, channels=nhwc(data[channels]) if channels else None
    )
    eps = jax.jit(unet.apply)(params, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), condition)
    close(eps, data["eps"])
