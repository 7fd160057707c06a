"""The networks against diffusers and transformers in PyTorch: random weights, saved by them and converted here.

An oracle for whoever has no outputs of the original programs: `make parity` installs what it needs.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.writing import write_back
from rdm_jax.models.condition import Condition

pytestmark = pytest.mark.filterwarnings("ignore")

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 64, 96),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "attention_head_dim": (2, 4, 4, 6),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.22765929,
}
SCHEDULER = {"beta_start": 0.0015, "beta_end": 0.015, "beta_schedule": "scaled_linear", "clip_sample": False}
TOWER = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {**TOWER, "vocab_size": 300, "max_position_embeddings": 16, "bos_token_id": 298, "eos_token_id": 299}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def originals(torch):
    """The networks in PyTorch, every parameter random."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not here; see make parity")
    from transformers import CLIPConfig, CLIPModel

    clip = CLIPModel(CLIPConfig(projection_dim=24, text_config=TEXT, vision_config=VISION))
    made = {
        "unet": diffusers.UNet2DConditionModel(**UNET),
        "vae": diffusers.AutoencoderKL(**VAE),
        "clip": clip,
        "scheduler": diffusers.DDIMScheduler(**SCHEDULER),
    }
    torch.manual_seed(0)
    for part in ("unet", "vae", "clip"):
        for parameter in made[part].parameters():
            noise = torch.randn_like(parameter)
            fan_in = max(1, parameter[0].numel()) if parameter.ndim else 1
            parameter.data = noise / fan_in**0.5 if parameter.ndim > 1 else parameter.data + 0.1 * noise
        made[part].eval()
    return made


@pytest.fixture(scope="module")
def folder(originals, tmp_path_factory) -> Path:
    """The pipeline's folder as those libraries save it."""
    root = tmp_path_factory.mktemp("pipeline") / "rdm"
    for part, network in originals.items():
        network.save_pretrained(root / part)
    (root / "model_index.json").write_text(json.dumps({"_class_name": "RDMPipeline"}))
    return root


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "rdm"
    convert(folder).write(out)
    return Bundle.open(out)


@pytest.mark.parametrize("tokens", [1, 4, 21])
def test_the_unet_is_that_of_diffusers(torch, tensors, originals, bundle, tokens):
    x, t, context = tensors.random(2, 4, 16, 8), torch.tensor([5, 900]), tensors.random(2, tokens, 24)
    ours = jax.jit(bundle.denoiser.apply)(
        {"params": bundle.params["denoiser"]},
        tensors.nhwc(x),
        jnp.asarray(t.numpy(), jnp.int32),
        Condition(jnp.asarray(context.numpy())),
    )
    tensors.close(ours, originals["unet"](x, t, context).sample)


def test_the_autoencoder_is_that_of_diffusers(torch, tensors, originals, bundle):
    image, latent = tensors.random(2, 3, 32, 16), tensors.random(2, 4, 8, 4)
    variables = {"params": bundle.params["autoencoder"]}
    moments = originals["vae"].encode(image).latent_dist.parameters
    encode, decode = (jax.jit(partial(bundle.autoencoder.apply, method=name)) for name in ("encode", "decode"))
    tensors.close(encode(variables, tensors.nhwc(image)), moments)
    tensors.close(decode(variables, tensors.nhwc(latent)), originals["vae"].decode(latent).sample)


def test_clip_is_that_of_transformers(torch, tensors, originals, bundle):
    tokens = torch.randint(0, 298, (3, 16), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[0, 7:], tokens[1:, -1] = 298, 299, 299
    pixels = tensors.random(3, 3, 32, 32)
    out = originals["clip"](input_ids=tokens, pixel_values=pixels)
    variables = {"params": bundle.params["clip"]}
    text, image = (jax.jit(partial(bundle.clip.apply, method=f"encode_{name}")) for name in ("text", "image"))
    texts, images = text(variables, jnp.asarray(tokens.numpy(), jnp.int32)), image(variables, tensors.nhwc(pixels))
    tensors.close(texts / jnp.linalg.norm(texts, axis=1, keepdims=True), out.text_embeds)
    tensors.close(images / jnp.linalg.norm(images, axis=1, keepdims=True), out.image_embeds)


def test_what_is_written_back_loads_there_and_is_equal(torch, originals, bundle, tmp_path):
    write_back(bundle.path, "diffusers", tmp_path / "back")
    for part in ("unet", "vae", "clip"):
        again = type(originals[part]).from_pretrained(tmp_path / "back" / part).state_dict()
        wanted = originals[part].state_dict()
        assert set(again) == set(wanted)
        assert all(torch.equal(again[name], wanted[name]) for name in wanted)


def test_a_written_checkpoint_is_what_pytorch_reads(torch, bundle, tmp_path):
    write_back(bundle.path, "compvis", tmp_path / "back")
    state = torch.load(tmp_path / "back/model.ckpt", weights_only=True)["state_dict"]
    kernel = bundle.params["denoiser"]["conv_out"]["kernel"]
    np.testing.assert_array_equal(state["model.diffusion_model.out.2.weight"].numpy(), kernel.transpose(3, 2, 0, 1))


def test_torchscript_programs_are_read_without_their_code(torch, tmp_path):
    from rdm_jax.convert.torch_file import read_state_dict

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4)).half()
    torch.jit.script(network).save(tmp_path / "script.pt")
    read, wanted = read_state_dict(tmp_path / "script.pt"), network.state_dict()
    assert set(read) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(read[name], value.numpy())
