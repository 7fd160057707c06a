"""What `rdm sample` and `rdm edit` share: their options, the databases they draw from, and the folder they write."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import Progress, note
from rdm_jax.core import files
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.generator import Generator, Result
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.run import Plan

Extra = Callable[[Path, "list[tuple[str, Result]]"], None]

DEFAULT_MODEL = "style-scenes"
DEFAULT_OUT = "outputs"
PLANNED = (
    "condition",
    "neighbors",
    "num_images",
    "batch_size",
    "steps",
    "sampler",
    "spacing",
    "eta",
    "guidance_scale",
    "guidance_rescale",
    "height",
    "width",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say from what, how and whereto pictures are drawn."""
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME|DIR[:WEIGHT]",
        help="where neighbors come from (repeatable); with weights, the databases are drawn from together",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="(default: %(default)s)")
    drawing = parser.add_argument_group("drawing (where nothing is given, the model's own settings hold)")
    _add_shape_options(drawing)
    _add_bending_options(drawing)
    drawing.add_argument("--seed", type=int, metavar="I", help="drawn by chance, said and recorded where not given")
    drawing.add_argument(
        "--dtype", default="float32", metavar="TYPE", help="float32 (default), or bfloat16: half the memory"
    )
    drawing.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the model's config.json"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", default=DEFAULT_OUT, metavar="DIR", help="the folder; a used one gets run-002/ (default: %(default)s)"
    )
    add_writing_options(output)
    output.add_argument("--skip-grid", action="store_true", help="write no grid.png and no neighbors.png")
    output.add_argument(
        "--previews",
        action="store_true",
        help="write what each picture is believed to be in between, to previews/",
    )


def add_writing_options(parser: Any) -> None:
    """Adds the options of every command that writes pictures."""
    parser.add_argument("--disable-metadata", action="store_true", help="leave the parameters out of the PNG files")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_shape_options(drawing: Any) -> None:
    drawing.add_argument("--condition", metavar="C", help="neighbors, text, or text+neighbors")
    drawing.add_argument("--neighbors", type=int, metavar="K", help="neighbors for each query")
    drawing.add_argument("--num-images", type=int, metavar="N", help="pictures for each query (default: 1)")
    drawing.add_argument("--batch-size", type=int, metavar="B", help="pictures drawn at once (default: up to 8)")
    drawing.add_argument("--steps", type=int, metavar="S", help="sampling steps")
    drawing.add_argument(
        "--sampler",
        metavar="NAME",
        help="ddim, ddpm, plms, euler, heun, dpmpp_2s, dpmpp_2m, dpmpp_2m_sde or unipc; options as 'euler(churn=20)'",
    )
    drawing.add_argument(
        "--spacing",
        metavar="NAME",
        help="the times it visits: compvis, leading, trailing, linspace, quadratic, karras or log_snr",
    )
    drawing.add_argument("--eta", type=float, metavar="E", help="fresh noise in each step, 0 to 1")
    drawing.add_argument("--height", type=int, metavar="H", help="in pixels")
    drawing.add_argument("--width", type=int, metavar="W", help="in pixels")


def _add_bending_options(drawing: Any) -> None:
    drawing.add_argument("--guidance-scale", type=float, metavar="G", help="1 is none, more follows the query closer")
    drawing.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="guide only between these shares of the time, from the picture (0) to noise (1)",
    )
    drawing.add_argument(
        "--guidance-rescale", type=float, metavar="R", help="take back that share of the contrast that guidance adds"
    )
    drawing.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    drawing.add_argument(
        "--guide",
        action="append",
        default=[],
        metavar="CALL",
        help="bends the run, as \"clip(text='a storm', weight=50)\" (repeatable; --list-guides)",
    )
    drawing.add_argument(
        "--with",
        dest="conditions",
        action="append",
        default=[],
        metavar="CALL",
        help="shown beside the query, as \"region(mask='left.png', database='neon')\" (repeatable; --list-guides)",
    )
    drawing.add_argument("--list-guides", action=_ListGuides, help="say what --guide and --with take, and stop")


