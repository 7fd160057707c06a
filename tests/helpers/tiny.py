"""A model of a few thousand random weights and databases of a few colored squares, for end-to-end tests in seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rdm_jax import parts
from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.data.examples import Example
from rdm_jax.data.tokenizer import load_tokenizer, train_tokenizer
from rdm_jax.models import abstract_params
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.encoder import ClipEncoder

WIDTH = 16

CONFIG = {
    "schema": 2,
    "name": "tiny",
    "head": "diffusion",
    "clip": {
        "embed_dim": WIDTH,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "vision": {"kind": "vit", "width": 16, "layers": 1, "heads": 2, "patch_size": 8, "image_size": 16},
        "text": {"vocab_size": 300, "context_length": 8, "width": 16, "layers": 1, "heads": 2, "eos_id": 1},
    },
    "autoencoder": {
        "kind": "kl",
        "ch": 8,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "resolution": 16,
        "z_channels": 2,
        "embed_dim": 2,
        "num_groups": 4,
    },
    "latents": {"scale": 0.5, "shift": [0.1, -0.2]},
    "denoiser": {
        "kind": "unet",
        "in_channels": 2,
        "out_channels": 2,
        "model_channels": 8,
        "channel_mult": [1],
        "num_res_blocks": 1,
        "attention_resolutions": [1],
        "num_head_channels": 8,
        "context_dim": WIDTH,
        "num_groups": 4,
    },
    "diffusion": {"num_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "prediction": "v"},
    "conditioning": {"neighbors": 2, "unit_tokens": True, "null": "zeros"},
    "sampling": {"sampler": "ddim", "steps": 4, "eta": 0.0, "guidance_scale": 2.0, "height": 16, "width": 16},
}


def bundle(**changes: Any) -> Bundle:
    """Returns a model with random parameters, its configuration changed in some parts."""
    config = {**CONFIG, **changes}
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(["a red boat", "a blue tree"], 300, Path(folder) / "tokenizer.json")
        tokenizer = load_tokenizer(Path(folder) / "tokenizer.json")
    described = [part for part in parts.PARTS if part in config]
    return Bundle(config, {part: random_params(config, part) for part in described}, tokenizer)


def random_params(config: dict[str, Any], part: str, seed: int = 0) -> dict[str, Any]:
    """Returns random parameters of one part of a configuration."""
    return randomize(trees.unflatten(abstract_params(parts.build(config, part))), seed)


def randomize(tree: Any, seed: int = 0) -> Any:
    """Returns a tree of random arrays with the shapes of another: norms about 1, products that keep the variance.

    The last convolutions are smaller, so that most pixels stay within their range.
    """
    generator = np.random.default_rng(seed)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        noise = generator.standard_normal(shape.shape).astype(np.float32)
        name = jax.tree_util.keystr(path)
        if name.endswith("['scale']"):
            return np.asarray(1 + 0.1 * noise, np.float32)
        fan_in = max(1, np.prod(shape.shape[:-1]))
        return np.asarray((0.3 if "conv_out" in name else 1.0) * noise / np.sqrt(fan_in), np.float32)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def bundle_with_roles(content_latents: bool = False) -> Bundle:
    """Returns a model with two roles of neighbors and random parameters."""
    style_encoder = {"image_size": 16, "token_dim": WIDTH, "widths": [8, 8], "num_groups": 4, "vector_dim": 8}
    channels = 5 + CONFIG["denoiser"]["in_channels"] * content_latents
    conditioning = {**CONFIG["conditioning"], "content_latents": content_latents}
    denoiser = {**CONFIG["denoiser"], "condition_channels": channels}
    return bundle(style_encoder=style_encoder, denoiser=denoiser, conditioning=conditioning)


class Squares:
    """A source of n squares, each of one random colour."""

    def __init__(self, count: int, seed: int) -> None:
        self._colors = np.random.default_rng(seed).integers(0, 256, (count, 3), dtype=np.uint8)
        self.name, self.captions, self.fingerprint = "squares", "none", f"{seed:064x}"

    def __len__(self) -> int:
        return len(self._colors)

    def __getitem__(self, index: int) -> Example:
        image = np.broadcast_to(self._colors[index], (16, 16, 3)).copy()
        return Example(image, f"square {index}", f"squares/{index:03d}.png", {})

    @property
    def shard_lengths(self) -> tuple[int, ...]:
        return (len(self),)

    def labels(self, index: int) -> dict[str, str]:
        return {"caption": f"square {index}", "path": f"squares/{index:03d}.png"}


def database(folder: Path, name: str, model: Bundle, count: int = 12, seed: int = 0) -> Path:
    """Builds a database of squares and returns its folder."""
    job = BuildJob.of(Squares(count, seed), ClipEncoder(model, batch_size=8), BuildOptions(name=name))
    build_database(job, folder / name)
    return folder / name
