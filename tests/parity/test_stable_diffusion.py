"""Stable Diffusion, LoRA and IP-Adapter against diffusers: random weights, saved by it and converted here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert import ip_adapter, lora
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition, ImageTokens
from tests.helpers.stable_diffusion import run, tower

pytestmark = pytest.mark.filterwarnings("ignore")

WIDTH = 32  # of the text's states
PROMPTS = ("a red boat", "")
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
}
TEXT = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
DDIM = {**SCHEDULE, "steps_offset": 1, "set_alpha_to_one": False}
VERSIONS: dict[str, dict[str, Any]] = {
    "1": {"unet": {"attention_head_dim": 2}, "text": {"hidden_act": "quick_gelu"}, "prediction": "epsilon"},
    "2": {
        "unet": {"attention_head_dim": (1, 2), "use_linear_projection": True},
        "text": {"hidden_act": "gelu"},
        "prediction": "v_prediction",
    },
}


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of Stable Diffusion here and there.

    Attributes:
      parts: the networks in PyTorch.
      folder: the pipeline as diffusers saves it.
      bundle: the same, converted.
    """

    parts: dict[str, Any]
    folder: Path
    bundle: Bundle

    def tokens(self) -> Any:
        """Returns the tokens of `PROMPTS` by the tokenizer of transformers."""
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer")
        settings = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        return tokenizer(list(PROMPTS), **settings).input_ids

    def context(self) -> Any:
        """Returns the states of `PROMPTS` in PyTorch."""
        return self.parts["text_encoder"](self.tokens()).last_hidden_state


def vocabulary(folder: Path) -> int:
    """Writes a tokenizer of single bytes in the format of CLIP's, and returns the size of its vocabulary."""
    letters = [chr(code) for code in range(33, 127)]
    ends = [f"{letter}</w>" for letter in letters]
    words = [*letters, *ends, "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    return len(words)


@pytest.fixture(scope="module", params=sorted(VERSIONS))
def version(request, torch, tmp_path_factory) -> Version:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not here; see make parity")
    from transformers import CLIPTextConfig, CLIPTextModel

    own, folder = VERSIONS[request.param], tmp_path_factory.mktemp("sd") / "pipeline"
    size = vocabulary(folder / "tokenizer")
    text = {**TEXT, **own["text"], "vocab_size": size, "eos_token_id": size - 1, "bos_token_id": size - 2}
    parts = {
        "unet": diffusers.UNet2DConditionModel(**UNET, **own["unet"]),
        "vae": diffusers.AutoencoderKL(**VAE),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text, pad_token_id=size - 1)),
    }
    torch.manual_seed(0)
    for network in parts.values():
        for parameter in network.eval().parameters():
            noise = torch.randn_like(parameter)
            fan_in = max(1, parameter[0].numel()) if parameter.ndim else 1
            parameter.data = noise / fan_in**0.5 if parameter.ndim > 1 else parameter.data + 0.1 * noise
    for name, network in parts.items():
        network.save_pretrained(folder / name)
    diffusers.DDIMScheduler(**DDIM, prediction_type=own["prediction"]).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    convert(folder).write(folder.parent / "bundle")
    return Version(parts, folder, Bundle.open(folder.parent / "bundle"))


def predict(bundle: Bundle, x: Any, t: Any, condition: Condition) -> jax.Array:
    """Returns our U-Net's prediction for latents that are laid out as PyTorch's."""
    apply, variables = jax.jit(bundle.denoiser.apply), {"params": bundle.params["denoiser"]}
    return apply(variables, jnp.asarray(x.numpy().transpose(0, 2, 3, 1)), jnp.asarray(t.numpy(), jnp.int32), condition)


def states(bundle: Bundle, tokens: Any) -> jax.Array:
    """Returns the states of tokens by our text encoder."""
    apply = jax.jit(bundle.text_encoder.apply)
    return apply({"params": bundle.params["text_encoder"]}, jnp.asarray(tokens.numpy(), jnp.int32))


def test_text_states_and_the_unet_are_those_of_diffusers(torch, tensors, version):
    context, x, t = version.context(), tensors.random(2, 4, 8, 16), torch.tensor([3, 871])
    tensors.close(states(version.bundle, version.tokens()), context)
    ours = predict(version.bundle, x, t, Condition(jnp.asarray(context.detach().numpy())))
    tensors.close(ours, version.parts["unet"](x, t, context).sample)


