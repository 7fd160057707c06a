"""CLIP on pictures and captions: the symmetric contrastive loss (https://arxiv.org/abs/2103.00020, section 2.3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from transformers import PreTrainedTokenizerFast

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet
from rdm_jax.data.tokenizer import load_tokenizer, tokenize, train_tokenizer
from rdm_jax.models import build_clip
from rdm_jax.training.config import Config
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress, Task, training_and_held_out

MAX_LOGIT_SCALE = float(np.log(100.0))
EVAL_BATCH = 256


def contrastive_loss(
    image: Float[Array, "b d"], text: Float[Array, "b d"], scale: Float[Array, ""], tokens: Int[Array, "b n"]
) -> Float[Array, ""]:
    """Returns the mean of image-to-text and text-to-image cross entropy, over unit vectors.

    Pictures that share one caption are no negatives of each other: their other pairs are left out of both sums.

    Args:
      image: [b, d] image embeddings, any length.
      text: [b, d] text embeddings, any length.
      scale: the inverse temperature.
      tokens: [b, n] the captions, to find equal ones.
    """
    image = image / jnp.linalg.norm(image, axis=-1, keepdims=True)
    text = text / jnp.linalg.norm(text, axis=-1, keepdims=True)
    logits = scale * image @ text.T
    same = jnp.all(tokens[:, None, :] == tokens[None, :, :], axis=-1) & ~jnp.eye(len(tokens), dtype=bool)
    logits = jnp.where(same, -jnp.inf, logits)
    diagonal = jnp.diagonal(logits)
    to_text = jax.nn.logsumexp(logits, axis=1) - diagonal
    to_image = jax.nn.logsumexp(logits, axis=0) - diagonal
    return 0.5 * jnp.mean(to_text + to_image)


def crop_and_flip(pixels: Float[Array, "b h w 3"], key: Key[Array, ""], shift: int) -> Float[Array, "b h w 3"]:
    """Returns each picture shifted by up to `shift` pixels, its edge repeated, and half of them mirrored."""
    b, h, w, c = pixels.shape
    offset_key, flip_key = jax.random.split(key)
    padded = jnp.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    offsets = jax.random.randint(offset_key, (b, 2), 0, 2 * shift + 1)
    crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c)))
    shifted = crop(padded, offsets)
    flip = jax.random.bernoulli(flip_key, 0.5, (b, 1, 1, 1))
    return jnp.where(flip, shifted[:, :, ::-1], shifted)


def disjoint_shares(key: Key[Array, ""], batch: int, patches: int, views: int) -> list[Int[Array, "b m"]]:
    """Returns for each view the patches that it keeps: equal random shares [batch, patches // views], none in two."""
    order = jax.random.permutation(key, jnp.tile(jnp.arange(patches), (batch, 1)), axis=1, independent=True)
    share = patches // views
    return [order[:, i * share : (i + 1) * share] for i in range(views)]


@dataclasses.dataclass(frozen=True)
class ClipTask(Task):
    """Trains both towers from nothing on the pictures' captions."""

    config: Config
    pictures: ImageSet
    held_out: ImageSet
    tokenizer: PreTrainedTokenizerFast
    tokens: Int[np.ndarray, "n length"]
    held_out_tokens: Int[np.ndarray, "m length"]
    module: Any
    settings: dict[str, Any]

    @property
    def size(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    @property
    def record(self) -> dict[str, str]:
        """The hash of the pictures."""
        return {"source": self.pictures.fingerprint}

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the picture [h, w, 3] uint8 and its caption's tokens."""
        return {"image": np.asarray(self.pictures.images[row]), "tokens": self.tokens[row]}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns fresh parameters of both towers, and no stats; the inverse temperature at `config.initial_scale`."""
        size = self.settings["vision"]["image_size"]
        pixels, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, self.tokens.shape[1]), jnp.int32)
        params = self.module.init(key, pixels, tokens)["params"]
        scale = jnp.full_like(params["logit_scale"], np.log(self.config.initial_scale))
        return {"clip": {**params, "logit_scale": scale}}, {}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the contrastive loss and the share of pictures that find their own caption.

        With `config.views` = v > 1 every picture is seen as v disjoint random shares of its patches (FLIP,
        https://arxiv.org/abs/2212.00794). Each share answers to the caption, and by `config.image_weight` the first
        two to each other (SLIP, https://arxiv.org/abs/2112.12750): so the vector keeps what captions never name, as
        an artist's hand, for any part of the picture shows that.
        """
        crop_key, view_key = jax.random.split(key)
        pixels = self._normalise(batch["image"].astype(jnp.float32) / 255.0)
        views = self._views(params, crop_and_flip(pixels, crop_key, self.config.shift), view_key)
        text = self.module.apply({"params": params["clip"]}, batch["tokens"], method="encode_text")
        scale = jnp.minimum(jnp.exp(params["clip"]["logit_scale"]), jnp.exp(MAX_LOGIT_SCALE))
        loss = jnp.mean(jnp.stack([contrastive_loss(view, text, scale, batch["tokens"]) for view in views]))
        metrics = {"accuracy": _own_caption(views[0], text, batch["tokens"]), "scale": scale}
        if not self.config.image_weight:
            return loss, (metrics, held.stats)
        between = contrastive_loss(views[0], views[1], scale, jnp.arange(len(text))[:, None])
        return loss + self.config.image_weight * between, ({**metrics, "views": between}, held.stats)

    def _views(self, params: Any, pixels: Float[Array, "b h w 3"], key: Key[Array, ""]) -> list[Float[Array, "b d"]]:
        encode = functools.partial(self.module.apply, {"params": params["clip"]}, method="encode_image")
        if self.config.views == 1:
            return [encode(pixels)]
        kept = disjoint_shares(key, len(pixels), self.module.vision.patches, self.config.views)
        together = encode(jnp.concatenate([pixels] * len(kept)), jnp.concatenate(kept))
        return jnp.split(together, len(kept))

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields how often held-out pictures find their caption among 256, and how often neighbours share a label."""
        vectors, accuracies = [], []
        size = min(EVAL_BATCH, len(self.held_out))
        for start in range(0, len(self.held_out) - size + 1, size):
            rows = slice(start, start + size)
            pixels = self._normalise(jnp.asarray(self.held_out.images[rows], jnp.float32) / 255.0)
            tokens = jnp.asarray(self.held_out_tokens[rows])
            image, text = _both_towers(self.module, params["clip"], pixels, tokens)
            accuracies.append(float(_own_caption(image, text, tokens)))
            vectors.append(np.asarray(image))
        if not vectors:
            return
        yield "accuracy", float(np.mean(accuracies))
        yield from neighbour_agreement(np.concatenate(vectors), self.held_out.attributes)
        yield from linear_probe(np.concatenate(vectors), self.held_out.attributes)

    def export(self, params: Any) -> Bundle:
        """Returns the bundle of the two towers and the tokenizer."""
        return Bundle({"name": self.config.name, "clip": self.settings}, {"clip": params["clip"]}, self.tokenizer)

    def _normalise(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        mean, std = (jnp.asarray(self.settings[name], jnp.float32)[None, None, None] for name in ("mean", "std"))
        return (pixels - mean) / std


@functools.partial(jax.jit, static_argnums=0)
def _both_towers(module: Any, params: Any, pixels: Array, tokens: Array) -> tuple[Array, Array]:
    return module.apply({"params": params}, pixels, tokens)[:2]


def _own_caption(image: Array, text: Array, tokens: Array) -> Array:
    best = jnp.argmax(image @ (text / jnp.linalg.norm(text, axis=-1, keepdims=True)).T, axis=1)
    return jnp.mean(jnp.all(tokens[best] == tokens, axis=-1).astype(jnp.float32))


def neighbour_agreement(
    vectors: Float[np.ndarray, "n d"], attributes: list[dict[str, str]], k: int = 4
) -> Iterator[tuple[str, float]]:
    """Yields, for each label, how often a picture's k nearest other pictures carry the same one."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :k]
    for label in sorted(attributes[0]):
        values = np.asarray([str(attribute.get(label)) for attribute in attributes[: len(vectors)]])
        yield f"neighbour_{label}", float(np.mean(values[nearest] == values[:, None]))


def linear_probe(
    vectors: Float[np.ndarray, "n d"], attributes: list[dict[str, str]], ridge: float = 1e-3
) -> Iterator[tuple[str, float]]:
    """Yields, for each label, how often ridge regression from one half of the vectors finds it in the other half."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    inputs = np.pad(unit - unit.mean(axis=0), ((0, 0), (0, 1)), constant_values=1.0)
    seen, unseen = inputs[::2], inputs[1::2]
    gram = seen.T @ seen / len(seen)
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    for label in sorted(attributes[0]):
        values = np.asarray([str(attribute.get(label)) for attribute in attributes[: len(vectors)]])
        names, classes = np.unique(values, return_inverse=True)
        weights = np.linalg.solve(gram, seen.T @ np.eye(len(names))[classes[::2]] / len(seen))
        yield f"probe_{label}", float(np.mean(np.argmax(unseen @ weights, axis=1) == classes[1::2]))


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> ClipTask:
    """Returns the task; where the workdir has no tokenizer, takes that of `start` or trains one on the captions.

    Raises:
      UserError: the views or the initial scale are not what the towers can take.
    """
    _check_views(config)
    pictures, held_out = training_and_held_out(config.data, progress)
    file = workdir / "tokenizer.json"
    if not file.exists() and start and start.tokenizer:
        start.tokenizer.backend_tokenizer.save(str(file))
    elif not file.exists():
        train_tokenizer(pictures.captions, config.tokenizer.vocab_size, file)
    tokenizer = load_tokenizer(file)
    length = config.model.text.context_length
    model = config.model.to_dict()
    model["text"] |= {"vocab_size": len(tokenizer), "eos_id": tokenizer.eos_token_id}
    settings = {**model, "mean": list(config.mean), "std": list(config.std)}
    return ClipTask(
        config,
        pictures,
        held_out,
        tokenizer,
        tokenize(tokenizer, pictures.captions, length),
        tokenize(tokenizer, held_out.captions, length),
        build_clip(model),
        settings,
    )


def _check_views(config: Config) -> None:
    vision = config.model.vision
    if config.initial_scale <= 0:
        raise UserError(
            f"initial_scale={config.initial_scale}: an inverse temperature lies above 0; the paper has 14.3"
        )
    if config.image_weight and config.views < 2:
        raise UserError(f"image_weight={config.image_weight} compares views; set views to 2 or more")
    if config.views > 1 and vision.kind != "vit":
        raise UserError(f"views={config.views} is for a ViT; a {vision.kind} takes views=1")
    patches = (vision.image_size // vision.patch_size) ** 2 if vision.kind == "vit" else config.views
    if not 1 <= config.views <= patches:
        raise UserError(f"views={config.views} does not share out {patches} patches; use 1 to {patches}")
