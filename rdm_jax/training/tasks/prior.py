"""The diffusion prior: from a caption to CLIP's vector of the image, by the error of the denoised estimate.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.2. The empty text stands for no text, which some
examples have at random, for classifier-free guidance.
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
from jaxtyping import Array, Int, Key

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.prior import PriorSampler, encode_text, options_of, text_tower
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.diffusion.objective import by_bands, sample_timesteps
from rdm_jax.diffusion.vectors import schedule, vector_loss
from rdm_jax.models import Prior, ProjectedText, build_prior
from rdm_jax.models.prior import Text
from rdm_jax.request import Request
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import Config
from rdm_jax.training.denoising import BANDS
from rdm_jax.training.schema import Probability, Run, network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.base import held_out_loss, spread
from rdm_jax.training.tasks.pairs import PairsTask, open_pairs, statistics_of

EVAL_PAIRS = 128

_FILLED = ("embed_dim", "text_dim", "state_dim", "context_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a prior.

    Attributes:
      base: the finished model, or its CLIP alone.
      null_probability: of an example without its text; the paper has 0.1.
      model: the network.
    """

    base: str
    null_probability: Probability = 0.1
    model: Annotated[Mapping[str, Any], network({"": Prior}, filled=_FILLED, by="")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorTask(PairsTask):
    """Trains a prior on the pairs of a model's CLIP.

    Attributes:
      tower: the CLIP's text tower.
      tower_params: its parameters.
      null: the token ids of the empty text.
    """

    part = "prior"
    tower: ProjectedText
    tower_params: Any
    null: Int[np.ndarray, " n"]

    @property
    def frozen(self) -> Any:
        """The parameters of the text tower."""
        return {"text": self.tower_params}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters with the statistics of the images; no stats."""
        inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.module.smallest_inputs)
        params = self.module.init(key, *inputs)["params"]
        return {"prior": {**params, **statistics_of("image", self.pairs.images)}}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the mean squared error at random times, and its mean within bands of time."""
        null_key, time_key, noise_key, dropout_key = jax.random.split(key, 4)
        dropped = jax.random.bernoulli(null_key, self.config.null_probability, (len(batch["tokens"]), 1))
        text = encode_text(
            self.tower, extras.frozen["text"], jnp.where(dropped, jnp.asarray(self.null)[None], batch["tokens"])
        )

        def apply(x: Array, t: Array, text: Text) -> Any:
            rngs = {"dropout": dropout_key}
            return self.module.apply({"params": params["prior"]}, x, t, text, deterministic=False, rngs=rngs)

        x0: Any = self.module.apply({"params": params["prior"]}, batch["image"], method="standardize")
        t = sample_timesteps(time_key, len(x0), len(schedule()))
        losses = vector_loss(apply, x0, text, t, jax.random.normal(noise_key, x0.shape))
        bands = by_bands(losses, t, len(schedule()), BANDS)
        return jnp.mean(losses), ({f"band_{i}": bands[i] for i in range(BANDS)}, extras.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the loss of held-out pairs, the cosine of sampled vectors to the image, and that of the texts' own."""
        rows = spread(min(EVAL_PAIRS, len(self.held_out)), len(self.held_out))
        batch, frozen = self.held_out.batch(rows), jax.device_put(self.frozen)
        yield "loss", float(self._loss_of_held_out(params, Extras({}, frozen), batch, jax.random.key(0)))
        found = {"cosine": self.sampler(params["prior"])(batch["tokens"]), "cosine_text": batch["text"]}
        for name, vectors in found.items():
            yield name, float(np.sum(unit(vectors) * unit(batch["image"]), axis=-1).mean())

    def sampler(self, params: Any) -> PriorSampler:
        """Returns what samples vectors with some parameters, by the default options of a request."""
        options = options_of(Request())
        return PriorSampler(self.module, params, self.tower, self.tower_params, self.null, **options)

    @functools.cached_property
    def _loss_of_held_out(self) -> Callable[..., Array]:
        return held_out_loss(self)


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> PriorTask:
    """Returns the task; see `open_pairs` for what it encodes first and what it raises.

    Raises:
      UserError: the text tower of the model's CLIP gives no states of tokens.
    """
    common = open_pairs(config, progress)
    base = common["base"]
    tower, params = text_tower(base)
    sizes = common["pairs"].images.shape[1], tower.embed_dim, tower.width, tower.context_length
    settings = {**config.model.to_dict(), **dict(zip(_FILLED, sizes, strict=True))}
    null = ClipEncoder(base).tokenize([""])[0][0]
    return PriorTask(
        **common, module=build_prior(settings), settings=settings, tower=tower, tower_params=params, null=null
    )