class _ListGuides(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from rdm_jax import conditioning, guidance

        sys.stdout.write(f"--guide\n{guidance.describe_guides()}\n\n--with\n{conditioning.listed()}\n")
        parser.exit()


def seed_of(args: argparse.Namespace) -> int:
    """Returns the seed that was given, or one by chance."""
    return secrets.randbits(32) if args.seed is None else args.seed


def options(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Returns what the options say of a plan, by the names of `Generator.plan`."""
    from rdm_jax.conditioning import Negative

    told = {name: getattr(args, name) for name in PLANNED}
    begin, end = args.guidance_interval or (None, None)
    negative = [Negative(prompt=args.negative_prompt)] if args.negative_prompt else []
    return {
        **told,
        "guides": args.guide,
        "conditions": [*negative, *args.conditions],
        "guidance_from": begin,
        "guidance_to": end,
        "seed": seed,
    }


def open_databases(names: Sequence[str], condition: str | None, model: Bundle) -> list[Mixture | None]:
    """Returns the databases to draw from, one after another; a single None where the condition needs none."""
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.mixture import Mixture, parse_weighted

    sampling = model.config["sampling"]
    if (condition or sampling.get("condition")) == "text":
        if names:
            note("warning: condition text uses no database; --database is left out")
        return [None]
    default = sampling.get("database")
    known = Database.names()
    if not names and not default and len(known) != 1:
        raise UserError(f"no database given; name one by --database (known: {', '.join(known) or 'none'})")
    if any(parse_weighted(name)[1] is not None for name in names):
        return [Mixture.open(names)]
    return [Mixture.open([name]) for name in names or [default or known[0]]]


def write_run(
    generator: Generator,
    databases: list[Mixture | None],
    plans: list[Plan],
    out: Path,
    args: argparse.Namespace,
    extra: Extra | None = None,
) -> tuple[Path, int]:
    """Draws each database's plan into a folder that tells how.

    Args:
      generator: the model.
      databases: what the plans draw from.
      plans: one for each database.
      out: the folder; a used one gets another within.
      args: `disable_metadata`, `skip_grid`, `previews` and `quiet`.
      extra: called with the folder and what was drawn, to write more sheets.

    Returns:
      the folder and how many pictures it holds.
    """
    from rdm_jax.cli import outputs

    _read_neighbors(databases, plans)
    names = _folder_names(databases)
    with outputs.run_folder(out, [name for name in names if name]) as folder:
        drawn: list[tuple[str, Result]] = []
        entries: list[dict[str, Any]] = []
        try:
            for database, plan, name in zip(databases, plans, names, strict=True):
                drawn.append((name, _draw(generator, database, plan, folder, name, entries, args)))
            if not args.skip_grid:
                _write_sheets(folder, drawn, databases)
            if extra:
                extra(folder, drawn)
        finally:
            # Written for a run that was interrupted too: the pictures are there, and this says what they are.
            if entries:
                _write_run(folder, generator.bundle, databases, plans[0], entries)
    return folder, len(entries)


def _read_neighbors(databases: list[Mixture | None], plans: list[Plan]) -> None:
    """Reads what will be told and shown of neighbours: a damaged database fails before anything is drawn."""
    for database, plan in zip(databases, plans, strict=True):
        if database is not None and plan.neighbors is not None:
            names, ids = plan.neighbors.databases.ravel(), plan.neighbors.ids.ravel()
            database.items(names, ids)
            database.thumbnails(names, ids)


def _folder_names(databases: list[Mixture | None]) -> list[str]:
    """Returns each database's sub-folder, "" where there is only one; names come from files and are not trusted."""
    if len(databases) == 1:
        return [""]
    names = [re.sub(r"[^\w.-]+", "-", database.name).strip(".-") or "database" for database in databases if database]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two databases are named {twice!r}; give each once, or rename one")
    return names


def _draw(
    generator: Generator,
    database: Mixture | None,
    plan: Plan,
    folder: Path,
    name: str,
    entries: list[dict[str, Any]],
    args: argparse.Namespace,
) -> Result:
    """Draws a plan, writes each picture as soon as it is there, and adds what run.json says of it to `entries`."""
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png
    from rdm_jax.generator import join

    results = []
    with Progress(f"drawing {name}".strip(), quiet=args.quiet) as progress:
        for result in generator.draw(plan, progress, _previews(folder / name, plan) if args.previews else None):
            results.append(result)
            for image, record in zip(result.images, outputs.records(result, generator.bundle, database), strict=True):
                file = Path(name) / f"{record['index']:05d}-{result.seed}.png"
                outputs.write_new(folder / file, encode_png(image, None if args.disable_metadata else record))
                entries.append(outputs.run_entry(file, record, database))
    return join(results)


def _previews(folder: Path, plan: Plan) -> Callable[[list[int], int, np.ndarray], None]:
    """Returns what writes each picture as it is believed to be after some steps."""
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png

    (folder / "previews").mkdir(exist_ok=True)

    def write(indices: list[int], done: int, pictures: np.ndarray) -> None:
        """Writes the pictures of one batch."""
        for index, picture in zip(indices, pictures, strict=True):
            name = f"{index:05d}-{plan.settings.seed}-step{done:04d}.png"
            outputs.write_new(folder / "previews" / name, encode_png(picture))

    return write


def _write_sheets(folder: Path, drawn: list[tuple[str, Result]], databases: list[Mixture | None]) -> None:
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png

    outputs.write_new(folder / "grid.png", encode_png(outputs.grid_sheet(drawn)))
    for (name, result), database in zip(drawn, databases, strict=True):
        if database is not None:
            sheet = outputs.neighbor_sheet(result, database)
            outputs.write_new(folder / name / "neighbors.png", encode_png(sheet))


def _write_run(
    folder: Path, model: Bundle, databases: list[Mixture | None], plan: Plan, entries: list[dict[str, Any]]
) -> None:
    from rdm_jax.cli import outputs

    opened = [database for database in databases if database is not None]
    run = outputs.run_record(model, opened, plan, entries, planned=len(plan.indices) * len(databases))
    outputs.write_new(folder / outputs.RUN, files.json_bytes(run))
