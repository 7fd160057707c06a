"""What is recorded of a run and of each of its images, in run.json and inside the PNG files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from rdm_jax import __version__
from rdm_jax.bundle import Bundle
from rdm_jax.cli.content import ContentRecord
from rdm_jax.cli.png import SCHEMA
from rdm_jax.cli.record import encoded_vector
from rdm_jax.conditioning import Negative
from rdm_jax.core import images, options
from rdm_jax.core.rendition import Rendition
from rdm_jax.generator import Generator, Plan, Result
from rdm_jax.request import Request
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Neighbors

SHOWN_CONTENT = ("ids", "scores", "databases", "known", "nearest")  # of a record's content, in run.json
UNKNOWN = "(nothing near)"  # after the prompt of an image for which there is no content
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "transformers", "pillow")
AS_GENERATED = Rendition()


def versions() -> dict[str, str]:
    """Returns the versions of the packages that generate images, and the kind of device."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    machine = f"{platform.system()} {platform.machine()}"
    return {
        "rdm_jax": __version__,
        "python": platform.python_version(),
        **packages,
        "machine": machine,
        "device": _device(),
    }


def identity(part: Bundle | Database | Mixture) -> dict[str, Any]:
    """Returns the name and the hash of a model or a database, and the parts of a mixture; no path."""
    record: dict[str, Any] = {"name": part.name, "sha256": part.digest}
    if isinstance(part, Mixture) and len(part.databases) > 1:
        record["parts"] = [{"name": one.name, "sha256": one.digest} for one in part.databases]
        record["weights"] = part.weights and list(part.weights)
    return record


def _model_record(generator: Generator) -> dict[str, Any]:
    bundle = generator.bundle
    overrides = bundle.config.get("overrides", [])
    loras = [f"{one['file']}:{one['weight']:g}" for one in bundle.config.get("loras", [])]
    record = {**identity(bundle), "head": generator.head.name, "dtype": bundle.dtype, "overrides": overrides}
    return record | ({"loras": loras} if loras else {})


def lora_files(bundle: Bundle) -> dict[str, str]:
    """Returns {file: SHA-256} of the LoRAs that were added to a model."""
    return {one["file"]: one["sha256"] for one in bundle.config.get("loras", [])}


def read_files(request: Request, chosen: Any) -> dict[str, str]:
    """Returns {file: SHA-256} of the files that a request and the head's options name, as they are named there."""
    names = [*options.files_of(request), *options.files_of(chosen)]
    return {name: hashlib.sha256(images.read_bytes(name)).hexdigest() for name in names}


def of_images(
    result: Result,
    generator: Generator,
    database: Mixture | None,
    read: Mapping[str, str],
    rendition: Rendition = AS_GENERATED,
    content: ContentRecord | None = None,
) -> list[dict[str, Any]]:
    """Returns a record for each image of a result, as JSON values, from which it can be generated again.

    Args:
      result: the images.
      generator: of the model.
      database: that neighbors are from; None without.
      read: the hashes of the files that the run has read, from `read_files`.
      rendition: how the images are written.
      content: what showed the content of the images; None where the model has no such role.
    """
    negative = [one.prompt for one in result.request.conditions if isinstance(one, Negative) and one.prompt]
    shared = {
        "schema": SCHEMA,
        "versions": versions(),
        "model": _model_record(generator),
        "database": None if database is None else identity(database),
        "request": options.to_json(result.request),
        "options": options.to_json(result.options),
        "files": dict(read),
        "negative_prompt": ", ".join(negative),
        "labels": options.labelled(result.options) | options.labelled(result.request),
        **({} if rendition.is_plain else {"rendition": rendition.to_json()}),
    }
    neighbors = result.neighbors
    return [
        {
            **shared,
            "prompt": result.prompts[row],
            "index": index,
            "query": encoded_vector(result.queries[row]),
            "neighbors": neighbors and _neighbors_record(neighbors, row, database),
            **({} if content is None else {"content": content.rows(index)}),
        }
        for row, index in enumerate(result.indices)
    ]


def _neighbors_record(neighbors: Neighbors, row: int, database: Mixture | None) -> dict[str, Any]:
    record: dict[str, Any] = {"ids": neighbors.ids[row].tolist(), "scores": neighbors.scores[row].tolist()}
    if database is not None and len(database.databases) > 1:
        record["databases"] = neighbors.databases[row].tolist()
    return record


def neighbor_names(record: dict[str, Any], database: Mixture) -> Shaped[np.ndarray, " k"]:
    """Returns the name of the database that each neighbor of a record is from."""
    neighbors = record["neighbors"]
    return np.array(neighbors.get("databases") or [database.databases[0].name] * len(neighbors["ids"]))


def marked(result: Result) -> list[str]:
    """Returns the prompt of each image, with `UNKNOWN` where no content is near it."""
    known = np.ones(len(result.prompts), bool) if result.known is None else result.known
    return [prompt if near else f"{prompt} {UNKNOWN}" for prompt, near in zip(result.prompts, known, strict=True)]


def run_entry(file: Path, record: dict[str, Any], database: Mixture | None) -> dict[str, Any]:
    """Returns run.json's entry of an image: its file, its query and its neighbors."""
    entry = {"file": file.as_posix(), "prompt": record["prompt"], "index": record["index"]}
    if "content" in record:
        entry["content"] = {key: record["content"][key] for key in SHOWN_CONTENT}
    if database is None:
        return {**entry, "seed": record["request"]["seed"], "database": None, "neighbors": []}
    ids, scores = record["neighbors"]["ids"], record["neighbors"]["scores"]
    names = neighbor_names(record, database)
    rows = zip(ids, scores, names.tolist(), database.items(names, np.array(ids, np.int64)), strict=True)
    neighbors = [{"id": id_, "score": score, "path": item["path"], "database": name} for id_, score, name, item in rows]
    return {**entry, "seed": record["request"]["seed"], "database": database.name, "neighbors": neighbors}


def run_record(
    generator: Generator,
    databases: Sequence[Mixture],
    plan: Plan,
    read: Mapping[str, str],
    entries: Sequence[dict[str, Any]],
    planned: int,
) -> dict[str, Any]:
    """Returns the content of run.json.

    Args:
      generator: the model.
      databases: that it retrieved from.
      plan: of the first database; the others differ in their neighbors alone.
      read: the hashes of the files that the run has read, from `read_files`.
      entries: from `run_entry`, one for each image that was written.
      planned: the number of images of the whole run.
    """
    return {
        "schema": SCHEMA,
        "complete": len(entries) == planned,
        "prompts": plan.prompts,
        "request": options.to_json(plan.request),
        "options": options.to_json(plan.options),
        "files": dict(read),
        "versions": versions(),
        "model": {**_model_record(generator), "parts": generator.bundle.hashes},
        "databases": [{**identity(database), "rows": len(database)} for database in databases],
        "images": list(entries),
    }


def _device() -> str:
    return f"{jax.default_backend()}: {jax.devices()[0].device_kind}"
