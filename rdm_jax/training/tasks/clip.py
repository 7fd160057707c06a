"""CLIP on images and captions: the symmetric contrastive loss (https://arxiv.org/abs/2103.00020, section 2.3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from transformers import PreTrainedTokenizerFast

from rdm_jax.bundle import Bundle
from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import within
from rdm_jax.data.image_set import ImageSet
from rdm_jax.data.tokenizer import load_tokenizer, tokenize, train_tokenizer
from rdm_jax.models import IMAGE_TOWERS, TEXT_TOWERS, build_clip
from rdm_jax.training.config import Config
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.schema import Count, Positive, Run, network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.base import Task, training_and_held_out
from rdm_jax.training.workdir import TOKENIZER

MAX_LOGIT_SCALE = float(np.log(100.0))
EVAL_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The tokenizer that is trained on the captions.

    Attributes:
      vocab_size: its largest size.
    """

    vocab_size: Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Both towers.

    Attributes:
      embed_dim: the length of their vectors.
      vision: the image tower.
      text: the text tower.
    """

    embed_dim: Positive
    vision: Annotated[Mapping[str, Any], network(IMAGE_TOWERS, filled=("embed_dim",))]
    text: Annotated[
        Mapping[str, Any],
        network(TEXT_TOWERS, filled=("embed_dim", "vocab_size", "eos_id"), default="transformer"),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a CLIP.

    Attributes:
      shift: the largest shift of images in pixels.
      mirror: whether half of the images are mirrored.
      initial_scale: the inverse temperature at the start; the paper has 14.3.
      views: disjoint random parts of the patches that each image is encoded by.
      image_weight: of the loss between the first two views.
      tokenizer: trained on the captions.
      mean: of pixels in [0, 1], by channel.
      std: of the same.
      model: both towers.
    """

    shift: Count = 0
    mirror: bool = True
    initial_scale: float = 14.3
    views: Positive = 1
    image_weight: Annotated[float, within(0.0)] = 0.0
    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    model: Model

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_scale <= 0:
            raise UserError(f"initial_scale={self.initial_scale} is out of range; give an inverse temperature above 0")
        if self.image_weight and self.views < 2:
            raise UserError(f"image_weight={self.image_weight} compares views; set views to 2 or more")
        vision = self.model.vision
        if self.views > 1 and vision["kind"] != "vit":
            raise UserError(f"views={self.views} is for a ViT; a {vision['kind']} takes views=1")
        if self.views > 1:
            patches = (vision["image_size"] // vision["patch_size"]) ** 2
            if self.views > patches:
                raise UserError(f"views={self.views} of {patches} patches; use 1 to {patches}")


def contrastive_loss(
    image: Float[Array, "b d"], text: Float[Array, "b d"], scale: Float[Array, ""], tokens: Int[Array, "b n"]
) -> Float[Array, ""]:
    """Returns the mean of image-to-text and text-to-image cross entropy, over unit vectors.

    Images that share one caption are no negatives of each other: both sums exclude their other pairs.

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


def crop_and_flip(
    pixels: Float[Array, "b h w 3"], key: Key[Array, ""], shift: int, mirror: bool = True
) -> Float[Array, "b h w 3"]:
    """Returns each image shifted by up to `shift` pixels, its edge repeated, and half of them mirrored if `mirror`."""
    b, h, w, c = pixels.shape
    offset_key, flip_key = jax.random.split(key)
    padded = jnp.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    offsets = jax.random.randint(offset_key, (b, 2), 0, 2 * shift + 1)
    crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c)))
    shifted = crop(padded, offsets)
    if not mirror:
        return shifted
    flip = jax.random.bernoulli(flip_key, 0.5, (b, 1, 1, 1))
    return jnp.where(flip, shifted[:, :, ::-1], shifted)


def disjoint_patches(key: Key[Array, ""], batch: int, patches: int, views: int) -> list[Int[Array, "b m"]]:
    """Returns the patches of each view, random and disjoint: indices [batch, patches // views]."""
    order = jax.random.permutation(key, jnp.tile(jnp.arange(patches), (batch, 1)), axis=1, independent=True)
    count = patches // views
    return [order[:, i * count : (i + 1) * count] for i in range(views)]


@dataclasses.dataclass(frozen=True)
class ClipTask(Task):
    """Trains both towers on images and their captions."""

    config: Config
    images: ImageSet
    held_out: ImageSet
    tokenizer: PreTrainedTokenizerFast
    tokens: Int[np.ndarray, "n length"]
    held_out_tokens: Int[np.ndarray, "m length"]
    module: Any
    settings: dict[str, Any]

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def record(self) -> dict[str, str]:
        """The hash of the images."""
        return {"source": self.images.fingerprint}

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the image [h, w, 3] uint8 and its caption's tokens."""
        return {"image": np.asarray(self.images.images[row]), "tokens": self.tokens[row]}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of both towers, the inverse temperature at `config.initial_scale`; no stats."""
        size = self.settings["vision"]["image_size"]
        pixels, tokens = jnp.zeros((1, size, size, 3)), jnp.zeros((1, self.tokens.shape[1]), jnp.int32)
        params = self.module.init(key, pixels, tokens)["params"]
        scale = jnp.full_like(params["logit_scale"], np.log(self.config.initial_scale))
        return {"clip": {**params, "logit_scale": scale}}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the contrastive loss and the fraction of images that retrieve their own caption.

        With `config.views` = v > 1, every image is encoded as v disjoint random sets of its patches (FLIP,
        https://arxiv.org/abs/2212.00794). Each view is contrasted with the caption, and with weight
        `config.image_weight` the first two with each other (SLIP, https://arxiv.org/abs/2112.12750). The vector then
        keeps what captions do not name, as an artist's style, since every part of the image shows it.
        """
        crop_key, view_key = jax.random.split(key)
        pixels = self._normalize(batch["image"].astype(jnp.float32) / 255.0)
        views = self._views(params, crop_and_flip(pixels, crop_key, self.config.shift, self.config.mirror), view_key)
        text = self.module.apply({"params": params["clip"]}, batch["tokens"], method="encode_text")
        scale = jnp.minimum(jnp.exp(params["clip"]["logit_scale"]), jnp.exp(MAX_LOGIT_SCALE))
        loss = jnp.mean(jnp.stack([contrastive_loss(view, text, scale, batch["tokens"]) for view in views]))
        metrics = {"accuracy": _own_caption(views[0], text, batch["tokens"]), "scale": scale}
        if not self.config.image_weight:
            return loss, (metrics, extras.stats)
        between = contrastive_loss(views[0], views[1], scale, jnp.arange(len(text))[:, None])
        return loss + self.config.image_weight * between, ({**metrics, "views": between}, extras.stats)

    def _views(self, params: Any, pixels: Float[Array, "b h w 3"], key: Key[Array, ""]) -> list[Float[Array, "b d"]]:
        encode = functools.partial(self.module.apply, {"params": params["clip"]}, method="encode_image")
        if self.config.views == 1:
            return [encode(pixels)]
        kept = disjoint_patches(key, len(pixels), self.module.vision.patches, self.config.views)
        together = encode(jnp.concatenate([pixels] * len(kept)), jnp.concatenate(kept))
        return jnp.split(together, len(kept))

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields how often held-out images retrieve their caption among 256, and how often neighbors share a label."""
        vectors, accuracies = [], []
        size = min(EVAL_BATCH, len(self.held_out))
        for start in range(0, len(self.held_out) - size + 1, size):
            rows = slice(start, start + size)
            pixels = self._normalize(jnp.asarray(self.held_out.images[rows], jnp.float32) / 255.0)
            tokens = jnp.asarray(self.held_out_tokens[rows])
            image, text = _both_towers(self.module, params["clip"], pixels, tokens)
            accuracies.append(float(_own_caption(image, text, tokens)))
            vectors.append(np.asarray(image))
        if not vectors:
            return
        yield "accuracy", float(np.mean(accuracies))
        yield from neighbor_agreement(np.concatenate(vectors), self.held_out.attributes)
        yield from linear_probe(np.concatenate(vectors), self.held_out.attributes)

    @property
    def model(self) -> ModelRecord:
        """The two towers."""
        return ModelRecord.of({"name": self.config.name, "clip": self.settings})

    def export(self, params: Any) -> Bundle:
        """Returns the model with averaged parameters."""
        return self.model.bundle(params, tokenizer=self.tokenizer)

    def _normalize(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        mean, std = (jnp.asarray(self.settings[name], jnp.float32)[None, None, None] for name in ("mean", "std"))
        return (pixels - mean) / std


@functools.partial(jax.jit, static_argnums=0)
def _both_towers(module: Any, params: Any, pixels: Array, tokens: Array) -> tuple[Array, Array]:
    return module.apply({"params": params}, pixels, tokens)[:2]


def _own_caption(image: Array, text: Array, tokens: Array) -> Array:
    best = jnp.argmax(image @ (text / jnp.linalg.norm(text, axis=-1, keepdims=True)).T, axis=1)
    return jnp.mean(jnp.all(tokens[best] == tokens, axis=-1).astype(jnp.float32))


def neighbor_agreement(
    vectors: Float[np.ndarray, "n d"], attributes: list[dict[str, str]], k: int = 4
) -> Iterator[tuple[str, float]]:
    """Yields, for each label, how often the k nearest other images have the same one."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :k]
    for label in sorted(attributes[0]):
        values = np.asarray([str(attribute.get(label)) for attribute in attributes[: len(vectors)]])
        yield f"neighbor_{label}", float(np.mean(values[nearest] == values[:, None]))


def linear_probe(
    vectors: Float[np.ndarray, "n d"], attributes: list[dict[str, str]], ridge: float = 1e-3
) -> Iterator[tuple[str, float]]:
    """Yields, for each label, the accuracy of ridge regression from one half of the vectors on the other half."""
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


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> ClipTask:
    """Returns the task; where the workdir has no tokenizer, takes that of `start` or trains one on the captions."""
    images, held_out = training_and_held_out(config.data, progress)
    file = workdir / TOKENIZER
    if not file.exists():
        with files.writing(file), files.replaced(file) as temporary:
            _write_tokenizer(temporary, images.captions, config.tokenizer.vocab_size, start)
    tokenizer = load_tokenizer(file)
    length = config.model.text.context_length
    model = config.model.to_dict()
    model["text"] |= {"vocab_size": len(tokenizer), "eos_id": tokenizer.eos_token_id}
    settings = {**model, "mean": list(config.mean), "std": list(config.std)}
    return ClipTask(
        config,
        images,
        held_out,
        tokenizer,
        tokenize(tokenizer, images.captions, length),
        tokenize(tokenizer, held_out.captions, length),
        build_clip(model),
        settings,
    )


def _write_tokenizer(file: Path, captions: Sequence[str], vocab_size: int, start: Bundle | None) -> None:
    """Writes the tokenizer of a bundle, or one that is trained on captions."""
    if start and start.tokenizer:
        file.write_bytes(start.tokenizer.backend_tokenizer.to_str(pretty=True).encode())
    else:
        train_tokenizer(captions, vocab_size, file)
