"""`rdm sample`: prompts to pictures, their neighbours beside them, in a folder that tells how they were made."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import Progress, format_seconds, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.generator import Generator, Plan, Result
    from rdm_jax.retrieval.mixture import Mixture

DEFAULT_MODEL = "style-scenes"
DEFAULT_OUT = "outputs"
TOP_M = 0.01  # the share of rows that the original draws from

HELP = """Draws pictures for prompts.

A prompt fetches its nearest pictures from a database, and the model draws with them as its context: swap the database
and the style changes. Give several --database options to draw the same prompts and seeds from each.

  rdm sample "a red boat" --database neon --num-images 4
  rdm sample "a red boat" "a house" --database neon --database mosaic --seed 7 --out boats
  rdm sample "a red boat" --database neon:0.7 --database charcoal:0.3
  rdm sample --image boat.jpg --database neon"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rdm sample`; other tools' spellings are taken too, and not shown in the help."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; each prompt is drawn on its own")
    parser.add_argument("--from-file", metavar="FILE", help="read prompts from a file, one a line; - is standard input")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="an image as the query (repeatable)"
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME|DIR[:WEIGHT]",
        help="where neighbors come from (repeatable); with weights, the databases are drawn from together",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="(default: %(default)s)")
    proposals = parser.add_argument_group("drawing without a prompt, by rows of the database")
    proposals.add_argument("--proposals", type=int, default=0, metavar="N", help="draw N rows as queries")
    proposals.add_argument(
        "--counts", metavar="DIR", help="neighbors of the training pictures (rdm neighbors): how often each row was one"
    )
    proposals.add_argument("--top-m", type=float, metavar="M", help="only the M most frequent rows, or that share")
    proposals.add_argument("--weighted", action="store_true", help="draw a row as often as it was a neighbor")
    drawing = parser.add_argument_group("drawing (where nothing is given, the model's own settings hold)")
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
    drawing.add_argument(
        "--guide",
        action="append",
        default=[],
        metavar="CALL",
        help="bends the run, as \"clip(text='a storm', weight=50)\" (repeatable; --list-guides)",
    )
    drawing.add_argument("--list-guides", action=_ListGuides, help="say what guides there are, and stop")
    drawing.add_argument("--eta", type=float, metavar="E", help="fresh noise in each step, 0 to 1")
    drawing.add_argument("--guidance-scale", type=float, metavar="G", help="1 is none, more follows the query closer")
    drawing.add_argument("--seed", type=int, metavar="I", help="drawn by chance, said and recorded where not given")
    drawing.add_argument(
        "--dtype", default="float32", metavar="TYPE", help="float32 (default), or bfloat16: half the memory"
    )
    drawing.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the model's config.json"
    )
    drawing.add_argument("--height", type=int, metavar="H", help="in pixels")
    drawing.add_argument("--width", type=int, metavar="W", help="in pixels")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", default=DEFAULT_OUT, metavar="DIR", help="the folder; a used one gets run-002/ (default: %(default)s)"
    )
    output.add_argument("--disable-metadata", action="store_true", help="leave the parameters out of the PNG files")
    output.add_argument("--skip-grid", action="store_true", help="write no grid.png and no neighbors.png")
    output.add_argument("--quiet", action="store_true", help="show no progress")
    _add_aliases(parser)


