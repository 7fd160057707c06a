"""`rdm replay`: generates an image again from the parameters inside its PNG."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdm_jax.cli.generating import add_writing_options, build_image_folders
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core import images, paths
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.bundle import Bundle
    from rdm_jax.conditioning.content import Content
    from rdm_jax.generator import Generator, Plan
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.retriever import Neighbors

HELP = """Generates an image again from the parameters inside its PNG.

On the same machine with the same versions the image is the same bit for bit; elsewhere it is close.

  rdm replay outputs/00003-42.png
  rdm replay outputs/00003-42.png --out again.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rdm replay`."""
    parser.add_argument("file", type=Path, metavar="FILE.png", help="an image that rdm sample wrote")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.png", help="the file to write (default: FILE-replay.png in its folder)"
    )
    parser.add_argument("--model", metavar="NAME|DIR|hf://...", help="the model, if it is not found by its name")
    parser.add_argument(
        "--database",
        action="append",
        metavar="NAME|DIR|hf://...[:WEIGHT]",
        help="the database, or those of a mixture, if they are not found by name",
    )
    parser.add_argument(
        "--content-database",
        action="append",
        metavar="NAME|DIR|hf://...",
        help="the content database, if it is not found by name",
    )
    add_writing_options(parser)


def run(args: argparse.Namespace) -> None:
    """Generates the image, writes it, and compares it with the one in the file."""
    out, comparison = replay(args)
    note(comparison)
    sys.stdout.write(f"{out}\n")


def replay(args: argparse.Namespace) -> tuple[Path, str]:
    """Generates the image and writes it; returns its file, and how close it is to the image in the given file."""
    from rdm_jax.cli.png import encode_png, read_record

    path = args.file
    record, pixels = read_record(path)
    out = _free_name(path) if args.out is None else args.out

    from rdm_jax.cli import records, run_folder
    from rdm_jax.core.rendition import Rendition
    from rdm_jax.generator import join

    run_folder.check_writable(out.parent)
    written = [out, *([out.with_suffix(".svg")] if (record.get("rendition") or {}).get("svg") else [])]
    used = next((path for path in written if path.exists()), None)
    if used is not None:
        raise UserError(f"{used} exists already and is not overwritten; choose another --out")
    generator, database, plan = _prepare(_with_found_files(record, path), args)
    with Progress("generating", quiet=args.quiet) as progress:
        result = join(list(generator.generate(plan, progress)))
    place = record["index"] % plan.request.batch_size
    read = records.read_files(plan.request, plan.options)
    rendition = Rendition.from_json(record.get("rendition") or {})
    again = records.of_images(result, generator, database, read, rendition)[place]
    again |= {"content": record["content"]} if record.get("content") else {}
    image, svg = rendition.apply(result.images[place])
    out.parent.mkdir(parents=True, exist_ok=True)
    run_folder.write_new(out, encode_png(image, None if args.disable_metadata else again))
    if svg is not None:
        run_folder.write_new(out.with_suffix(".svg"), svg.encode())
    return out, _comparison(image, pixels)


def _free_name(path: Path) -> Path:
    names = itertools.chain([f"{path.stem}-replay.png"], (f"{path.stem}-replay-{n}.png" for n in itertools.count(2)))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def _prepare(record: dict[str, Any], args: argparse.Namespace) -> tuple[Generator, Mixture | None, Plan]:
    """Returns the model, the database, and a plan that fills a whole batch with the one image.

    The batch has the size of the original one, and the image is at every place, its own included: the result is then
    the same bit for bit.
    """
    from rdm_jax.cli.record import query_vector
    from rdm_jax.core import options
    from rdm_jax.core.checks import at_least_one
    from rdm_jax.generator import Generator
    from rdm_jax.request import MOST, Request
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.opening import open_retriever

    model, entry, index = record["model"], record["database"], record["index"]
    overrides = tuple(model.get("overrides", ()))
    loras = tuple(model.get("loras", ()))
    generator = Generator.load(args.model or model["name"], model.get("dtype", "float32"), overrides, loras=loras)
    build_image_folders(args, generator.encoder)
    _check_head(args.file, model, generator)
    try:
        request = options.from_json(Request, record["request"]).check()
        at_least_one("batch_size", request.batch_size, MOST["batch_size"])
        chosen = options.from_json(generator.head.Options, record["options"])
        query = query_vector(record)[None]
        if query.shape[1] != generator.encoder.identity["width"]:
            raise UserError(f"its query has {query.shape[1]} numbers, and the model's encoder makes other vectors")
    except UserError as error:
        raise UserError(f"{args.file} carries damaged parameters ({error}); generate it again") from error
    _is_same("model", model, generator.bundle)
    _check_files(record.get("files", {}))
    database = Mixture.open(args.database or specs(entry)) if entry else None
    same = database is not None and _is_same("database", entry, database)
    plan = generator.open_plan(request, chosen, open_retriever(generator.encoder, database) if database else None)
    if plan.builder.reader is not None:  # vectors are recorded after the conditioners, and texts are not recorded
        plan, _ = generator.with_texts(plan, query, [record["prompt"]])
    plan = dataclasses.replace(
        plan,
        prompts=[record["prompt"]],
        queries=query,
        neighbors=_neighbors(generator, database, record, query, same) if database else None,
        indices=[index] * request.batch_size,
        rows=[0] * request.batch_size,
    )
    return generator, database, generator.with_content(plan, _content(plan, record, args.content_database))


def _check_head(file: Path, recorded: dict[str, Any], generator: Generator) -> None:
    """Raises UserError if the model generates in another way than the one that generated a file."""
    if recorded.get("head") != generator.head.name:
        raise UserError(
            f"{file} was generated by a {recorded.get('head')} model, and {generator.bundle.name!r} is "
            f"{generator.head.name}; give the model that generated it by --model"
        )


def _neighbors(
    generator: Generator, database: Mixture, record: dict[str, Any], query: np.ndarray, same: bool
) -> Neighbors:
    """Returns the recorded neighbors from the same database, or those retrieved from another one."""
    from rdm_jax.cli.records import neighbor_names
    from rdm_jax.retrieval.opening import open_retriever
    from rdm_jax.retrieval.retriever import Neighbors

    if not same:
        return open_retriever(generator.encoder, database).retrieve(query, record["request"]["neighbors"])
    for one in database.databases:
        one.check_encoder(generator.encoder.identity)
    ids = np.array(record["neighbors"]["ids"], np.int64)
    scores = np.array(record["neighbors"]["scores"], np.float32)
    names = neighbor_names(record, database)
    return Neighbors(ids[None], scores[None], database.embeddings(names, ids)[None], names[None])


def _content(plan: Plan, record: dict[str, Any], databases: list[str] | None) -> Content | None:
    """Returns the recorded content; None where the record has none."""
    from rdm_jax.cli.content import recorded_content
    from rdm_jax.conditioning.content import Content

    if not record.get("content"):
        return None
    size = plan.request.height, plan.request.width
    neighbors, shown, same = recorded_content(record["content"], databases or [], size)
    if not same:
        note("warning: the content database is not the recorded one; the new image will differ")
    return Content(neighbors, shown, np.ones(1, bool), [[]])


def specs(entry: dict[str, Any]) -> list[str]:
    """Returns NAME or NAME:WEIGHT of each database that a record names."""
    parts = entry.get("parts") or [entry]
    weights = entry.get("weights") or [None] * len(parts)
    pairs = zip(parts, weights, strict=True)
    return [part["name"] if weight is None else f"{part['name']}:{weight}" for part, weight in pairs]


def _is_same(kind: str, recorded: dict[str, Any], found: Bundle | Mixture) -> bool:
    """Returns whether a model or database is the recorded one, and warns where it is not."""
    if found.digest == recorded["sha256"]:
        return True
    note(
        f"warning: this {kind} {found.name!r} (sha256 {found.digest[:10]}) is not the recorded one, "
        f"{recorded['name']!r} (sha256 {recorded['sha256'][:10]}); the new image will differ"
    )
    return False


def _with_found_files(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the record with the places of its files: as recorded, or beside the image, which may have been moved.

    Raises:
      UserError: a file is in neither place.
    """
    named = {key: record[key] for key in ("request", "options", "files") if key in record}
    written = json.dumps(named)
    for name in named.get("files", {}):
        beside = [path.parent / name, *(folder / Path(name).name for folder in (path.parent, path.parent.parent))]
        found = next((one for one in (paths.local(name), *beside) if one.is_file()), None)
        if found is None:
            raise UserError(
                f"{name} is not here, nor beside {path}: the name is relative to the folder in which the image was "
                "generated; run rdm replay there, or copy the file beside the image"
            )
        written = written.replace(json.dumps(name)[1:-1], json.dumps(str(found))[1:-1])
    return {**record, **json.loads(written)}


def _check_files(recorded: Mapping[str, str]) -> None:
    """Warns of each file that the image was made with and that holds something else now."""
    for name, digest in recorded.items():
        found = hashlib.sha256(images.read_bytes(name)).hexdigest()
        if found != digest:
            note(
                f"warning: {name} (sha256 {found[:10]}) is not the recorded file (sha256 {digest[:10]}); "
                "the new image will differ"
            )


def _comparison(image: np.ndarray, pixels: np.ndarray) -> str:
    if image.shape != pixels.shape:
        return "the image in the file has another size: it was changed after it was generated"
    difference = int(np.abs(image.astype(int) - pixels.astype(int)).max())
    return "identical to the image in the file" if difference == 0 else f"differs by at most {difference} of 255"