def test_four_guided_steps_of_ddim_are_those_of_diffusers(torch, tensors, version, tmp_path):
    import diffusers

    scheduler = diffusers.DDIMScheduler.from_pretrained(version.folder / "scheduler")
    scheduler.set_timesteps(4)
    given, null = version.context()[:1], version.context()[1:]
    x = start = tensors.random(1, 4, 8, 8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            eps, unguided = (version.parts["unet"](x, t, tokens).sample for tokens in (given, null))
            x = scheduler.step(unguided + 5.0 * (eps - unguided), t, x).prev_sample
        image = version.parts["vae"].decode(x / version.parts["vae"].config.scaling_factor).sample
    generator = Generator.load(version.bundle)
    latent, decoded = run(generator, PROMPTS[0], tmp_path, start[0].numpy(), steps=4, guidance_scale=5.0)
    tolerance = 1e-3 * float(x.abs().max())
    np.testing.assert_allclose(latent, x[0].numpy(), atol=tolerance)
    np.testing.assert_allclose(decoded, image[0].numpy(), atol=1e-3)


def lora_of(network: Any, torch: Any, targets: tuple[str, ...]) -> dict[str, Any]:
    """Returns random matrices of rank 2 for the linear layers and convolutions with these ends of their names."""
    generator, found = torch.Generator().manual_seed(1), {}
    for name, module in network.named_modules():
        if name.endswith(targets) and hasattr(module, "weight"):
            out, fan_in = module.weight.shape[0], module.weight.shape[1]
            tail = tuple(module.weight.shape[2:])
            up, down = (out, 2, *(1 for _ in tail)), (2, fan_in, *tail)
            found[f"{name}.lora_A.weight"] = 0.3 * torch.randn(*down, generator=generator)
            found[f"{name}.lora_B.weight"] = 0.3 * torch.randn(*up, generator=generator)
    return found


def test_a_lora_is_what_diffusers_makes_of_it(torch, tensors, version, tmp_path):
    pytest.importorskip("peft", reason="peft is not here; see make parity")
    import diffusers
    from safetensors.torch import save_file

    names = lora_of(version.parts["unet"], torch, ("to_q", "to_out.0", "conv1", "proj_in"))
    matrices = {f"unet.{name}": matrix for name, matrix in names.items()}
    text = lora_of(version.parts["text_encoder"], torch, ("k_proj", "fc1"))
    prefix = "" if any(name.startswith("text_model.") for name in text) else "text_model."
    matrices |= {f"text_encoder.{prefix}{name}": matrix for name, matrix in text.items()}
    save_file(matrices, tmp_path / "lora.safetensors")
    pipeline = diffusers.StableDiffusionPipeline(
        **{name: type(part).from_pretrained(version.folder / name) for name, part in version.parts.items()},
        **{"tokenizer": None, "safety_checker": None, "feature_extractor": None},
        scheduler=diffusers.DDIMScheduler.from_pretrained(version.folder / "scheduler"),
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    pipeline.fuse_lora(lora_scale=0.8)
    merged = lora.merged(version.bundle, tmp_path / "lora.safetensors", 0.8)
    context, x, t = version.context(), tensors.random(2, 4, 8, 8), torch.tensor([3, 871])
    theirs = pipeline.text_encoder(version.tokens()).last_hidden_state
    assert float((theirs - context).abs().max()) > 0.01  # the text encoder's part is merged, too
    tensors.close(states(merged, version.tokens()), theirs)
    ours = predict(merged, x, t, Condition(jnp.asarray(context.detach().numpy())))
    tensors.close(ours, pipeline.unet(x, t, context).sample)


def test_an_ip_adapter_is_what_diffusers_makes_of_it(torch, tensors, version, tmp_path):
    from safetensors.torch import save_file

    unet = type(version.parts["unet"]).from_pretrained(version.folder / "unet")
    if unet.config.use_linear_projection:
        pytest.skip("IP-Adapters are released for Stable Diffusion 1")
    vector, generator = 24, torch.Generator().manual_seed(2)
    layers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    numbers = {name: place for place, name in enumerate(unet.attn_processors) if name in layers}
    made = {
        "image_proj": {
            "proj.weight": (4 * WIDTH, vector),
            "proj.bias": (4 * WIDTH,),
            "norm.weight": (WIDTH,),
            "norm.bias": (WIDTH,),
        },
        "ip_adapter": {
            f"{number}.to_{part}_ip.weight": (
                unet.get_submodule(name.removesuffix(".processor")).to_k.out_features,
                WIDTH,
            )
            for name, number in numbers.items()
            for part in ("k", "v")
        },
    }
    state = {
        group: {name: 0.2 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        for group, shapes in made.items()
    }
    save_file(
        {f"{group}.{name}": value for group, part in state.items() for name, value in part.items()},
        tmp_path / "ip.safetensors",
    )
    unet._load_ip_adapter_weights([state])
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.5]
    tokens = version.parts["text_encoder"].config.vocab_size
    tower(vector, vocab_size=tokens).save(tmp_path / "tower", "float32")
    adapted = convert(version.folder, adapter=tmp_path / "ip.safetensors", clip_source=tmp_path / "tower")
    adapted.write(tmp_path / "adapted")
    bundle = Bundle.open(tmp_path / "adapted")
    context, x, t = version.context(), tensors.random(2, 4, 8, 8), torch.tensor([3, 871])
    embeds = tensors.random(2, 1, vector)
    theirs = unet(x, t, context, added_cond_kwargs={"image_embeds": [embeds]}).sample
    apply, variables = bundle.image_adapter.apply, {"params": bundle.params["image_adapter"]}
    tokens = apply(variables, jnp.asarray(embeds[:, 0].numpy()))
    images = ImageTokens(tokens.reshape(2, 1, -1, WIDTH), jnp.full((2, 1), 0.5))
    tensors.close(predict(bundle, x, t, Condition(jnp.asarray(context.detach().numpy()), images=images)), theirs)
    assert ip_adapter.is_ip_adapter({f"{group}.{name}": np.zeros(1) for group in state for name in state[group]})