class _ListGuides(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from rdm_jax.guides import listed

        sys.stdout.write(listed() + "\n")
        parser.exit()


def _add_aliases(parser: argparse.ArgumentParser) -> None:
    """Adds the spellings of the CompVis scripts and of diffusers."""
    integers = {
        "num_images": ("--n_samples", "--num_images_per_prompt"),
        "neighbors": ("--knn",),
        "k_nn": ("--k_nn",),
        "steps": ("--ddim_steps", "--num_inference_steps"),
        "height": ("--H",),
        "width": ("--W",),
    }
    floats = {"eta": ("--ddim_eta",), "guidance_scale": ("--scale", "--guidance_scale"), "top_m": ("--top_m",)}
    texts = {"out": ("--outdir",), "from_file": ("--from_file",), "model": ("--model_path",)}
    constants = {
        "--plms": ("sampler", "plms"),
        "--only_caption": ("condition", "text"),
        "--omit_query": ("condition", "neighbors"),
        "--use_neighbors": ("condition", "text+neighbors"),
        "--unconditional": ("proposals", 1),
        "--use_weights": ("weighted", True),
    }
    for flag, (name, value) in constants.items():
        parser.add_argument(
            flag, dest=name, action="store_const", const=value, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    for kind, aliases in ((int, integers), (float, floats), (str, texts)):
        for name, flags in aliases.items():
            parser.add_argument(*flags, dest=name, type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--prompt", "--caption", dest="more_prompts", action="append", default=[], help=argparse.SUPPRESS
    )
    parser.add_argument("--skip_grid", dest="skip_grid", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Draws what is asked for; everything is checked before the output folder is made."""
    begin = time.monotonic()
    out = Path(args.out).expanduser()
    prompts = [*args.prompts, *args.more_prompts, *(_read_prompts(args.from_file) if args.from_file else [])]
    images = [_read_image(Path(name)) for name in args.image]
    # Imported late: `rdm --help` and wrong file names need not wait for it.
    from rdm_jax.cli import outputs
    from rdm_jax.generator import Generator

    outputs.check_writable(out)
    generator = Generator.load(args.model, args.dtype, tuple(args.set))
    databases = _open_databases(args.database, args.condition, generator.bundle)
    plans = _plan(generator, args, prompts, images, databases)
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
        finally:
            # Written for a run that was interrupted too: the pictures are there, and this says what they are.
            if entries:
                _write_run(folder, generator.bundle, databases, plans[0], entries)
    note(f"{len(entries)} picture{'s' if len(entries) > 1 else ''} in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


def _read_prompts(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text; save the prompts as plain text, one a line") from error
    except OSError as error:
        raise UserError(f"cannot read prompts from {name}: {error.strerror}") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{name} holds no prompts; write one a line")
    return prompts


def _read_image(path: Path) -> tuple[str, np.ndarray]:
    """Returns a label that tells the image by its contents, not by its name, and its pixels."""
    from rdm_jax.core.images import decode

    try:
        data = path.expanduser().read_bytes()
        return f"image {hashlib.sha256(data).hexdigest()[:10]}", decode(data)
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"cannot read image {path}: {error}") from error


def _open_databases(names: Sequence[str], condition: str | None, model: Bundle) -> list[Mixture | None]:
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


def _plan(
    generator: Generator,
    args: argparse.Namespace,
    prompts: list[str],
    images: list[tuple[str, np.ndarray]],
    databases: list[Mixture | None],
) -> list[Plan]:
    """Returns the plan for each database; queries are encoded once."""
    seed = secrets.randbits(32) if args.seed is None else args.seed
    rows = _proposals(args, databases, seed)
    condition, neighbors = _conditions(args, generator.bundle, bool(rows))
    first = generator.plan(
        prompts,
        database=databases[0],
        images=[pixels for _, pixels in images],
        rows=rows,
        condition=condition,
        neighbors=neighbors,
        num_images=args.num_images,
        batch_size=args.batch_size,
        steps=args.steps,
        sampler=args.sampler,
        eta=args.eta,
        spacing=args.spacing,
        guides=args.guide,
        guidance_scale=args.guidance_scale,
        seed=seed,
        height=args.height,
        width=args.width,
    )
    labels = [label for label, _ in images]
    first = dataclasses.replace(first, prompts=[*prompts, *labels, *first.prompts[len(prompts) + len(labels) :]])
    note(f"model {generator.bundle.name}, seed {seed}")
    return [first, *(generator.replan(first, database) for database in databases[1:])]


def _proposals(args: argparse.Namespace, databases: list[Mixture | None], seed: int) -> Sequence[int]:
    """Returns the rows that are queries of their own; none where --proposals does not ask for them."""
    if not args.proposals:
        given = {"--counts": args.counts, "--top-m": args.top_m, "--weighted": args.weighted}
        for option in (option for option, value in given.items() if value):
            note(f"warning: {option} says how --proposals draws rows, and there are none to draw; it is left out")
        return ()
    import numpy as np

    from rdm_jax.retrieval import proposals
    from rdm_jax.retrieval.sidecar import NeighborSidecar

    if args.proposals < 0:
        raise UserError(f"proposals {args.proposals} is too small; use 1 or more")
    if len(databases) > 1 or databases[0] is None or len(databases[0].databases) > 1:
        raise UserError("--proposals draws rows of one database; give one --database, and a condition with neighbors")
    database = databases[0].databases[0]
    if args.counts is None:
        if args.weighted or args.top_m is not None:
            raise UserError("--top-m and --weighted need to know how often each row was a neighbor; give --counts DIR")
        return proposals.draw(np.arange(len(database)), args.proposals, seed).tolist()
    counts = proposals.count_neighbors(NeighborSidecar.open(args.counts), database)
    rows = proposals.top(counts, TOP_M if args.top_m is None else args.top_m)
    return proposals.draw(rows, args.proposals, seed, counts[rows] if args.weighted else None).tolist()


def _conditions(args: argparse.Namespace, bundle: Bundle, proposed: bool) -> tuple[str | None, int | None]:
    """Returns the condition and how many neighbours are asked for, None for the model's own.

    CompVis's --k_nn counts the query, where the model sees it, as one. Rows that are queries are their own first
    neighbours: with nothing said, a model that sees query and neighbours sees as many tokens of neighbours alone.
    """
    own = bundle.config["sampling"].get("condition", "")
    condition = args.condition or ("neighbors" if proposed else None)
    if "k_nn" in args:
        return condition, args.k_nn - ((condition or own) == "text+neighbors")
    if proposed and args.condition is None and args.neighbors is None:
        return condition, bundle.config["conditioning"]["neighbors"] + (own == "text+neighbors")
    return condition, args.neighbors


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
        for result in generator.draw(plan, progress):
            results.append(result)
            for image, record in zip(result.images, outputs.records(result, generator.bundle, database), strict=True):
                file = Path(name) / f"{record['index']:05d}-{result.seed}.png"
                outputs.write_new(folder / file, encode_png(image, None if args.disable_metadata else record))
                entries.append(outputs.run_entry(file, record, database))
    return join(results)


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
    outputs.write_new(folder / outputs.RUN, (json.dumps(run, indent=2) + "\n").encode())
