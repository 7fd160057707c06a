"""The networks compared with the same networks in PyTorch (diffusers, transformers): interleaved timings, as a table.

make parity                                         # installs what it needs
.venv-parity/bin/python benchmarks/networks.py      # --only unet, --repeats 9, --no-compile, --dtype bfloat16

All programs compute the same outputs from the same weights; the largest difference is printed. On a GPU both sides
compute in bfloat16 with fused attention.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import importlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Otherwise PyTorch's threads spin for a while after each call and take time from the other program.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from rounds import interleave

from rdm_jax.convert import clip, diffusers
from rdm_jax.convert.mapping import assemble
from rdm_jax.models import build_autoencoder, build_clip, build_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.parts import PREPROCESSING
from rdm_jax.training.config import load_architecture


def _library(name: str) -> Any:
    """Returns a module that only this comparison needs; ends the program if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        sys.exit(f"benchmarks/networks.py: {name} is not installed; `make parity` installs it")


def _torch() -> Any:
    return _library("torch")


PRODUCT = 3072  # side of the matrices whose product is the reference for speed


@dataclasses.dataclass(frozen=True)
class Case:
    """One network as two programs.

    Attributes:
      module: PyTorch's.
      call: (module, inputs) to PyTorch's output.
      apply: (parameters, inputs) to ours.
      params: converted from the module.
      inputs: as PyTorch takes them.
    """

    module: Any
    call: Callable[..., Any]
    apply: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]


def _settings(name: str, part: str) -> dict[str, Any]:
    return load_architecture(name).to_dict()[part]


