"""`rdm database build`: a database of a folder, a .zip, tar shards, a data set of Hugging Face or a TFDS set."""

from __future__ import annotations

import argparse
from typing import Any

from rdm_jax.cli.database.common import (
    DEFAULT_ENCODER,
    add_duplicates,
    add_selection,
    bundle_folder,
    check_local,
    encoder_place,
    report_skipped,
    selection,
    update_index,
)
from rdm_jax.cli.execution import add_execution, execution_of, runner_of
from rdm_jax.cli.progress import Progress, note
from rdm_jax.cli.readers import MAX_SEED, number

MAX_SIDE = 2**15  # pixels

DESCRIPTION = """Builds a database of images. After an interruption, the same command continues.

  rdm database build my-images --out my-database
  rdm database build images.zip --out ink --name ink --limit 5000
  rdm database build laion --where style=ink --out ink        # tars of img2dataset: "rdm_jax[webdataset]"
  rdm database build emoji.parquet --out emoji                # data sets of Hugging Face: "rdm_jax[datasets]"
  rdm database build style_scenes/tiny --split train --where style=mosaic --out mosaic
  rdm database build more-images --out my-database --append
  rdm database build photographs --patches 10 --out patches

The captions of a folder come from metadata.jsonl or metadata.csv (file_name, text), from a .txt file for each image, or
from the names of the subfolders; those of tar shards from NAME.txt or NAME.json, those of data sets from a column."""


def add_actions(actions: Any) -> None:
    """Adds the action."""
    parser = actions.add_parser(
        "build",
        help="build a database of a folder, a .zip, tar shards, parquet or Arrow files, or a TFDS data set",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(perform=run)
    parser.add_argument(
        "source",
        metavar="IMAGES",
        help="a folder, a .zip, .tar, .parquet or .arrow file, a pattern of tars, or a TFDS name",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--append", action="store_true", help="add the images to an existing database")
    parser.add_argument(
        "--encoder",
        metavar="BUNDLE",
        help=f"a model with a CLIP ({DEFAULT_ENCODER}, or with --append the one that built the database)",
    )
    parser.add_argument("--split", help="of a data set, or a subfolder train, validation or test")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder of TFDS data sets")
    parser.add_argument("--name", help="of the database (default: the name of --out)")
    parser.add_argument("--limit", type=number(int, 1), metavar="N", help="use at most the first N images")
    parser.add_argument("--spread", type=number(int, 1), metavar="N", help="use at most N images, spread evenly")
    add_selection(parser, "images")
    add_duplicates(parser, "images")
    _add_patches(parser)
    _add_stored(parser)
    _add_work(parser)


def _add_patches(parser: argparse.ArgumentParser) -> None:
    """Adds the options of patches."""
    patches = parser.add_argument_group("patches, as of the released database of OpenImages")
    patches.add_argument(
        "--patches",
        type=number(int, 1, 10_000),
        metavar="N",
        help="use N random square patches of each image, not the whole image",
    )
    patches.add_argument(
        "--patch-size", type=number(int, 8, MAX_SIDE), default=256, metavar="PIXELS", help="their side (%(default)s)"
    )
    patches.add_argument(
        "--shorter-side",
        type=number(int, 8, MAX_SIDE),
        default=1200,
        metavar="PIXELS",
        help="to which an image's shorter side is resized first (%(default)s)",
    )
    patches.add_argument(
        "--patch-seed", type=number(int, 0, MAX_SEED), default=0, metavar="N", help="of their positions (%(default)s)"
    )


def _add_stored(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is stored."""
    stored = parser.add_argument_group("what is stored")
    stored.add_argument(
        "--thumbnail-size",
        type=number(int, 8, 1024),
        default=64,
        metavar="PIXELS",
        help="of stored thumbnails (%(default)s)",
    )
    stored.add_argument(
        "--quality", type=number(int, 1, 100), default=80, help="of their JPEG encoding, 1 to 100 (%(default)s)"
    )
    stored.add_argument("--dtype", default="float16", metavar="TYPE", help="of the embeddings: float16 or float32")
    stored.add_argument("--licence", metavar="TEXT", help="of the images, recorded in the manifest")


def _add_work(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how the work is done."""
    work = parser.add_argument_group("how the work is done")
    work.add_argument("--part-size", type=number(int, 1), metavar="N", help="images in a part, the unit of resuming")
    add_execution(work)


def run(args: argparse.Namespace) -> None:
    """Builds the database and reports the result."""
    runner = runner_of(args)

    from rdm_jax.bundle import Bundle
    from rdm_jax.core import paths
    from rdm_jax.data.sources import open_source
    from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
    from rdm_jax.retrieval.cluster import build_on_cluster
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.retrieval.manifest import SKIPPED
    from rdm_jax.retrieval.prepare import Patches

    patches = None
    if args.patches is not None:
        patches = Patches(args.patches, args.patch_size, args.shorter_side, args.patch_seed)
    out = None if runner and paths.is_remote(args.out) else check_local(args.out, "--out")
    earlier = Database.open(out) if args.append and out is not None and out.exists() else None
    place = encoder_place(earlier, args.encoder) if earlier else args.encoder or DEFAULT_ENCODER
    source = open_source(args.source, args.split, args.data_dir)
    note(f"{source.name}: {len(source)} images, captions from {source.captions}")
    encoder = ClipEncoder(Bundle.open(place, parts=("clip",)), args.batch_size)
    options = BuildOptions(
        thumbnail_size=args.thumbnail_size,
        quality=args.quality,
        dtype=args.dtype,
        patches=patches,
        selection=selection(args),
        limit=args.limit,
        spread=args.spread,
        license=args.licence or "",
        part_size=args.part_size,
        duplicates=args.duplicates,
        name=args.name,
        bundle=bundle_folder(encoder.bundle.path),
    )
    job = BuildJob.of(source, encoder, options)
    with Progress("embedding", unit="image") as progress:
        execution = execution_of(args, progress)
        if runner or out is None:
            report = build_on_cluster(job, place, args.out, runner, execution, append=args.append)
        else:
            report = build_database(job, out, execution, append=args.append)
    if report.state == "parts missing":
        note(f"{args.out}: this process is done; the database is complete when the other processes have done theirs")
        return
    if report.state == "finished before":
        note(f"{args.out}: finished before, {report.count} rows; nothing has changed")
        return
    report_skipped(report.skipped, f"{args.out}/{SKIPPED}")
    details = [f"{len(report.skipped)} skipped"]
    details += [f"{report.duplicates} near-duplicates dropped"] if args.duplicates is not None else []
    details += [f"{report.resumed} images were done before"] if report.resumed else []
    note(f"{args.out}: {report.count} rows by encoder {encoder.identity['name']!r}, {', '.join(details)}")
    if out is not None:  # an index is built where the rows are on a disk
        update_index(out, earlier.manifest if earlier else {})
