"""The content of a bundle that is made of foreign files, and how it is written."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax import __version__
from rdm_jax.bundle import SCHEMA, TOKENIZERS, tokenizer_bytes
from rdm_jax.convert import ip_adapter
from rdm_jax.convert.mapping import Parameter, built
from rdm_jax.convert.safetensors_file import SafetensorsFile, write_safetensors
from rdm_jax.convert.weights import read_tensors
from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.models import build_denoiser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MANIFEST = "manifest.json"
RAW = "denoiser_raw"  # the weights without EMA; not a part of the bundle, but the start of further training


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The content of a bundle to be written; no tensor is read yet.

    Attributes:
      kind: the format of the source.
      config: of the bundle.
      parts: {part: {path: how its parameter is assembled}}, or the file of a part that is copied from a bundle.
      sources: the files to read.
      tokenizer: of the text tower, if it has one.
      noised_tokenizer: of the text tower of a CLIP of noisy images, if it has one.
    """

    kind: str
    config: dict[str, Any]
    parts: dict[str, dict[str, Parameter] | Path]
    sources: tuple[Path, ...]
    tokenizer: PreTrainedTokenizerFast | None = None
    noised_tokenizer: PreTrainedTokenizerFast | None = None

    def write(self, out: Path, progress: StageProgressCallback | None = None) -> None:
        """Writes the bundle atomically; tensors keep their stored types.

        Args:
          out: a folder that does not exist yet.
          progress: called with (description, bytes done, bytes in all).

        Raises:
          UserError: `out` exists or cannot be written, the disk is full, or a tensor holds numbers that are not finite.
        """
        with files.writing(out), files.new_directory(out) as folder:
            self._write(folder, progress or (lambda *_: None))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of parameters of each part."""
        return {
            part: sum(
                math.prod(one.shape)
                for one in (SafetensorsFile(content) if isinstance(content, Path) else content).values()
            )
            for part, content in self.parts.items()
        }

    @property
    def conditioned(self) -> tuple[str, ...]:
        """The parts that take context tokens, a CLIP's vectors."""
        return tuple(part for part in self.parts if self.config.get(part, {}).get("context_dim"))

    def _write(self, folder: Path, progress: StageProgressCallback) -> None:
        hashes: dict[str, str] = {}
        for part, recipes in self.parts.items():
            target = folder / f"{part}.safetensors"
            if isinstance(recipes, Path):  # byte for byte: databases identify an encoder by the hash of its file
                shutil.copyfile(recipes, target)
            else:
                write_safetensors(target, recipes, lambda *at, part=part: progress(f"writing {part}", *at))
            hashes[part] = files.sha256(target)
        for name, file in TOKENIZERS.items():
            if (own := getattr(self, name)) is not None:
                files.write_bytes(folder / file, tokenizer_bytes(own))
                hashes[name] = files.sha256(folder / file)
        sources = {f"{path.parent.name}/{path.name}": files.sha256(path) for path in self.sources}
        files.write_json(folder / "config.json", {**self.config, "schema": SCHEMA, "sha256": hashes})
        files.write_json(
            folder / MANIFEST, {"kind": self.kind, "rdm_jax": __version__, "sources": sources, "parts": hashes}
        )


