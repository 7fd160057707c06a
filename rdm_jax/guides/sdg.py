"""Semantic diffusion guidance by the noised CLIP tower of the model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Array

from rdm_jax.core.calls import OR_A_LIST
from rdm_jax.core.errors import UserError
from rdm_jax.factory import noised_encoder_from
from rdm_jax.guidance.semantic import Reference, Text, semantic
from rdm_jax.guides.base import Bend, Kind, Networks, Scene, per_image


@dataclasses.dataclass(frozen=True)
class Sdg(Kind):
    """Semantic diffusion guidance: leads x_t to a text, or to a picture's content, structure or style."""

    text: str = ""
    content: str = ""
    structure: str = ""
    style: str = ""
    weight: float | list[float] = dataclasses.field(default=100.0, metadata=OR_A_LIST)
    source: ClassVar[str] = "arXiv 2112.05744"
    needs = {"noised_clip": "configs/noised_clip.py"}

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the text's vector, the references' latents and the weight."""
        pictures = {name: getattr(self, name) for name in ("content", "structure", "style") if getattr(self, name)}
        if not self.text and not pictures:
            raise UserError("guide sdg leads nowhere; give it text='...', or content, structure or style='FILE'")
        told: dict[str, Any] = {name: scene.latent_of(file) for name, file in pictures.items()}
        return told | ({"text": scene.text(self.text)} if self.text else {}) | {"weight": per_image(self.weight)}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the objective of this guide alone."""
        return self.bend_all(networks, [(self, inputs)], noise)

    @classmethod
    def bend_all(cls, networks: Networks, asked: Sequence[tuple[Any, dict[str, Any]]], noise: Array) -> Bend:
        """Returns one objective for all texts and references: the tower looks at x_t once for them together."""
        look = noised_encoder_from(networks.bundle.noised_clip)
        encode = functools.partial(look, networks.params["noised_clip"])
        terms: list[Text | Reference] = []
        for _, given in asked:
            weight = given["weight"]
            terms += [Text(given["text"], weight)] if "text" in given else []
            wanted = [name for name in ("content", "structure", "style") if name in given]
            terms += [Reference(given[name], **{name: weight}) for name in wanted]
        return Bend(objectives=(semantic(encode, terms),))
