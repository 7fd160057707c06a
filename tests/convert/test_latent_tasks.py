"""The checkpoints of latent diffusion's tasks: networks against the original programs, conventions, and bad files."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from rdm_jax import factory
from rdm_jax.conditioning.prompts import PromptReader
from rdm_jax.convert import compvis, input_encoders, latent_tasks
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.tokenizer import read_tokenizer
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core.errors import UserError
from rdm_jax.core.trees import count
from rdm_jax.data.unread import Unread
from rdm_jax.diffusion.objective import diffusion_loss
from rdm_jax.models import abstract_params, build_denoiser, build_text_encoder
from rdm_jax.models.condition import Condition
from tests.helpers.latent_tasks import VOCABULARY, data_of, golden_bundle

SQUARED = ("cin_v2", "txt2img", "uncond", "bsr_sr")  # models whose loss is that of this project
MODELS = (*SQUARED, "layout2img", "semantic", "inpainting", "churches")
TRANSFORMERS = {"attention": "transformer", "num_res_blocks": 2}
BLOCKS = {"attention": "block", "num_res_blocks": 2, "context_dim": 0}
RELEASED = {
    "cin256-v2": (400_920_579, TRANSFORMERS, (3, 192, [1, 2, 3, 5], [8, 4, 2]), {"num_heads": 1, "context_dim": 512}),
    "txt2img-1p4B": (
        *(872_300_484, TRANSFORMERS, (4, 320, [1, 2, 4, 4], [4, 2, 1])),
        {"num_heads": 8, "context_dim": 1280},
    ),
    "layout2img": (
        *(246_277_379, TRANSFORMERS, (3, 128, [1, 2, 3, 4], [8, 4, 2])),
        {"num_head_channels": 32, "context_dim": 512, "transformer_depth": 3},
    ),
    "semantic_synthesis": (
        *(215_229_315, BLOCKS, (3, 128, [1, 4, 8], [32, 16, 8])),
        {"num_heads": 8, "condition_channels": 3},
    ),
    "bsr_sr": (
        *(113_622_563, BLOCKS, (3, 160, [1, 2, 2, 4], [16, 8])),
        {"num_head_channels": 32, "condition_channels": 3},
    ),
    "inpainting_big": (
        *(387_245_827, BLOCKS, (3, 256, [1, 2, 3, 4], [8, 4, 2])),
        {"num_heads": 8, "condition_channels": 4, "residual_resampling": True},
    ),
    "celeba256": (274_056_163, BLOCKS, (3, 224, [1, 2, 3, 4], [8, 4, 2]), {"num_head_channels": 32}),
    "lsun_churches256": (
        *(294_966_916, BLOCKS, (4, 192, [1, 2, 2, 4, 4], [8, 4, 2, 1])),
        {"num_heads": 8, "scale_shift": True, "residual_resampling": True},
    ),
}
"""Parameters of the released U-Nets, counted in the original classes, and their settings."""


def condition_of(model, data, nhwc):
    """Returns the condition under which the golden noise was predicted."""
    tokens = data["contexts"][[0, 2]] if model == "txt2img" else data.get("context")
    channels = nhwc(data["concat"]) if "concat" in data else None
    return Condition(None if tokens is None else jnp.asarray(tokens), channels=channels)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_networks_compute_what_the_originals_do(golden, nhwc, close, model):
    bundle, data = golden_bundle(golden, model), data_of(golden, model)
    evaluate = jax.jit(bundle.denoiser.apply)

    def apply(x, t, condition):
        return evaluate({"params": bundle.params["denoiser"]}, x, t, condition)

    condition = condition_of(model, data, nhwc)
    close(apply(nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), condition), data["eps"])
    latents = factory.encoder_from(bundle.autoencoder, bundle.config["latents"])
    close(jax.jit(latents)(bundle.params["autoencoder"], nhwc(data["image"])), data["latents_mode"])
    if model in SQUARED:
        schedule, t = factory.schedule_from(bundle.config["diffusion"]), jnp.asarray(data["loss_t"], jnp.int32)
        x0, noise = nhwc(data["latents_mode"]), nhwc(data["loss_noise"])
        losses = diffusion_loss(apply, x0, condition, t, noise, schedule, "eps")
        np.testing.assert_allclose(losses.mean(), data["loss"][0], rtol=1e-4)
    if "eps_raw" in data:
        raw = compvis.unet_params(read_state_dict(golden / f"heads/ldm/{model}_small.ckpt"), bundle.denoiser)
        found = evaluate({"params": raw}, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), condition)
        close(found, data["eps_raw"])


@pytest.mark.parametrize("written", ["vocab.txt", "tokenizer.json"])
def test_prompts_have_the_tokens_of_bert(golden, tmp_path, written):
    bundle, data = golden_bundle(golden, "txt2img"), data_of(golden, "txt2img")
    tokenizer = read_tokenizer(golden / "heads/ldm" / VOCABULARY)
    if written == "tokenizer.json":
        tokenizer.backend_tokenizer.save(str(tmp_path / written))
        tokenizer = read_tokenizer(tmp_path / written)
    reader = PromptReader(bundle.text_encoder, bundle.params["text_encoder"], tokenizer, 0, False)
    for text, expected in zip(data["texts"], data["input_ids"], strict=True):
        ((ids, weights),) = reader.rows(str(text), Unread())
        np.testing.assert_array_equal(ids, expected)
        assert (weights == 1).all()


def test_prompts_have_the_states_of_the_original(golden):
    bundle, data = golden_bundle(golden, "txt2img"), data_of(golden, "txt2img")
    reader = PromptReader.of(bundle, "truncate")
    assert reader is not None
    found = reader([str(text) for text in data["texts"]])
    np.testing.assert_allclose(found.tokens, data["contexts"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_released_unets_have_as_many_parameters(name):
    expected, kind, (channels, width, mult, attention), settings = RELEASED[name]
    sizes = {"in_channels": channels, "out_channels": channels, "model_channels": width}
    levels = {"channel_mult": mult, "attention_resolutions": attention}
    unet = build_denoiser({"kind": "unet", **kind, **sizes, **levels, **settings})
    assert count(abstract_params(unet)) == expected


def test_the_released_text_encoder_has_as_many_parameters():
    """581,994,042 in the original class, of which 39,098,682 are in a layer that is not used."""
    settings = {"kind": "bert", "vocab_size": 30522, "context_length": 77, "width": 1280, "layers": 32}
    assert count(abstract_params(build_text_encoder(settings))) == 581_994_042 - 39_098_682


def with_yaml(golden, folder, model, change):
    """Writes a golden checkpoint with a changed yaml, and returns it."""
    source = golden / "heads/ldm"
    shutil.copy(source / f"{model}_small.ckpt", folder / "model.ckpt")
    content = yaml.safe_load((source / f"{model}_small.yaml").read_text())
    change(content["model"]["params"])
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    return folder / "model.ckpt"


def test_a_class_embedding_without_a_number_has_no_null_class(golden, tmp_path):
    source = with_yaml(
        golden, tmp_path, "cin_v2", lambda params: params["cond_stage_config"]["params"].pop("n_classes")
    )
    with pytest.raises(UserError, match=r"the class embedding has 11 rows, and the yaml gives no n_classes"):
        convert(source)
    state = {input_encoders.CLASSES: np.zeros((1000, 512), np.float32)}
    task = latent_tasks.task_of(state, {"cond_stage_config": {"params": {"embed_dim": 512}}}, False, False)
    assert task is not None and task.encoder == {
        "kind": "class",
        "num_classes": 1000,
        "width": 512,
        "null_class": False,
    }
    assert task.sampling == {"steps": 200, "eta": 1.0}


def test_celeba_is_sampled_without_fresh_noise(golden, tmp_path):
    def name(params):
        params["data"] = "taming.data.faceshq.CelebAHQTrain"

    assert convert(with_yaml(golden, tmp_path, "uncond", name)).config["sampling"]["eta"] == 0.0
    assert golden_bundle(golden, "uncond").config["sampling"]["eta"] == 1.0


@pytest.mark.parametrize("key", ["multiplier", "bias"])
def test_other_label_encoders_are_refused(golden, tmp_path, key):
    source = with_yaml(
        golden, tmp_path, "semantic", lambda params: params["cond_stage_config"]["params"].update({key: 2})
    )
    with pytest.raises(UserError, match=rf"cond_stage_config of the yaml: {key} is 2, and only .* is supported"):
        convert(source)


def test_a_vocabulary_of_another_size_is_refused(golden, tmp_path):
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    (tmp_path / "vocab.txt").write_text("\n".join(marks))
    with pytest.raises(UserError, match=r"has 4 tokens and the text tower 221; give its own one"):
        convert(golden / "heads/ldm/txt2img_small.ckpt", tokenizer=tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("\n".join(marks[:2]))
    with pytest.raises(UserError, match=r"is not a readable tokenizer \(it lacks \[CLS\], \[SEP\]\)"):
        read_tokenizer(tmp_path / "vocab.txt")


def test_a_model_with_an_input_takes_no_clip(golden, tmp_path):
    from tests.helpers.stable_diffusion import tower

    tower(24).save(tmp_path / "tower")
    with pytest.raises(UserError, match=r"its input is 'class', and it uses no CLIP; omit --clip"):
        convert(golden / "heads/ldm/cin_v2_small.ckpt", clip_source=tmp_path / "tower")


def test_a_missing_tensor_of_an_encoder_is_named(golden, tmp_path):
    state = {
        name: np.array(value) for name, value in read_state_dict(golden / "heads/ldm/layout2img_small.ckpt").items()
    }
    lacking = f"{input_encoders.PREFIX}transformer.norm.weight"
    save_file({name: value for name, value in state.items() if name != lacking}, tmp_path / "model.safetensors")
    shutil.copy(golden / "heads/ldm/layout2img_small.yaml", tmp_path / "model.yaml")
    with pytest.raises(UserError, match=rf"do not fit the input encoder.* 1 missing: {lacking}"):
        convert(tmp_path / "model.safetensors")