def with_clip(model: Conversion, tower: Conversion) -> Conversion:
    """Returns the conversion of a model with a CLIP; raises UserError if the two do not fit."""
    if "clip" not in tower.parts:
        raise UserError(f"{tower.sources[0]} is a {tower.kind} and no CLIP; give --clip a CLIP")
    taken = model.config.get("conditioning", {}).get("input")
    if taken is not None:
        raise UserError(f"the {model.kind} reads no prompts, its input is {taken!r}, and it uses no CLIP; omit --clip")
    width = tower.config["clip"]["embed_dim"]
    conditioned = () if "text_encoder" in model.parts else model.conditioned
    if "denoiser" in model.parts and not model.conditioned:
        raise UserError(
            f"the {model.kind} takes no context tokens: it is not conditioned on text or neighbors and cannot use a "
            "CLIP; omit --clip"
        )
    wrong = [part for part in conditioned if model.config[part]["context_dim"] != width]
    if wrong:
        raise UserError(
            f"the CLIP's vectors have length {width}, and the {wrong[0]} takes "
            f"{model.config[wrong[0]]['context_dim']}; give the CLIP that the model was trained with"
        )
    shared = _shared(model, tower)
    return Conversion(
        model.kind,
        {**model.config, "clip": tower.config["clip"]},
        {**tower.parts, **model.parts},
        (*model.sources, *tower.sources),
        model.tokenizer or shared,
    )


def _shared(model: Conversion, tower: Conversion) -> PreTrainedTokenizerFast | None:
    """Returns the tokenizer of a CLIP, which a model's own text encoder shares if it has one."""
    if "text_encoder" in model.parts:
        sizes = model.config["text_encoder"]["vocab_size"], tower.config["clip"]["text"].get("vocab_size")
        if sizes[0] != sizes[1]:
            raise UserError(
                f"the text encoder has {sizes[0]} tokens, and the CLIP {sizes[1]}; give a CLIP with the same vocabulary"
            )
    return tower.tokenizer


def _states(clip: Mapping[str, Any] | None) -> int:
    """Returns the states of an image in a CLIP's image tower, its patches and the class token; 1 without a ViT."""
    vision = clip["vision"] if clip else {}
    return (vision["image_size"] // vision["patch_size"]) ** 2 + 1 if "patch_size" in vision else 1


def with_adapter(model: Conversion, file: Path, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of a model with an IP-Adapter, which takes the vectors of neighbors.

    Raises:
      UserError: the file is no adapter, or it does not fit the model or its CLIP.
    """
    state = read_tensors(file)
    tower = model.config.get("clip")
    settings = ip_adapter.projection_config(state, _states(tower))
    denoiser = {**model.config.get("denoiser", {}), "adapter": True}
    if "text_encoder" not in model.parts:
        raise UserError(f"an IP-Adapter is added to a Stable Diffusion, and {model.sources[0]} is a {model.kind}")
    if settings["token_dim"] != denoiser["context_dim"]:
        raise UserError(
            f"the IP-Adapter {file} makes tokens of {settings['token_dim']} numbers, and this model takes "
            f"{denoiser['context_dim']}; give the adapter of this version of Stable Diffusion"
        )
    if settings["kind"] == "vector":
        wanted, width = settings["vector_dim"], tower and tower["embed_dim"]
    else:
        wanted, width = settings["patch_dim"], tower and tower["vision"]["width"]
    if width != wanted:
        given = "no CLIP is given" if width is None else f"those of the given CLIP have {width}"
        what = "vectors" if settings["kind"] == "vector" else "patches"
        raise UserError(
            f"the IP-Adapter {file} reads {what} of {wanted} numbers, and {given}; give the CLIP "
            "that it was trained with by --clip (OpenCLIP's ViT-H/14 for those of Stable Diffusion 1.5)"
        )
    unet = built("U-Net", build_denoiser, denoiser)
    own, added = model.parts["denoiser"], ip_adapter.attention_plan(state, unet, allowed)
    assert isinstance(own, dict)
    parts = {**model.parts, "denoiser": own | added}
    parts["image_adapter"] = ip_adapter.projection_plan(state, settings, allowed)
    conditioning = {**model.config["conditioning"], "neighbors": ip_adapter.NEIGHBORS}
    sampling = {**model.config["sampling"], "condition": "text+neighbors", "adapter_scale": ip_adapter.SCALE}
    changed = {"denoiser": denoiser, "image_adapter": settings, "conditioning": conditioning, "sampling": sampling}
    return dataclasses.replace(model, config={**model.config, **changed}, parts=parts, sources=(*model.sources, file))
