"""What a run's model consists of beside its parameters, recorded in the workdir when the run starts.

It holds what was measured on the data (the scale of latents, names of classes, sizes of networks). A checkpoint, this
record and the base bundle are a model: `rdm export` reads no data.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.heads.diffusion.few_steps import SECTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NULL_TOKEN = "null"  # the part of the parameters that becomes a setting of the conditioning
STEPS = "steps"  # the part that becomes the number of sampling steps: that of the stage which a student is in


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """The configuration of a run's model, and the parts that it takes from another bundle.

    Attributes:
      config: of the bundle; plain JSON values.
      base: the name or the folder of the bundle that gives further parts; "" if there is none.
      parts: {part of it: SHA-256}.
    """

    config: Mapping[str, Any]
    base: str = ""
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(
        config: Mapping[str, Any], base: Bundle | None = None, name: str = "", parts: tuple[str, ...] = ()
    ) -> ModelRecord:
        """Returns the record of a configuration and of a base bundle's parts.

        Args:
          config: the sections that the run decides.
          base: the bundle that gives the parts.
          name: its name or folder.
          parts: which parts, of those that it has; their sections are taken with them.
        """
        if base is None:
            return ModelRecord(_plain(config))
        kept = [part for part in parts if base.has(part)]
        training = {part: entry for part, entry in base.config.get("training", {}).items() if part in kept}
        sections = {part: base.config[part] for part in kept} | ({"training": training} if training else {})
        return ModelRecord(_plain({**sections, **config}), name, {part: base.hashes[part] for part in kept})

    @staticmethod
    def read(stored: Any, workdir: str) -> ModelRecord:
        """Returns the record that a workdir holds.

        Raises:
          UserError: it is of another version, or damaged.
        """
        try:
            return ModelRecord(**stored)
        except TypeError as error:
            raise UserError(
                f"the model's record in {workdir} is none that this version reads; start `rdm train` there once more, "
                "which writes it"
            ) from error

    def bundle(
        self,
        params: Mapping[str, Any],
        base: Bundle | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> Bundle:
        """Returns the model with parameters.

        Args:
          params: {part: tree} of the trained parts; a learned null token and a number of steps become settings.
          base: the bundle with the other parts; None if there are none.
          tokenizer: of the CLIP, where it is trained; otherwise the base's.
        """
        settings = (NULL_TOKEN, STEPS)
        config, networks = dict(self.config), {part: params[part] for part in params if part not in settings}
        if NULL_TOKEN in params:
            token = np.asarray(params[NULL_TOKEN]["token"], np.float64).round(7).tolist()
            config["conditioning"] = {**config["conditioning"], "null_token": token}
        if STEPS in params:
            steps = steps_of(params)
            config["sampling"] = {**config["sampling"], "steps": steps}
            if config[SECTION]["steps"]:
                config[SECTION] = {**config[SECTION], "steps": steps}
        kept = {part: base.params[part] for part in self.parts} if base else {}
        if tokenizer is None and base and "clip" in kept:
            tokenizer = base.tokenizer
        return Bundle(config, {**kept, **networks}, tokenizer)

    def open_base(self, workdir: str) -> Bundle | None:
        """Returns the base bundle, None if the model takes nothing from one.

        Raises:
          UserError: it is gone, or its parts are not those that the run was trained with.
        """
        if not self.base:
            return None
        try:
            base = Bundle.open(self.base, parts=tuple(self.parts))
        except UserError as error:
            raise UserError(
                f"{workdir} was trained on the parts of {self.base!r}, which cannot be opened ({error}); bring it "
                "back, and export in the folder where the run was started"
            ) from error
        changed = [part for part, digest in self.parts.items() if base.hashes.get(part) != digest]
        if changed:
            raise UserError(
                f"{workdir} was trained with another {' and '.join(changed)} than {self.base!r} holds now; "
                "bring the old one back, or train again"
            )
        return base


def steps_of(params: Mapping[str, Any]) -> int:
    """Returns the number of sampling steps in the parameters of a student."""
    return int(np.rint(np.asarray(params[STEPS]["count"])))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration as JSON holds it: lists for tuples."""
    return json.loads(json.dumps(config))
