"""The folder of a run: images with their records, contact sheets and run.json; nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from rdm_jax import __version__
from rdm_jax.bundle import Bundle
from rdm_jax.cli.content import ContentRecord
from rdm_jax.cli.png import SCHEMA
from rdm_jax.cli.progress import note
from rdm_jax.cli.record import encoded_vector
from rdm_jax.conditioning import Negative
from rdm_jax.core import files, images, options, sheets
from rdm_jax.core.errors import UserError
from rdm_jax.core.rendition import Rendition
from rdm_jax.generator import Generator, Plan, Result
from rdm_jax.request import Request
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Neighbors

RUN = "run.json"
RESULTS = "results.json"
SHOWN_CONTENT = ("ids", "scores", "databases", "known", "nearest")  # of a record's content, in run.json
UNKNOWN = "(nothing near)"  # after the prompt of an image for which there is no content
# The content of a record before the run has written anything.
UNFINISHED = {"schema": SCHEMA, "complete": False, "images": []}
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "transformers", "pillow")
AS_GENERATED = Rendition()
# A single row of samples is wrapped after so many.
COLUMNS = 8
# The most samples of one database in a sheet of several databases.
MOST_COLUMNS = 16
# Rows beyond so many pixels are cut off, except the first.
SHEET_PIXELS = 50_000_000
SHEET_SIDE = 128


def check_writable(out: Path) -> None:
    """Raises UserError unless the folder exists or can be created, and can be written to."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot write to {out}: {nearest} is not a folder; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {out}: permission denied; choose another --out")


@contextlib.contextmanager
def run_folder(out: Path, names: Sequence[str] = (), record: str = RUN, claimed: bool = False) -> Iterator[Path]:
    """Creates and yields the folder of a run: `out`, or `out/run-002` and so on where `out` holds a run already.

    The run claims its folder by creating its record, which no other process can then create: two runs with one `out`
    never share a folder. A run that fails before it writes anything leaves nothing.

    Args:
      out: the output folder.
      names: subfolders that the run will write to.
      record: the name of the run's record.
      claimed: whether the folder is this run's own already.

    Raises:
      UserError: the folder cannot be created.
    """
    created: list[Path] = []
    folder = out
    try:
        try:
            if not claimed:
                folder = _claim(out, names, record, created)
            for name in names:
                _make(folder / name, created)
        except OSError as error:
            raise files.unwritten(out, error) from error
        if folder != out:
            note(f"{out} holds a run already, finished or not; this one is in {folder}")
        yield folder
    finally:
        if not claimed:
            _unclaim(folder / record)
        for path in reversed(created):
            with contextlib.suppress(OSError):  # something was written: the folder stays
                path.rmdir()


def write_new(path: Path, data: bytes) -> None:
    """Writes a new file atomically: a killed process leaves no part of it under its name.

    Raises:
      UserError: there is a file of this name already, or it cannot be written.
    """
    try:
        files.write_bytes(path, data, new=True)
    except FileExistsError as error:
        raise UserError(f"{path} exists already and is not overwritten; choose another --out") from error
    except OSError as error:
        raise files.unwritten(path, error) from error


def write_again(path: Path, data: bytes) -> None:
    """Writes a file of a run in place of the one before, if there is one.

    Raises:
      UserError: it cannot be written; the one before stays.
    """
    with files.writing(path):
        files.write_bytes(path, data)


def write_record(path: Path, value: Any) -> None:
    """Writes the record of a run in place of the one before.

    Raises:
      UserError: it cannot be written; the one before stays.
    """
    with files.writing(path):
        files.write_json(path, value)


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


