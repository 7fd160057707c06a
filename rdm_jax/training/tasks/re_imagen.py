"""A diffusion model that is conditioned on neighbors by its own features of them (Re-Imagen, arXiv 2209.14491).

The U-Net sees each neighbor clean, at time 0 and under the neighbor's own caption. Its features in the middle and the
caption are the tokens of an attention beside that to the text, in every block with attention. They are trained with
the denoiser, and in sampling computed once for all steps.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.features import feature_tokens
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import cached_array
from rdm_jax.factory import encoder_from
from rdm_jax.models import build_denoiser, build_image_adapter, with_sizes
from rdm_jax.models.condition import Condition, ImageTokens
from rdm_jax.models.image_adapter import FeatureProjection
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import CAPTION_BATCH, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.denoising import output_channels
from rdm_jax.training.latents import cache_folder, open_latents
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import diffusion
from rdm_jax.training.tasks.conditioned import open_base

PART = "image_adapter"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(diffusion.Schema):
    """The settings of a diffusion model with Re-Imagen's conditioning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model["kind"] != "unet" or self.model.get("attention", "transformer") != "transformer":
            raise UserError("task 're_imagen' reads a U-Net's features; set model.kind=unet and leave out attention")
        if not (self.data.neighbors and self.data.database and self.conditioning.neighbors):
            raise UserError(
                "task 're_imagen' sees the images of neighbors; give data.neighbors, their data.database, and "
                "conditioning.neighbors=1 or more"
            )
        if self.conditioning.null != "zeros":
            raise UserError(f"conditioning.null={self.conditioning.null} has no place here; set it to zeros")


@dataclasses.dataclass(frozen=True)
class ReImagenTask(diffusion.UnsampledTask):
    """Trains a U-Net and the projection of its features.

    Attributes:
      database: of the neighbors.
      captions: [n, d] the encoder's vector of each row's caption.
      projection: of the features.
      projected: its configuration.
    """

    database: Database
    captions: Float[np.ndarray, "n d"]
    projection: FeatureProjection
    projected: dict[str, Any]

    @property
    def frozen(self) -> Any:
        """The first stage's parameters, which encodes neighbors in every step."""
        return {"autoencoder": self.base.params["autoencoder"]}

    def complete(self, batch: Record) -> Record:
        """Returns what images are encoded to, their captions, and the images and captions of their neighbors.

        Returns:
          beside the inputs `text` [b, d], zeros without; `has_neighbors` [b]; `neighbor_images` [b, k, s, s, 3] and
          `neighbor_captions` [b, k, d].
        """
        inputs = {name: batch[name] for name in self.inputs if name in batch}
        own = self.conditions.complete(batch)
        weights, size = own["context_weights"], self.images.images.shape[1]
        assert self.conditions.neighbors is not None
        ids = self.conditions.neighbors.ids(self.images.rows[batch["neighbor_source"]])
        chosen = np.take_along_axis(ids, batch["candidates"], axis=1)
        images = [fit(image, size, size) for image in self.database.thumbnails(chosen.ravel())]
        captions = np.asarray(self.captions[chosen], np.float32)
        return {
            **inputs,
            "text": own["context"][:, 0] * weights[:, :1],
            "has_neighbors": weights[:, 1],
            "neighbor_images": np.stack(images).reshape(*chosen.shape, size, size, 3),
            "neighbor_captions": unit(captions) if self.config.conditioning.unit_tokens else captions,
        }

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the denoiser and the projection; no stats."""
        keys, width = jax.random.split(key), self.projection.token_dim
        x, t = jnp.zeros((1, *self.latents.shape)), jnp.zeros((1,))
        images = ImageTokens(jnp.zeros((1, 1, 1, width)), jnp.ones((1, 1)))
        empty = Condition(jnp.zeros((1, 1, width)), images=images)
        maps, captions = (jnp.zeros(shape.shape) for shape in self.projection.smallest_inputs)
        return {
            "denoiser": self.module.init(keys[0], x, t, empty)["params"],
            PART: self.projection.init(keys[1], maps, captions)["params"],
        }, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the error of the prediction as `DiffusionTask.loss` does, given the latents of neighbors."""
        flat = batch["neighbor_images"].reshape(-1, *batch["neighbor_images"].shape[2:])
        encode = encoder_from(self.base.autoencoder, self.latents.scaling)
        latents = encode(extras.frozen["autoencoder"], flat.astype(jnp.float32) / 127.5 - 1.0)
        return super().loss(params, extras, {**batch, "neighbor_latents": latents}, key, step)

    def condition(self, params: Any, batch: dict[str, Array]) -> Condition:
        """Returns the condition of a batch: captions, and the tokens of neighbors, zeros where they are left out."""
        captions = batch["neighbor_captions"]
        b, k, _ = captions.shape
        flat = captions.reshape(b * k, -1)
        tokens = feature_tokens(self.module, self.projection, params, batch["neighbor_latents"], flat)
        tokens = tokens.reshape(b, 1, k * self.projection.tokens, -1) * batch["has_neighbors"][:, None, None, None]
        return Condition(batch["text"][:, None], images=ImageTokens(tokens, jnp.ones((b, 1))))

    @property
    def model(self) -> ModelRecord:
        """The frozen parts, both networks and the conventions that they were trained by."""
        record = super().model
        return dataclasses.replace(record, config={**record.config, PART: dict(self.projected)})


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> ReImagenTask:
    """Returns the task; see `tasks.diffusion.make`.

    Raises:
      UserError: as there, or the database keeps no images.
    """
    base, images = open_base(config, progress)
    latents, encoder = open_latents(base, images, config, progress), ClipEncoder(base)
    conditions = open_image_conditions(config, images, encoder, progress)
    database = Database.open(config.data.database)
    if not database.has_thumbnails:
        raise UserError(f"database {database.name!r} keeps no images, which task 're_imagen' sees; build it with them")
    (height, _, channels), width = latents.shape, conditions.width
    settings = with_sizes(
        config.model.to_dict(),
        in_channels=channels,
        out_channels=output_channels(config, channels),
        context_dim=width,
        adapter=True,
    )
    unet = build_denoiser(settings)
    projected = {
        "kind": "features",
        "side": height // unet.size_multiple,
        "channels": unet.channels(len(unet.channel_mult) - 1),
        "caption_dim": width,
        "token_dim": width,
    }
    captions = caption_vectors(encoder, database, cache_folder(config.data), progress)
    projection: Any = build_image_adapter(projected)
    return ReImagenTask(config, base, conditions, unet, settings, latents, database, captions, projection, projected)


def caption_vectors(
    encoder: ClipEncoder, database: Database, folder: Path, progress: StageProgressCallback
) -> Float[np.ndarray, "n d"]:
    """Returns the encoder's vectors of the captions of a database's rows in float16, cached by the hashes of both."""
    texts = [text or "" for text in database.column("caption").to_pylist()]
    report = functools.partial(progress, "encoding the neighbors' captions")

    def chunks() -> Any:
        """Yields the vectors of one batch of captions after another."""
        for number, vectors in enumerate(encoder.encode_texts_in_chunks(texts, CAPTION_BATCH), 1):
            yield vectors.astype(np.float16)
            report(min(number * CAPTION_BATCH, len(texts)), len(texts))

    name = f"captions-{encoder.identity['sha256'][:16]}-{database.digest[:16]}-{len(texts)}"
    return cached_array(folder / name, len(texts), chunks)
