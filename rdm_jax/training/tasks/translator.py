"""The translator: from CLIP's vector of a caption to its vector of the image, by the squared error.

Zbinden 2022, https://arxiv.org/abs/2209.10948: both vectors are standardized number by number, and the error is that of
the standardized ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.guidance.semantic import cosine
from rdm_jax.models import Translator, build_translator
from rdm_jax.training.config import Config
from rdm_jax.training.schema import Run, network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.pairs import PairsTask, open_pairs, statistics_of

EVAL_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a translator.

    Attributes:
      base: the finished model, or its CLIP alone.
      model: the network.
    """

    base: str
    model: Annotated[Mapping[str, Any], network({"": Translator}, filled=("embed_dim",), by="")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslatorTask(PairsTask):
    """Trains a translator on the pairs of a model's CLIP."""

    part = "translator"

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters with the statistics of the pairs; no stats."""
        params = self.module.init(key, jnp.zeros((1, self.module.embed_dim)))["params"]
        measured = {**statistics_of("text", self.pairs.texts), **statistics_of("image", self.pairs.images)}
        return {"translator": {**params, **measured}}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the mean squared error of standardized vectors, and the mean cosine."""
        own, dropout = params["translator"], {"dropout": key}
        found: Any = self.module.apply({"params": own}, batch["text"], deterministic=False, rngs=dropout)
        loss = jnp.mean(standardized_error(own, found, batch["image"]))
        return loss, ({"cosine": jnp.mean(cosine(found, batch["image"]))}, extras.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the error and the cosine of held-out translations to the image, and those of the texts themselves."""
        names = "loss", "cosine", "loss_text", "cosine_text"
        parts = [
            self._measured(params["translator"], self.held_out.batch(slice(start, start + EVAL_BATCH)))
            for start in range(0, len(self.held_out), EVAL_BATCH)
        ]
        for name, *values in zip(names, *parts, strict=True):
            yield name, float(np.concatenate(values).mean())

    @functools.cached_property
    def _measured(self) -> Callable[..., tuple[Array, ...]]:
        @jax.jit
        def measured(params: Any, batch: dict[str, Array]) -> tuple[Array, ...]:
            """Returns the error and the cosine of each translation, and of each text's own vector."""
            image, text = batch["image"], batch["text"]
            found: Any = self.module.apply({"params": params}, text)
            both = ((standardized_error(params, one, image), cosine(one, image)) for one in (found, text))
            return tuple(value for pair in both for value in pair)

        return measured


def standardized_error(params: Any, found: Float[Array, "b d"], image: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Returns the mean squared error of each vector, in units of the standard deviations of images."""
    return jnp.mean(((found - image) / params["image_std"][None]) ** 2, axis=-1)


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> TranslatorTask:
    """Returns the task; see `open_pairs` for what it encodes first and what it raises."""
    common = open_pairs(config, progress)
    settings = {**config.model.to_dict(), "embed_dim": common["pairs"].images.shape[1]}
    return TranslatorTask(**common, module=build_translator(settings), settings=settings)