def _numpy(module: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def _random(*shape: int) -> Any:
    return _torch().randn(*shape, generator=_torch().Generator().manual_seed(sum(shape)))


def unet(dtype: str) -> Case:
    """Returns rdm_imagenet's U-Net for two latents of 64x64 with four tokens each, 401 M parameters."""
    inputs = _random(2, 3, 64, 64), _torch().tensor([5, 900]), _random(2, 4, 512)
    return unet_case({**_settings("rdm_imagenet", "denoiser"), "attention_implementation": _fused()}, dtype, inputs)


def unet_case(settings: Mapping[str, Any], dtype: str, inputs: tuple[Any, ...]) -> Case:
    """Returns a U-Net.

    Args:
      settings: of the network, a `denoiser` section.
      dtype: that ours computes in.
      inputs: latents [b, c, h, w], times [b] and tokens [b, n, d], tensors of PyTorch.
    """
    side = inputs[0].shape[-1]
    module: Any = _library("diffusers").UNet2DConditionModel.from_config(diffusers.to_unet_config(settings, side))
    network = build_denoiser({**settings, "dtype": dtype})
    params = assemble(diffusers.unet_plan(_numpy(module), network, frozenset()))

    def apply(params: Any, x: Any, t: Any, context: Any) -> Any:
        return network.apply({"params": params}, x, t, Condition(context))

    return Case(module, lambda net, *inputs: net(*inputs).sample, apply, params, inputs)


def sd15_unet(dtype: str) -> Case:
    """Returns the U-Net of Stable Diffusion 1.5 for one image of 512x512 with guidance: two latents, 77 tokens each."""
    inputs = _random(2, 4, 64, 64), _torch().tensor([500, 500]), _random(2, 77, 768)
    return unet_case({**_settings("sd15", "denoiser"), "attention_implementation": _fused()}, dtype, inputs)


def decoder(dtype: str) -> Case:
    """Returns kl_f16's decoder for one image of 256x256."""
    return decoder_case("kl_f16", 256, dtype)


def sd15_decoder(dtype: str) -> Case:
    """Returns the decoder of Stable Diffusion 1.5 for one image of 512x512."""
    return decoder_case("sd15", 512, dtype)


def decoder_case(name: str, side: int, dtype: str) -> Case:
    """Returns the decoder of an architecture for one image of `side` pixels."""
    settings = _settings(name, "autoencoder")
    module: Any = _library("diffusers").AutoencoderKL.from_config(diffusers.to_vae_config(settings, 1.0, side))
    network = build_autoencoder({**settings, "dtype": dtype})
    params = assemble(diffusers.vae_plan(_numpy(module), network, frozenset()))

    def apply(params: Any, z: Any) -> Any:
        return network.apply({"params": params}, z, method="decode")

    latent = side // network.downsampling
    inputs = (_random(1, settings["z_channels"], latent, latent),)
    return Case(module, lambda net, z: net.decode(z).sample, apply, params, inputs)


def _clip(dtype: str, method: str, call: Callable[..., Any], inputs: Any) -> Case:
    from transformers import CLIPConfig, CLIPModel

    settings = _settings("clip_vit_b32", "clip")
    module: Any = CLIPModel(CLIPConfig.from_dict(clip.to_hugging_face(settings)))
    network = build_clip({**{key: settings[key] for key in settings if key not in PREPROCESSING}, "dtype": dtype})
    params = assemble(clip.clip_plan(_numpy(module), network))

    def apply(params: Any, inputs: Any) -> Any:
        return network.apply({"params": params}, inputs, method=method)

    return Case(module, call, apply, params, (inputs,))


def clip_image(dtype: str) -> Case:
    """Returns CLIP ViT-B/32's image tower for eight images."""
    return _clip(dtype, "encode_image", lambda net, x: net.get_image_features(x).pooler_output, _random(8, 3, 224, 224))


def clip_text(dtype: str) -> Case:
    """Returns CLIP ViT-B/32's text tower for eight captions of 77 tokens."""
    tokens = _torch().randint(0, 49405, (8, 77), generator=_torch().Generator().manual_seed(0))
    tokens[:, 0], tokens[:, 20:] = 49406, 49407
    return _clip(dtype, "encode_text", lambda net, x: net.get_text_features(x).pooler_output, tokens)


CASES: Mapping[str, Callable[[str], Case]] = {
    "unet": unet,
    "decoder": decoder,
    "sd15_unet": sd15_unet,
    "sd15_decoder": sd15_decoder,
    "clip_image": clip_image,
    "clip_text": clip_text,
}


def _fused() -> str | None:
    return "cudnn" if jax.default_backend() == "gpu" else None


def _ours(array: np.ndarray) -> Any:
    """Returns an input as our networks take it: NHWC, integers as int32."""
    array = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    return jnp.asarray(array, jnp.int32 if array.dtype == np.int64 else None)


def programs(case: Case, dtype: str, compiled: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields (name, program) for each program that computes a case; a program waits for its result."""
    apply = jax.jit(case.apply)
    params, inputs = jax.device_put(case.params), tuple(_ours(value.numpy()) for value in case.inputs)
    yield "rdm_jax", lambda: jax.block_until_ready(apply(params, *inputs))
    for name, (call, theirs) in torch_programs(case, dtype, compiled).items():
        yield name, waiting(call, *theirs)


def torch_programs(case: Case, dtype: str, compiled: bool) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    """Returns PyTorch's programs of a case by name, each with the inputs as it takes them, on the GPU if there is one.

    The module itself moves there, and changes its type.
    """
    device, floating = _device(), getattr(_torch(), dtype)
    inputs = [x.to(device, floating if x.is_floating_point() else None) for x in case.inputs]
    case.module.eval().requires_grad_(False).to(device, floating)
    layouts = {"": (case.module, inputs)}
    if case.inputs[0].ndim == 4:
        last = copy.deepcopy(case.module).to(memory_format=_torch().channels_last)
        images = [x.to(memory_format=_torch().channels_last) if x.ndim == 4 else x for x in inputs]
        layouts[", channels-last"] = last, images
    found = {}
    for layout, (module, theirs) in layouts.items():
        calls = {"eager": case.call} | ({"torch.compile": _torch().compile(case.call)} if compiled else {})
        found |= {kind + layout: (functools.partial(call, module), theirs) for kind, call in calls.items()}
    return found


def waiting(call: Callable[..., Any], *inputs: Any) -> Callable[[], Any]:
    """Returns a program of PyTorch that waits for its result."""

    def run() -> Any:
        with _torch().inference_mode():
            result = call(*inputs)
        if _device() == "cuda":
            _torch().cuda.synchronize()
        return result

    return run


def _device() -> str:
    return "cuda" if _torch().cuda.is_available() else "cpu"


def products(dtype: str) -> Mapping[str, Callable[[], Any]]:
    """Returns programs of one large matrix product in JAX and in PyTorch; the faster one is the reference for speed."""
    theirs = _random(PRODUCT, PRODUCT).to(_device(), getattr(_torch(), dtype))
    ours = jnp.asarray(np.ones((PRODUCT, PRODUCT), np.float32), dtype)
    multiply = jax.jit(jnp.matmul)

    return {
        "product in JAX": lambda: jax.block_until_ready(multiply(ours, ours)),
        "product in PyTorch": waiting(_torch().matmul, theirs, theirs),
    }


def operations(case: Case) -> float:
    """Returns the floating-point operations of one call, as PyTorch counts them."""
    counter = _library("torch.utils.flop_counter").FlopCounterMode(display=False)
    with _torch().inference_mode(), counter:
        case.call(case.module, *case.inputs)
    return float(counter.get_total_flops())


def difference(ours: Any, theirs: Any) -> float:
    """Returns the largest difference of our output and another, of ours or PyTorch's, relative to the largest value."""
    if not isinstance(theirs, jax.Array):
        theirs = theirs.float().cpu().numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _quartiles(values: list[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.2f} to {high:.2f}"


def rows(name: str, dtype: str, repeats: int, compiled: bool) -> Iterator[str]:
    """Yields the rows of the table of one case."""
    case = CASES[name](dtype)
    flops = operations(case)
    calls = dict(programs(case, dtype, compiled))
    results = {}
    for program, call in calls.items():
        print(f"{name}: compiling {program}", file=sys.stderr, flush=True)
        results[program] = call()
        call()
    worst = max(difference(results["rdm_jax"], results[other]) for other in calls if other != "rdm_jax")
    times = interleave({**calls, **products(dtype)}, repeats)
    medians = {program: statistics.median(seconds) for program, seconds in times.items()}
    rate = 2 * PRODUCT**3 / min(medians[program] for program in medians if program.startswith("product"))
    others = [program for program in calls if program != "rdm_jax"]
    best = min(others, key=medians.__getitem__)
    ours = times["rdm_jax"]
    for program in calls:
        seconds = medians[program]
        ratios = [theirs / mine for theirs, mine in zip(times[program], ours, strict=True)]
        mark = " (best of PyTorch)" if program == best else ""
        yield (
            f"| {name} | {program}{mark} | {1e3 * seconds:.1f} | {flops / seconds / 1e9:.0f} "
            f"| {flops / seconds / rate:.0%} | {statistics.median(ratios):.2f} | {_quartiles(ratios)} |"
        )
    yield (
        f"| {name} | speed of a matrix product | {1e3 * flops / rate:.1f} | {rate / 1e9:.0f} | 100% | "
        f"| {flops / 1e9:.1f} GFLOP per call; largest relative difference {worst:.0e} |"
    )


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append", help="a network (repeatable)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    dtype = args.dtype or ("bfloat16" if _torch().cuda.is_available() else "float32")
    _torch().set_num_threads(len(os.sched_getaffinity(0)))
    print(f"{machine()}; {dtype}; JAX {jax.__version__} on {jax.default_backend()}, PyTorch {_torch().__version__}\n")
    print("| network | program | ms | GFLOP/s | of a matrix product's | time relative to rdm_jax, paired | quartiles |")
    print("|---|---|---|---|---|---|---|")
    for name in args.only or CASES:
        for row in rows(name, dtype, max(2, args.repeats), not args.no_compile):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
