"""A diffusion model with two roles of neighbors: content shows what is generated, style shows how.

The whole set of images lies on the devices, and a batch is the numbers of its rows: partners, colors and the varied
content of every example come from random numbers in the compiled step, new in every epoch. A record is a group of
images of one style, which share their style neighbors. The denoiser and the style encoder are trained together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.structure import ink, structure, varied
from rdm_jax.conditioning.views import View
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.models import (
    STYLE_ENCODER,
    build_denoiser,
    build_style_encoder,
    with_sizes,
)
from rdm_jax.models.condition import Condition
from rdm_jax.models.patch_encoder import PatchEncoder
from rdm_jax.models.style_encoder import StyleEncoder
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import Config
from rdm_jax.training.denoising import denoising_loss, diffusion_section, output_channels
from rdm_jax.training.groups import Groups
from rdm_jax.training.labels import attribute
from rdm_jax.training.latents import Latents, open_latents
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.naming import HEAD, init_head, naming_loss
from rdm_jax.training.partners import (
    Partners,
    find_partners,
    sample_content_partners,
    sample_style_partners,
    shows_another,
)
from rdm_jax.training.restyling import with_restyled
from rdm_jax.training.role_settings import Schema as Schema
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.base import EVAL_BATCHES, Task, held_out_loss, spread
from rdm_jax.training.tasks.conditioned import open_base


@dataclasses.dataclass(frozen=True)
class RolesTask(Task):
    """Trains a denoiser and a style encoder on labeled images.

    Attributes:
      base: the bundle with the frozen encoder and first stage.
      images: the images.
      texts: [captions, d] the encoder's vector of each caption, scaled to length 1; row 0, no caption, is zeros.
      caption: [n] the row of each image's caption.
      partners: of the images.
      groups: the records of an epoch.
      latents: the first stage with the scale of its latents; of the images that are shown, if encoded ahead.
      module: the denoiser.
      encoder: the style encoder.
      view: what it takes of an image.
      settings: {part: configuration} of both.
    """

    config: Config
    base: Bundle
    images: ImageSet
    texts: Float[np.ndarray, "m d"]
    caption: Int[np.ndarray, " n"]
    partners: Partners
    groups: Groups
    latents: Latents
    module: Any
    encoder: StyleEncoder | PatchEncoder
    view: View
    settings: Mapping[str, dict[str, Any]]

    @property
    def size(self) -> int:
        """The number of records in an epoch."""
        return len(self.groups)

    @property
    def frozen(self) -> Any:
        """The first stage's parameters, the whole set, and its latents where they are encoded ahead."""
        whole = {"images": np.asarray(self.images.images), "texts": self.texts, "caption": self.caption}
        parts = dict.fromkeys(("autoencoder", *(part for part in self.view.parts if part != "denoiser")))
        return {
            **{part: self.base.params[part] for part in parts},
            "partners": self.partners,
            **whole,
            **self._moments,
        }

    @property
    def _moments(self) -> dict[str, np.ndarray]:
        """What the first stage made of the images that are shown, and the place of each image among them."""
        if self.latents.moments is None:
            return {}
        place = np.zeros(len(self.images), np.int32)
        place[self.groups.shown] = np.arange(len(self.groups.shown))
        return {"moments": np.asarray(self.latents.moments), "place": place}

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the images and of the base."""
        return {"source": self.images.fingerprint, "base": self.base.digest}

    @property
    def held_out(self) -> Int[np.ndarray, " m"]:
        """The images kept for evaluation."""
        return self.groups.held_out

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return build_schedule(self.config.diffusion.to_dict())

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns the numbers of a group of images of one style, [group]."""
        return {"row": self.groups.read(row, generator).astype(np.int32)}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the denoiser, the style encoder and the head that names styles; no stats."""
        keys = jax.random.split(key, 3)
        x, t = jnp.zeros((1, *self.latents.shape)), jnp.zeros((1,))
        empty = Condition(jnp.zeros((1, 1, self.encoder.token_dim)))
        styles = int(np.max(self.partners.style)) + 1
        return {
            "denoiser": self.module.init(keys[0], x, t, empty)["params"],
            "style_encoder": self.encoder.init(keys[1], jnp.zeros(self.encoder.smallest_inputs[0].shape))["params"],
            HEAD: init_head(keys[2], self.encoder.vector_dim, styles),
        }, {}

    def averaged(self, params: Any) -> Any:
        """Returns the exported parts."""
        return {part: params[part] for part in params if part != HEAD}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the error of the prediction and of the styles' names, with both and the error by bands of time."""
        data, config = extras.frozen, self.config.conditioning
        example_key, posterior_key, noise_key, time_key, dropout_key = jax.random.split(key, 5)
        example = self.example(example_key, data, batch["row"])
        x0 = self.x0(data, example, posterior_key)
        tokens, vectors = self.encode_styles({**data, **params}, example["styles"])
        keys = noise_key, time_key, dropout_key
        denoising, bands = denoising_loss(
            self.config, self.schedule, self.module, params["denoiser"], x0, self.condition(data, example, tokens), keys
        )
        metrics = {"denoising": denoising, **bands}
        if HEAD not in params:  # in an evaluation
            return denoising, (metrics, extras.stats)
        styles = jnp.repeat(data["partners"].style[batch["row"][:, 0]], config.neighbors)
        naming, named = naming_loss(params[HEAD], vectors, styles)
        metrics |= {"naming": naming, "named": named}
        return denoising + config.naming * naming, (metrics, extras.stats)

    def x0(self, data: Any, example: dict[str, Array], key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """Returns the latents of a batch's images, sampled from the posterior of the first stage.

        Args:
          data: `frozen`, on the devices.
          example: what `example` returned.
          key: of the random numbers.
        """
        if "moments" in data:
            return self.latents.x0(data, {"moments": data["moments"][data["place"][example["row"]]]}, key)
        return self.latents.x0(data, {"image": example["image"]}, key)

    def encode_styles(
        self, params: Any, images: Float[Array, "n s s 3"]
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n v"]]:
        """Returns the style encoder's tokens and vectors of images in [-1, 1].

        Args:
          params: {part: parameters} of the style encoder and of what its view needs.
          images: style neighbors.
        """
        encoded: Any = self.encoder.apply({"params": params["style_encoder"]}, self.view(params, images))
        return encoded

    def example(self, key: Key[Array, ""], data: Any, groups: Int[Array, "b g"]) -> dict[str, Array]:
        """Returns what a batch is made of: images, style neighbors, content, texts, and what is left out."""
        config, partners, (b, g) = self.config.conditioning, data["partners"], groups.shape
        keys, rows = jax.random.split(key, 6), groups.reshape(-1)
        style_rows = sample_style_partners(keys[0], partners, groups[:, 0], config.neighbors)
        content_rows, itself = sample_content_partners(keys[1], partners, rows, jnp.asarray(config.content_odds))
        content = varied(keys[2], ink(_floats(data["images"][content_rows])), itself)
        dropped = self._dropped(keys[3], b * g)
        count_key, some_key = keys[4:]
        fewer = jax.random.randint(count_key, (b, 1), 1, config.neighbors + 1)
        count = jnp.where(jax.random.bernoulli(some_key, 0.5, (b, 1)), fewer, config.neighbors)
        present = jnp.repeat(jnp.arange(config.neighbors)[None] < count, g, axis=0)
        others = shows_another(partners, rows, jnp.repeat(style_rows, g, axis=0))
        return {
            "row": rows,
            "image": data["images"][rows],
            "styles": _floats(data["images"][style_rows.reshape(-1)]),
            "usable": others & present & ~dropped["style"][:, None],
            "content": content,
            "has_content": ~dropped["content"],
            "text": data["texts"][data["caption"][rows]] * ~dropped["text"][:, None],
        }

    def _dropped(self, key: Key[Array, ""], count: int) -> dict[str, Array]:
        """Returns which examples lack each role."""
        config, keys = self.config.conditioning, jax.random.split(key, 4)
        everything = jax.random.bernoulli(keys[0], config.null_probability, (count,))
        rates = {"text": config.text_dropout, "style": config.style_dropout, "content": config.content_dropout}
        return {
            role: everything | jax.random.bernoulli(one, rate, (count,))
            for one, (role, rate) in zip(keys[1:], rates.items(), strict=True)
        }

    def condition(self, data: Any, example: dict[str, Array], tokens: Float[Array, "bk n d"]) -> Condition:
        """Returns the condition of a batch: the text's token, those of the style neighbors, the content's channels.

        Args:
          data: `frozen`, on the devices.
          example: what `example` returned.
          tokens: of all style neighbors.
        """
        b, k = example["usable"].shape
        of_groups = tokens.reshape(-1, k * tokens.shape[1], tokens.shape[2])
        style = jnp.repeat(of_groups, b // len(of_groups), axis=0)
        weights = jnp.repeat(example["usable"].astype(jnp.float32), tokens.shape[1], axis=1)
        latents = View.of({"view": "latent"}, self.base, self.module, self.latents.scaling)
        encode = functools.partial(latents, data) if self.config.conditioning.content_latents else None
        channels = structure(example["content"], self.base.autoencoder.downsampling, encode)
        return Condition(
            jnp.concatenate([example["text"][:, None], style], axis=1),
            jnp.concatenate([jnp.ones((b, 1)), weights], axis=1),
            channels * example["has_content"][:, None, None, None],
        )

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the loss on the held-out images, with the same random numbers in every evaluation."""
        batches = list(self.held_out_batches())
        if not batches:
            return
        extras = Extras({}, jax.device_put(self.frozen))
        losses = [self._evaluated(params, extras, batch, jax.random.key(i)) for i, batch in enumerate(batches)]
        yield "loss", float(np.mean(losses))

    def held_out_batches(self) -> Iterator[Record]:
        """Yields batches of held-out images, each a group of its own."""
        size = min(self.config.batch_size * self.config.conditioning.group, len(self.held_out))
        count = min(EVAL_BATCHES, len(self.held_out) // size) if size else 0
        for i in range(count):
            yield {"row": self.held_out[i::count][:size, None]}

    @functools.cached_property
    def _evaluated(self) -> Callable[..., Array]:
        return held_out_loss(self)

    @property
    def model(self) -> ModelRecord:
        """The frozen parts, the networks and the conventions that they were trained by."""
        config = {
            "name": self.config.name,
            "head": "diffusion",
            **self.settings,
            "conditioning": {
                "neighbors": self.config.conditioning.neighbors,
                "unit_tokens": True,
                "null": "zeros",
                "content_latents": self.config.conditioning.content_latents,
            },
            "sampling": self.config.sampling.to_dict(),
            "latents": dict(self.latents.scaling),
            "diffusion": diffusion_section(self.config),
        }
        return ModelRecord.of(config, self.base, self.config.base, ("clip", "autoencoder"))

    def export(self, params: Any) -> Bundle:
        """Returns the model with averaged parameters."""
        return self.model.bundle(params, self.base)


def _floats(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns images in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> RolesTask:
    """Returns the task.

    Raises:
      UserError: the base bundle lacks a part, the images lack an attribute, or no image is left to train on.
    """
    base, images = open_base(config, progress)
    return task_of(config, base, with_restyled(images, config.data, progress), progress)


def task_of(config: Config, base: Bundle, images: ImageSet, progress: StageProgressCallback) -> RolesTask:
    """Returns the task of a set of images.

    Raises:
      UserError: the images lack an attribute.
    """
    data = config.data
    shown = attribute(images, data.content) if data.content else images.captions
    partners = find_partners(shown, attribute(images, data.style), attribute(images, data.family), images.rows)
    known, caption = np.unique(["", *images.captions], return_inverse=True)
    known = [str(text) for text in known[1:]]
    progress("encoding captions", 0, len(known))
    vectors = unit(ClipEncoder(base).encode_texts(known))
    texts = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
    style, held_out = np.asarray(partners.style), spread(data.held_out_rows, len(images))
    groups = Groups(style, held_out, data.most_of_style, config.conditioning.group)
    latents = open_latents(base, images.take(groups.shown) if data.cache_latents else images, config, progress)
    height, _, channels = latents.shape
    width = vectors.shape[1]
    denoiser = with_sizes(
        config.model.to_dict(),
        in_channels=channels,
        out_channels=output_channels(config, channels),
        context_dim=width,
        latent_size=height,
        condition_channels=base.autoencoder.downsampling**2 + 1 + channels * config.conditioning.content_latents,
    )
    module = build_denoiser(denoiser)
    view = View.of(config.style_encoder.to_dict(), base, module, latents.scaling)
    style_encoder = _style_encoder(config, base, module, view, images.images.shape[1], width)
    settings = {"denoiser": denoiser, "style_encoder": style_encoder}
    encoder = build_style_encoder(style_encoder)
    caption = caption[1:].astype(np.int32)
    networks = module, encoder, view, settings
    return RolesTask(config, base, images, texts, caption, partners, groups, latents, *networks)


def _style_encoder(
    config: Config, base: Bundle, denoiser: Any, view: View, size: int, token_dim: int
) -> dict[str, Any]:
    """Returns the style encoder's settings with the sizes that follow from the data."""
    given = {**config.style_encoder.to_dict(), "image_size": size, "token_dim": token_dim}
    if given.get("kind", STYLE_ENCODER) == STYLE_ENCODER:
        return given
    params = {part: base.params[part] for part in view.parts if part != "denoiser"}
    key = jax.eval_shape(lambda: jax.random.key(0))
    params["denoiser"] = jax.eval_shape(denoiser.init, key, *denoiser.smallest_inputs)["params"]
    shape = jax.eval_shape(view, params, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)).shape
    return {**given, "input_shape": shape[1:]}
