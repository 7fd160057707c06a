"""The largest difference between converted networks and the outputs of the original programs.

RDM_GOLDEN=FOLDER python benchmarks/parity.py   # the folder of those outputs
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.diffusion.samplers import DDIM, PLMS, sample
from rdm_jax.diffusion.schedule import build_schedule
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.models.condition import Condition

Row = tuple[str, Any, np.ndarray]


def rows(golden: Path, folder: Path) -> Iterator[Row]:
    """Yields (name, our output, the original's); converted bundles are written to `folder`."""
    for weights, key in (("raw", "out"), ("ema", "out_ema")):
        yield f"U-Net, {weights} weights", *_unet(golden, folder, weights, key)
    yield from _kl(golden, folder)
    for name in ("vq_f4", "vq_f8", "vq_f16", "vq_f4_noattn"):
        data, bundle = np.load(golden / f"{name}.npz"), _bundle(golden, folder, f"{name}_small.ckpt")
        yield f"{name.replace('_', '-')}, encoder", _stage(bundle, "encode", data["image"]), data["h"]
        yield f"{name.replace('_', '-')}, decoder", _stage(bundle, "decode", data["h"]), data["dec_from_h"]
    for name, file in (("hf_clip", "hf_clip"), ("openai_vit", "openai_vit.pt"), ("openai_rn", "openai_rn.pt")):
        data, bundle = np.load(golden / f"clip/{name}.npz"), _bundle(golden, folder, f"clip/{file}")
        tokens, pixels = jnp.asarray(data["input_ids"], jnp.int32), _nhwc(data["pixel_values"])
        yield f"CLIP {name}, text", _clip(bundle, "encode_text", tokens), data["text_features"]
        yield f"CLIP {name}, image", _clip(bundle, "encode_image", pixels), data["image_features"]
    runs = (("ddim", DDIM(), 10), ("ddim_S30", DDIM(), 30), ("ddim_noguidance", DDIM(), 5), ("plms", PLMS(), 10))
    for name, sampler, steps in runs:
        yield f"whole run, {name}", *_run(golden, folder, "rdm_small", name, sampler, steps)
    yield "whole run, VQ model", *_run(golden, folder, "rdm_vq_small", "rdm_vq", DDIM(), 10)
    for model in ("sd1", "sd2"):
        yield from _stable_diffusion(golden, folder, model)


def _bundle(golden: Path, folder: Path, name: str, weights: str | None = None) -> Bundle:
    out = folder / f"{name.replace('/', '-')}-{weights}"
    if not out.exists():
        convert(golden / name, weights=weights).write(out)
    return Bundle.open(out)


def _unet(golden: Path, folder: Path, weights: str, key: str) -> tuple[Any, np.ndarray]:
    data, bundle = np.load(golden / "unet.npz"), _bundle(golden, folder, "rdm_small.ckpt", weights)
    inputs = _nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), Condition(jnp.asarray(data["context"]))
    return jax.jit(bundle.denoiser.apply)({"params": bundle.params["denoiser"]}, *inputs), data[key]


def _kl(golden: Path, folder: Path) -> Iterator[Row]:
    data, bundle = np.load(golden / "kl_f16.npz"), _bundle(golden, folder, "kl_f16_small.ckpt")
    yield "kl-f16, encoder", _stage(bundle, "encode", data["image"]), data["moments"]
    yield "kl-f16, decoder", _stage(bundle, "decode", data["mean"]), data["dec_mode"]


def _stage(bundle: Bundle, method: str, x: np.ndarray) -> Any:
    apply: Any = jax.jit(lambda params, x: bundle.autoencoder.apply({"params": params}, x, method=method))
    return apply(bundle.params["autoencoder"], _nhwc(x))


def _clip(bundle: Bundle, method: str, inputs: Any) -> Any:
    apply: Any = jax.jit(lambda params, x: bundle.clip.apply({"params": params}, x, method=method))
    return apply(bundle.params["clip"], inputs)


def _run(golden: Path, folder: Path, model: str, name: str, sampler: Any, steps: int) -> tuple[Any, np.ndarray]:
    data, bundle = np.load(golden / f"{name}.npz"), _bundle(golden, folder, f"{model}.ckpt")
    context, scale = jnp.asarray(data["context"]), jnp.float32(data["scale"])

    def apply(x: jax.Array, t: jax.Array, context: jax.Array) -> Any:
        """Returns the U-Net's output."""
        return bundle.denoiser.apply({"params": bundle.params["denoiser"]}, x, t, Condition(context))

    guided = classifier_free_denoiser(apply, context, jnp.zeros_like(context), scale, "eps")
    denoiser = guided if scale != 1 else make_denoiser(apply, context, "eps")
    plan = sampler.plan(build_schedule(bundle.config["diffusion"]), steps)
    return jax.jit(lambda x: sample(sampler, plan, x, denoiser))(_nhwc(data["x_T"])), data["samples"]


def _stable_diffusion(golden: Path, folder: Path, model: str) -> Iterator[Row]:
    data, bundle = (
        np.load(golden / f"heads/sd/{model}.npz"),
        _bundle(golden, folder, f"heads/sd/{model}_small_diffusers"),
    )
    tokens, context = jnp.asarray(data["input_ids"], jnp.int32), jnp.asarray(data["context"])
    encode: Any = jax.jit(lambda params, x: bundle.text_encoder.apply({"params": params}, x))
    yield f"{model}, text states", encode(bundle.params["text_encoder"], tokens), data["context"]
    inputs = _nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), Condition(context[jnp.asarray([0, 2])])
    network: Any = jax.jit(bundle.denoiser.apply)
    yield f"{model}, U-Net", network({"params": bundle.params["denoiser"]}, *inputs), data["model_output"]
    yield f"{model}, encoder", _stage(bundle, "encode", data["image"]), data["moments"]
    latents = data["ddim_x"][-1] / np.float32(bundle.config["latents"]["scale"])
    yield f"{model}, decoder", _stage(bundle, "decode", latents), data["decoded"]

    def apply(x: jax.Array, t: jax.Array, context: jax.Array) -> Any:
        """Returns the U-Net's output."""
        return bundle.denoiser.apply({"params": bundle.params["denoiser"]}, x, t, Condition(context))

    null, scale = jnp.repeat(context[1:2], 2, axis=0), jnp.float32(data["guidance_scale"][0])
    prediction = bundle.config["diffusion"]["prediction"]
    denoiser = classifier_free_denoiser(apply, context[jnp.asarray([0, 2])], null, scale, prediction)
    plan = DDIM().plan(build_schedule(bundle.config["diffusion"]), 4)
    ours = jax.jit(lambda x: sample(DDIM(), plan, x, denoiser))(_nhwc(data["ddim_x_T"]))
    yield f"{model}, four steps of DDIM", ours, data["ddim_x"][-1]
    yield f"{model}, four steps of DDIM by diffusers", ours, data["diffusers_ddim_final"]


def _nhwc(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    golden = os.environ.get("RDM_GOLDEN", "")
    if not golden or not (Path(golden) / "unet.npz").is_file():
        sys.stderr.write("set RDM_GOLDEN to the folder of the original programs' outputs\n")
        return 2
    jax.config.update("jax_default_matmul_precision", "highest")
    print(f"float32; {machine()}\n\n| output | largest value | largest error | relative error |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what, ours, theirs in rows(Path(golden), Path(folder)):
            ours = np.asarray(ours)
            ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
            error, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
            print(f"| {what} | {largest:.3g} | {error:.1e} | {error / largest:.1e} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
