"""`rdm replay`: a picture once more, from nothing but the parameters inside its PNG."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdm_jax.cli.drawing import add_writing_options
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.bundle import Bundle
    from rdm_jax.generator import Generator
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.retriever import Neighbors
    from rdm_jax.run import Plan

HELP = """Draws a picture again from the parameters inside its PNG.

On the machine and with the versions that drew it the picture comes out bit for bit; elsewhere it is close.

  rdm replay outputs/00003-42.png
  rdm replay outputs/00003-42.png --out again.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rdm replay`."""
    parser.add_argument("file", metavar="FILE.png", help="a picture that rdm sample wrote")
    parser.add_argument("--out", metavar="FILE.png", help="where it goes (default: FILE-replay.png beside it)")
    parser.add_argument("--model", metavar="NAME|DIR", help="where the model is, if not known by its name")
    parser.add_argument(
        "--database",
        action="append",
        metavar="NAME|DIR[:WEIGHT]",
        help="where the database is, or those of a mixture, if not known by name",
    )
    add_writing_options(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the picture, writes it, and says how near it comes to the one in the file."""
    from rdm_jax.cli.png import encode_png, read_record

    path = Path(args.file).expanduser()
    record, pixels = read_record(path)
    out = _free_name(path) if args.out is None else Path(args.out).expanduser()

    from rdm_jax.cli import outputs

    outputs.check_writable(out.parent)
    if out.exists():
        raise UserError(f"{out} exists already and is not overwritten; choose another --out")
    generator, database, plan = _prepare(record, args)
    with Progress("drawing", quiet=args.quiet) as progress:
        (result,) = generator.draw(plan, progress)
    place = record["index"] % plan.settings.batch_size
    image, again = result.images[place], outputs.records(result, generator.bundle, database)[place]
    out.parent.mkdir(parents=True, exist_ok=True)
    outputs.write_new(out, encode_png(image, None if args.disable_metadata else again))
    note(_comparison(image, pixels))
    sys.stdout.write(f"{out}\n")


def _free_name(path: Path) -> Path:
    names = itertools.chain([f"{path.stem}-replay.png"], (f"{path.stem}-replay-{n}.png" for n in itertools.count(2)))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def _prepare(record: dict[str, Any], args: argparse.Namespace) -> tuple[Generator, Mixture | None, Plan]:
    """Returns the model, the database, and a plan that fills a whole batch with the one picture.

    A batch of the size that drew the picture, with the picture at every place, also at its own: what the network
    computes for it is then the same to the last bit.
    """
    from rdm_jax.cli.outputs import query_vector
    from rdm_jax.generator import Generator
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.run import Plan, open_retriever
    from rdm_jax.settings import Settings, parsed

    try:
        settings = Settings(**parsed(record["settings"]))
        model, entry, index = record["model"], record["database"], int(record["index"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{args.file} carries damaged parameters ({error})") from error
    overrides = tuple(model.get("overrides", ()))
    generator = Generator.load(args.model or model["name"], model.get("dtype", "float32"), overrides)
    _is_the_one("model", model, generator.bundle)
    database = Mixture.open(args.database or _specs(entry)) if entry else None
    same = database is not None and _is_the_one("database", entry, database)
    size = settings.batch_size
    query = query_vector(record)[None]
    found = _neighbors(generator, database, record, query, same) if database else None
    run = generator.open_run(settings, open_retriever(generator.encoder, database) if database else None)
    plan = Plan(settings, [record["prompt"]], query, found, indices=[index] * size, rows=[0] * size, run=run)
    return generator, database, plan


def _neighbors(
    generator: Generator, database: Mixture, record: dict[str, Any], query: np.ndarray, same: bool
) -> Neighbors:
    """Returns the recorded neighbours from the same database, or those that another one gives."""
    from rdm_jax.cli.outputs import neighbor_names
    from rdm_jax.retrieval.retriever import Neighbors
    from rdm_jax.run import open_retriever

    if not same:
        return open_retriever(generator.encoder, database).retrieve(query, record["settings"]["neighbors"])
    for one in database.databases:
        one.check_encoder(generator.encoder.identity)
    ids = np.array(record["neighbors"]["ids"], np.int64)
    scores = np.array(record["neighbors"]["scores"], np.float32)
    names = neighbor_names(record, database)
    return Neighbors(ids[None], scores[None], database.embeddings(names, ids)[None], names[None])


def _specs(entry: dict[str, Any]) -> list[str]:
    """Returns NAME or NAME:WEIGHT of each database that a record names."""
    parts = entry.get("parts") or [entry]
    weights = entry.get("weights") or [None] * len(parts)
    told = zip(parts, weights, strict=True)
    return [part["name"] if weight is None else f"{part['name']}:{weight}" for part, weight in told]


def _is_the_one(kind: str, recorded: dict[str, Any], found: Bundle | Mixture) -> bool:
    """Says whether a model or database is the one that drew the picture, and warns where it is not."""
    if found.digest == recorded["sha256"]:
        return True
    note(
        f"warning: this {kind} {found.name!r} (sha256 {found.digest[:10]}) is not the one that drew the picture, "
        f"{recorded['name']!r} (sha256 {recorded['sha256'][:10]}); the new picture will differ"
    )
    return False


def _comparison(image: np.ndarray, pixels: np.ndarray) -> str:
    if image.shape != pixels.shape:
        return "the picture in the file has another size: it was changed after it was drawn"
    difference = int(np.abs(image.astype(int) - pixels.astype(int)).max())
    return "identical to the picture in the file" if difference == 0 else f"differs by at most {difference} of 255"
