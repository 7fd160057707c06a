"""The condition builder of a model and a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.adapter import NeighborTokens
from rdm_jax.conditioning.base import ConditionBuilder
from rdm_jax.conditioning.channels import channels_of, enlarged, upscales
from rdm_jax.conditioning.encoders import SeveralEncoders, TextReader
from rdm_jax.conditioning.inputs import read_input
from rdm_jax.conditioning.query_vectors import prompt_encoder
from rdm_jax.conditioning.roles import ContentChannels, StyleTokens
from rdm_jax.conditioning.unclip import prompt_reader
from rdm_jax.core.errors import UserError
from rdm_jax.request import Request
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.opening import open_retriever
from rdm_jax.retrieval.retriever import Retriever


def condition_builder(
    request: Request,
    bundle: Bundle,
    encoder: ClipEncoder,
    encode: Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h2 w2 c"]],
    size: tuple[int, int],
    retriever: Retriever | None,
    unstyled: bool = False,
) -> ConditionBuilder:
    """Returns what turns prompts, images and databases into conditions.

    Args:
      request: what is wanted.
      bundle: the model.
      encoder: its CLIP.
      encode: images in [-1, 1] to its latents.
      size: (h, w) of an image's latents or tokens.
      retriever: of the run's own databases; None where the condition has no neighbors.
      unstyled: whether the condition without style neighbors is a further one.

    Raises:
      UserError: the model reads prompts as sequences and has no tokenizer, or neighbors are requested of it.
    """
    encoders = SeveralEncoders.of(bundle, encoder, request)
    own = TextReader.of(bundle, encoder, encoders, request.long_prompts) if encoders else None
    reader = own if encoders else prompt_reader(bundle, request)
    adapter = NeighborTokens.of(
        bundle, encoder, request.adapter_scale, request.adapter_blocks, retriever.databases if retriever else ()
    )
    if reader is not None and adapter is None and encoders is None and request.condition != "text":
        raise UserError(
            f"model {bundle.name!r} takes no neighbors; use --condition text without a database, or convert it again "
            "with --ip-adapter and --clip"
        )
    width = encoder.identity["width"]
    null = null_token(bundle.config)
    wanted = request.height, request.width
    small = None
    if upscales(bundle.config):
        method = bundle.config["conditioning"].get("filter", "bilinear")
        small = enlarged(request.low_resolution, wanted, size, bundle.name, method)
    style = StyleTokens.of(bundle, retriever.databases if retriever else ())

    def retrieve(queries: Float[np.ndarray, "q d"], database: str) -> Float[np.ndarray, "q n c"] | None:
        """Returns the tokens of the queries' neighbors."""
        if retriever is None:
            if database:
                raise UserError(f"condition 'text' has no neighbors, and database {database!r} is given; leave one out")
            return None
        chosen = open_retriever(encoder, database) if database else retriever
        found = chosen.retrieve(queries, request.neighbors)
        maker = style or adapter
        if maker is None:
            return found.embeddings
        return dataclasses.replace(maker, databases=chosen.databases).tokens(found)

    return ConditionBuilder(
        encoder=encoder,
        encode_prompts=prompt_encoder(bundle, encoder, request),
        latent=size,
        size=wanted,
        factor=bundle.autoencoder.downsampling,
        queries=np.zeros((0, width), np.float32),
        retrieve=retrieve,
        condition=request.condition,
        null=np.zeros(width, np.float32) if null is None else null,
        unit_tokens=bool(bundle.config["conditioning"].get("unit_tokens", False)),
        encode=encode,
        channels=channels_of(bundle.config),
        low_resolution=small,
        show=ContentChannels.of(bundle),
        reader=reader,
        input=read_input(request, bundle, size),
        adapter=adapter,
        encoders=encoders,
        style=style,
        unstyled=unstyled,
    )


def null_token(config: Mapping[str, Any]) -> Float[np.ndarray, " d"] | None:
    """Returns the learned token of no condition that a bundle's configuration holds; None where it is zeros."""
    token = config["conditioning"].get("null_token")
    return None if token is None else np.asarray(token, np.float32)
