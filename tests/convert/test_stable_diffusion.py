"""Stable Diffusion's checkpoints and folders against the original programs, and the files of related programs."""

from __future__ import annotations

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rdm_jax import parts
from rdm_jax.bundle import Bundle
from rdm_jax.convert import compvis, stable_diffusion, text_encoder
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder, build_denoiser
from rdm_jax.models.condition import Condition

FILES = {"sd1": "sd1_small.ckpt", "sd2": "sd2_small.safetensors"}
SIZES = {"sd1": 859_520_964, "sd2": 865_910_724}  # parameters of the released U-Nets
RELEASED = {
    "kind": "unet",
    **{"in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4, 4]},
    **{"num_res_blocks": 2, "attention_resolutions": [1, 2, 4], "num_heads": 8, "context_dim": 768},
}
FIRST_STAGE = {
    **{"kind": "kl", "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []},
    **{"resolution": 256, "z_channels": 4, "embed_dim": 4},
}


@pytest.fixture(scope="module")
def bundles(golden, tmp_path_factory):
    """A function that converts a golden model, as a file or as a folder, once."""
    folder = tmp_path_factory.mktemp("bundles")

    def bundle(model, form):
        out = folder / f"{model}-{form}"
        if not out.exists():
            convert(golden / "heads/sd" / {"file": FILES[model], "folder": f"{model}_small_diffusers"}[form]).write(out)
        return Bundle.open(out)

    return bundle


@pytest.mark.slow
@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("model", ["sd1", "sd2"])
def test_networks_compute_what_the_originals_do(golden, bundles, nhwc, close, model, form):
    bundle, data = bundles(model, form), np.load(golden / f"heads/sd/{model}.npz")
    # A file does not hold the number of heads; these are two of 16 channels, and the released ones have 64.
    encoder = parts.build({"text_encoder": {**bundle.config["text_encoder"], "heads": 2}}, "text_encoder")
    tokens = jnp.asarray(data["input_ids"], jnp.int32)
    close(jax.jit(encoder.apply)({"params": bundle.params["text_encoder"]}, tokens), data["context"])
    apply = jax.jit(bundle.denoiser.apply)
    variables, x, t = {"params": bundle.params["denoiser"]}, nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32)
    for name, rows in (("model_output", [0, 2]), ("model_output_uncond", [1, 1])):
        close(apply(variables, x, t, Condition(jnp.asarray(data["context"][rows]))), data[name])
    encode, decode = (jax.jit(partial(bundle.autoencoder.apply, method=name)) for name in ("encode", "decode"))
    variables = {"params": bundle.params["autoencoder"]}
    moments = encode(variables, nhwc(data["image"]))
    close(moments, data["moments"])
    close(decode(variables, nhwc(data["ddim_x"][-1]) / np.float32(0.18215)), data["decoded"])


@pytest.mark.parametrize("model", ["sd1", "sd2"])
def test_a_file_and_a_folder_give_the_same_parameters(bundles, model):
    one, other = (bundles(model, form) for form in ("file", "folder"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    same = ("diffusion", "latents", "conditioning", "sampling")
    assert {key: one.config[key] for key in same} == {key: other.config[key] for key in same}
    assert one.config["text_encoder"]["pad_id"] == other.config["text_encoder"]["pad_id"]
    assert one.config["diffusion"]["prediction"] == {"sd1": "eps", "sd2": "v"}[model]
    assert other.tokenizer is not None and one.tokenizer is None


def released(context_dim):
    """Returns the settings of a released U-Net."""
    heads = {"num_heads": 8} if context_dim == 768 else {"num_head_channels": 64}
    kept = {key: value for key, value in RELEASED.items() if key != "num_heads"}
    return {**kept, "context_dim": context_dim, **heads}


def state_of(denoiser):
    """Returns the names and shapes of a checkpoint of Stable Diffusion of a U-Net, without the memory."""
    unet, stage = build_denoiser(denoiser), build_autoencoder(FIRST_STAGE)
    named = [(abstract_params(unet), compvis.unet_source(unet)), (abstract_params(stage), compvis.autoencoder_source)]
    state = {}
    for shapes, source_of in named:
        for path, leaf in shapes.items():
            shape = leaf.shape
            if path.endswith("kernel"):
                shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else (shape[1], shape[0])
                shape = (*shape, *(1,) * source_of(path).pixel_axes)
            state[source_of(path).names[0]] = np.broadcast_to(np.float32(0), shape)
    return state


@pytest.mark.parametrize(
    ("context_dim", "prediction", "size", "guidance"),
    [(768, None, 512, 7.5), (1024, "eps", 512, 9.0), (1024, "v", 768, 9.0)],
)
def test_the_shapes_of_a_released_checkpoint_say_what_its_yaml_does(context_dim, prediction, size, guidance):
    from rdm_jax.convert import compvis_config

    params = stable_diffusion.yaml_params(state_of(released(context_dim)), prediction)
    settings = compvis_config.latent_diffusion_config(params, 8, retrieval_only=False)
    assert build_denoiser(settings["denoiser"]) == build_denoiser(
        {**released(context_dim), "attention_resolutions": [1, 2, 4], "transformer_depth": 1}
    )
    count = trees.count(abstract_params(build_denoiser(settings["denoiser"])))
    assert count == SIZES["sd1" if context_dim == 768 else "sd2"]
    assert build_autoencoder(compvis_config.autoencoder_config(params)) == build_autoencoder(FIRST_STAGE)
    defaults = stable_diffusion.conventions(settings["denoiser"], settings["diffusion"]["prediction"], 64)
    assert (defaults["sampling"]["height"], defaults["sampling"]["guidance_scale"]) == (size, guidance)
    assert settings["latents"] == {"scale": 0.18215} and not compvis_config.uses_average(params)


def test_an_inpainting_unet_has_further_channels():
    from rdm_jax.convert import compvis_config

    state = state_of({**released(768), "condition_channels": 5})
    params = stable_diffusion.yaml_params(state, None)
    assert params["unet_config"]["params"]["in_channels"] == 9
    denoiser = compvis_config.latent_diffusion_config(params, 8, retrieval_only=False)["denoiser"]
    denoiser = compvis_config.with_condition_channels(denoiser, 4)
    assert (denoiser["in_channels"], denoiser["condition_channels"]) == (4, 5)
    assert stable_diffusion.conventions(denoiser, "eps", 512)["conditioning"]["channels"] == "inpainting"
    with pytest.raises(UserError, match="takes 1 channels beside the latents, as of a depth or upscaling model"):
        stable_diffusion.conventions({**denoiser, "condition_channels": 1}, "eps", 512)


def test_a_checkpoint_without_its_yaml_needs_what_no_tensor_says(golden, tmp_path):
    shutil.copy(golden / "heads/sd" / FILES["sd2"], tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"takes text tokens of 32 numbers.* give the yaml by --config"):
        convert(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"two predictions.* give --prediction eps .* or v"):
        stable_diffusion.checked_prediction(1024, None)
    with pytest.raises(UserError, match=r"--prediction does not apply to .*; omit it"):
        convert(golden / "heads/sd/sd1_small_diffusers", config=None, prediction="v")


def test_some_programs_write_other_names_of_the_text_encoder(golden, bundles, tmp_path):
    state = read_state_dict(golden / "heads/sd" / FILES["sd1"])
    inner = f"{text_encoder.PREFIX}transformer.text_model."
    short = {name.replace(inner, inner.removesuffix("text_model.")): np.array(state[name]) for name in state}
    short = {name: value for name, value in short.items() if "position_ids" not in name}
    save_file(short, tmp_path / "model.safetensors")
    shutil.copy(golden / "heads/sd/sd1_small.yaml", tmp_path / "model.yaml")
    convert(tmp_path / "model.safetensors").write(tmp_path / "out")
    expected = bundles("sd1", "file").params["text_encoder"]
    jax.tree.map(np.testing.assert_array_equal, Bundle.open(tmp_path / "out").params["text_encoder"], expected)


def test_variants_and_shards_of_a_folder(golden, bundles, tmp_path):
    folder = shutil.copytree(golden / "heads/sd/sd1_small_diffusers", tmp_path / "model")
    for path in [*folder.rglob("*.safetensors"), *folder.rglob("*.bin")]:
        path.parent.chmod(0o755)
    unet = next((folder / "unet").glob("*diffusion_pytorch_model*"))
    state = (
        load_file(unet) if unet.suffix == ".safetensors" else {k: np.array(v) for k, v in read_state_dict(unet).items()}
    )
    unet.unlink()
    names = sorted(state)
    halves = {"1-of-2": names[: len(names) // 2], "2-of-2": names[len(names) // 2 :]}
    places = {}
    for number, own in halves.items():
        file = f"diffusion_pytorch_model-0000{number.replace('of-', 'of-0000')}.safetensors"
        save_file({name: state[name] for name in own}, folder / "unet" / file)
        places |= dict.fromkeys(own, file)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    convert(folder).write(tmp_path / "sharded")
    expected = bundles("sd1", "folder")
    jax.tree.map(
        np.testing.assert_array_equal, Bundle.open(tmp_path / "sharded").params["denoiser"], expected.params["denoiser"]
    )
    for path in (folder / "unet").glob("*diffusion*"):
        path.unlink()
    half = {name: value.astype(np.float16) for name, value in state.items()}
    save_file(half, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    convert(folder).write(tmp_path / "half")
    stored = load_file(tmp_path / "half/denoiser.safetensors")
    assert {value.dtype for value in stored.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", "a Stable Diffusion XL checkpoint"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion 3 checkpoint"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux checkpoint"),
        ("model.diffusion_model.label_emb.weight", "an upscaler or unCLIP checkpoint of Stable Diffusion"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", r"a LoRA \(give it to `rdm sample --lora`\)"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
    ],
)
def test_related_files_are_named_as_what_they_are(tmp_path, name, message):
    save_file({name: np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"is {message}, which is not converted"):
        convert(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"])
def test_related_folders_are_named_as_what_they_are(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(UserError, match=r"is a pipeline of (Stable Diffusion (XL|3)|Flux), which"):
        convert(tmp_path)
