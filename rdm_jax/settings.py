"""How a run is drawn: what was asked for, with the model's own settings where nothing was, checked."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from rdm_jax.conditioning import KINDS as CONDITIONERS
from rdm_jax.conditioning import Kind as Conditioner
from rdm_jax.core.calls import format_call, parse
from rdm_jax.core.checks import at_least_one, part, share
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.factory import DECODED_PIXELS
from rdm_jax.guidance import GUIDES, GuidanceMethod

MAX_BATCH = 8
MAX_GUIDANCE = 1000.0
NULLS = ("zeros", "learned")  # what guidance leads away from: as many tokens of zeros, or of a vector of its own
CONDITIONS = ("neighbors", "text", "text+neighbors")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How pictures are drawn, every default filled in.

    Attributes:
      condition: what the context tokens are: "neighbors", "text" (the query alone) or "text+neighbors".
      neighbors: how many neighbours each query fetches; 0 where the condition has none.
      num_images: pictures for each query.
      batch_size: pictures in one call of the compiled program; the last batch is padded to it.
      steps: sampling steps that were asked for.
      sampler: the sampler's name.
      eta: how much fresh noise the sampler adds.
      guidance_scale: the scale of classifier-free guidance; 1 is none.
      seed: the run's seed.
      height: of a picture in pixels.
      width: of a picture in pixels.
      spacing: which times the sampler visits; its own choice if empty.
      guides: guidance methods (`rdm_jax.guidance`).
      conditions: conditioners beside the query (`rdm_jax.conditioning`).
      guidance_from: the share of the time, counted from the picture (0) to noise (1), where guidance begins.
      guidance_to: where it ends; outside, steps are drawn without guidance.
      guidance_rescale: how much of guidance's contrast is taken back, in [0, 1].
      init: a picture that the run starts from, or a .npy file of the noise it starts from; "" for noise of its own.
      strength: how noisy that picture is made, as a share of the steps: 1 leaves nothing of it.
    """

    condition: str
    neighbors: int
    num_images: int
    batch_size: int
    steps: int
    sampler: str
    eta: float
    guidance_scale: float
    seed: int
    height: int
    width: int
    spacing: str = ""
    guides: tuple[GuidanceMethod, ...] = ()
    conditions: tuple[Conditioner, ...] = ()
    guidance_from: float = 0.0
    guidance_to: float = 1.0
    guidance_rescale: float = 0.0
    init: str = ""
    strength: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON values, guides and conditions as text."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {name: [format_call(TABLES[name][0], one) for one in values[name]] for name in TABLES}


TABLES: dict[str, tuple[Mapping[str, type], str]] = {
    "guides": (GUIDES, "guide"),
    "conditions": (CONDITIONERS, "condition"),
}


def parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with objects in place of the texts of guides and conditions."""
    objects = {
        name: tuple(parse(table, one, what) for one in values.get(name, ())) for name, (table, what) in TABLES.items()
    }
    return {**values, **objects}


OPTIONAL = {field.name: field.default for field in dataclasses.fields(Settings) if field.default != dataclasses.MISSING}


def settings_from(config: Mapping[str, Any], given: Mapping[str, Any], queries: int) -> Settings:
    """Returns the settings of a run: what was given, the model's own where it is None; plain values are checked.

    Args:
      config: the bundle's configuration; "sampling" and "conditioning" hold the defaults.
      given: values by the names of `Settings`; None or left out takes the default.
      queries: how many prompts and images there are.

    Raises:
      UserError: a value is out of its range, or there is no such setting.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in given:
        if name not in names:
            raise unknown("setting", name, names)
    values = parsed(_defaults(config) | {key: value for key, value in given.items() if value is not None})
    if queries == 0:
        raise UserError("nothing to draw: give a prompt, or an image as the query")
    if values.get("batch_size") is None:
        for name in ("num_images", "height", "width"):
            at_least_one(name, values[name])
        values["batch_size"] = _even_batches(queries * values["num_images"], values["height"] * values["width"])
    if values["condition"] == "text":
        values["neighbors"] = 0
    hints = typing.get_type_hints(Settings)
    return _checked(Settings(**{name: (typing.get_origin(hints[name]) or hints[name])(values[name]) for name in names}))


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model's own settings."""
    null = str(config["conditioning"].get("null", "zeros"))
    if null not in NULLS:
        raise unknown("null condition", null, NULLS)
    own = {key: value for key, value in config["sampling"].items() if key in Settings.__annotations__}
    neighbors = config["conditioning"]["neighbors"]
    return {"condition": "neighbors", "num_images": 1, "seed": 0, **OPTIONAL, "neighbors": neighbors, **own}


def _checked(settings: Settings) -> Settings:
    """Returns settings that can be; raises UserError for the first that cannot."""
    if settings.condition not in CONDITIONS:
        raise unknown("condition", settings.condition, CONDITIONS)
    counted = ("num_images", "batch_size", "steps", "height", "width")
    for name in counted if settings.condition == "text" else ("neighbors", *counted):
        at_least_one(name, getattr(settings, name))
    if not abs(settings.guidance_scale) <= MAX_GUIDANCE:  # NaN neither
        raise UserError(f"guidance scale {settings.guidance_scale} is no number to draw with; use 1 (none) to about 10")
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"seed {settings.seed} is out of range; use a whole number from 0 to {2**32 - 1}")
    for name in ("guidance_from", "guidance_to", "guidance_rescale"):
        share(name, getattr(settings, name))
    if settings.guidance_from > settings.guidance_to:
        raise UserError(
            f"guidance from {settings.guidance_from} to {settings.guidance_to} is no interval; "
            "time is counted from the picture, 0, to noise, 1"
        )
    part("strength", settings.strength)
    return settings


def _even_batches(pictures: int, pixels: int) -> int:
    """Returns a batch size that fills all batches about equally, so that little is drawn for the padding."""
    most = min(MAX_BATCH, max(1, DECODED_PIXELS // pixels))
    return math.ceil(pictures / math.ceil(pictures / most))