def records(
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


def grid_sheet(results: Sequence[tuple[str, Result]]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a sheet of prompts by samples; with several databases, of databases by the samples of all prompts.

    Args:
      results: (the database's name, "" where there is only one, and its result).
    """
    if len(results) > 1:
        images = np.stack([result.images[:MOST_COLUMNS] for _, result in results])
        images = images[: rows_that_fit(images)]
        prompts = marked(results[0][1])[: images.shape[1]]
        styles = [style for style, _ in results[: len(images)]]
        return sheets.grid(images, row_labels=styles, column_labels=prompts, zoom=zoom_of(images))
    result = results[0][1]
    count = result.request.num_images
    labels, images = marked(result)[::count], result.images.reshape(-1, count, *result.images.shape[1:])
    if len(images) == 1:
        images = sheets.in_rows(images[0], min(COLUMNS, count))
        labels = labels + [""] * (len(images) - 1)
    images = images[: rows_that_fit(images)]
    return sheets.grid(images, row_labels=labels[: len(images)], zoom=zoom_of(images))


def neighbor_sheet(
    result: Result, database: Mixture, content: ContentRecord | None = None
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a sheet with a row for each image: what showed its content, and the thumbnails of its neighbors.

    Args:
      result: the images.
      database: that the neighbors are from.
      content: of the images; None where the model has no such role.
    """
    assert result.neighbors is not None
    ids, scores, names = result.neighbors.ids, result.neighbors.scores, result.neighbors.databases
    height, width = result.images.shape[1:3]
    width_of_row = 1 + ids.shape[1] + (content is not None)
    fitting = rows_that_fit(np.broadcast_to(result.images[:, None], (len(ids), width_of_row, height, width, 3)))
    cells, texts = [], []
    several = len(database.databases) > 1
    for image, index, row, origins, cosines in zip(
        result.images[:fitting], result.indices, ids, names, scores, strict=False
    ):
        shown, marks = _shown(content, index, height, width)
        thumbnails = [fitted(thumbnail, height, width) for thumbnail in database.thumbnails(origins, row)]
        cells.append(np.stack([image, *shown, *thumbnails]))
        pairs = zip(cosines, origins.tolist(), strict=True)
        texts.append(["", *marks, *(f"{cosine:.3f}{f' {name}' if several else ''}" for cosine, name in pairs)])
    numbered = (f"neighbor {place}" for place in range(1, ids.shape[1] + 1))
    columns = ["sample", *(["content"] if content else []), *numbered]
    return sheets.grid(
        np.stack(cells),
        row_labels=marked(result)[:fitting],
        column_labels=columns,
        cell_labels=texts,
        title=f"neighbors in {database.name}",
        zoom=zoom_of(result.images),
    )


def _shown(
    content: ContentRecord | None, index: int, height: int, width: int
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[str]]:
    """Returns the cell of what showed an image's content, and its label; none without content."""
    if content is None:
        return [], []
    image, score = content.shown(index)
    return [fitted(image, height, width)], [f"{score:.3f}"]


def _claim(out: Path, names: Sequence[str], record: str, created: list[Path]) -> Path:
    """Returns the first folder that holds no run, with a record in it that claims it."""
    _make(out, created)
    folders = [out, *(out / name for name in names)]
    used = any((out / name).exists() for name in (RUN, RESULTS)) or any(any(one.glob("*.png")) for one in folders)
    if not used and _create(out / record):
        return out
    for number in itertools.count(2):
        folder = out / f"run-{number:03d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            created.append(folder)
            if _create(folder / record):
                return folder
    raise AssertionError("there is always a next number")


def _create(record: Path) -> bool:
    """Creates the record of a run that has no images yet; returns whether this process was the first."""
    try:
        files.write_bytes(record, files.json_bytes(UNFINISHED), new=True)
    except FileExistsError:
        return False
    return True


def _unclaim(record: Path) -> None:
    """Removes the record of a run that wrote nothing else."""
    with contextlib.suppress(OSError):
        files_of_it = (path for path in record.parent.rglob("*") if path.is_file() and path != record)
        others = any(not path.relative_to(record.parent).parts[0].startswith("run-") for path in files_of_it)
        if not others and record.read_bytes() == files.json_bytes(UNFINISHED):
            record.unlink()


def _make(folder: Path, created: list[Path]) -> None:
    for path in reversed([folder, *folder.absolute().parents]):
        if not path.exists():
            path.mkdir()
            created.append(path)


def _device() -> str:
    return f"{jax.default_backend()}: {jax.devices()[0].device_kind}"


def zoom_of(images: np.ndarray) -> int:
    """Returns how often a sheet repeats each pixel of images [..., h, w, 3], so that small ones can be seen."""
    return max(1, SHEET_SIDE // images.shape[-2])


def rows_that_fit(images: np.ndarray) -> int:
    """Returns how many rows of images [rows, columns, h, w, 3] a sheet has, so that it stays small enough to open."""
    rows, columns, height, width = images.shape[:4]
    return min(rows, max(1, SHEET_PIXELS // (columns * height * width * zoom_of(images) ** 2)))


def fitted(image: UInt8[np.ndarray, "_ _ 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an image as a cell of a sheet, as large as fits, with the sheet's background around it."""
    size = (width, height)
    return np.asarray(ImageOps.pad(Image.fromarray(image), size, Image.Resampling.BICUBIC, color=sheets.BACKGROUND))
