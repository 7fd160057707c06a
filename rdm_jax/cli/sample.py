"""`rdm sample`: generates images for prompts, and writes them with their neighbors and a record of the run."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_jax.cli import generating, rendering
from rdm_jax.cli.progress import format_seconds, note
from rdm_jax.cli.readers import MOST, number
from rdm_jax.core import paths, text
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.generator import Generator, Plan
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.sweep.plan import Sweep

MOST_WARNINGS = 20  # of prompts that are alike
TOP_M = 0.01  # the fraction of rows that the original chooses from

HELP = """Generates images for prompts.

A prompt retrieves its nearest images from a database, and the model is conditioned on them: swap the database and the
style changes. Give several --database options to generate the same prompts and seeds with each.

  rdm sample "a red boat" --database neon --num-images 4
  rdm sample "a red boat" "a house" --database neon --database mosaic --seed 7 --out boats
  rdm sample "a red boat" --database neon:0.7 --database charcoal:0.3
  rdm sample --image boat.jpg --database neon
  rdm sample "a red boat" --sweep guidance_scale=1,2,4 --sweep database=neon,mosaic
  rdm sample --from-file words.txt --database my-icons --svg --transparent --out icons"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rdm sample`; spellings of other tools are accepted too, and not shown in the help."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to generate; each prompt on its own")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="an image as the query (repeatable)"
    )
    add_query_options(parser)
    generating.add_arguments(parser, everything=True)
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=A,B,C",
        help="a grid over the values of an option, or of two (repeatable once): any option below, as guidance_scale or "
        "seed, prompt, database, or sdg.weight of a --guide; a value with a comma stands in double quotes",
    )
    rendering.add_arguments(parser.add_argument_group("for designers"))
    _add_aliases(parser)


def add_query_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for queries that are no prompts of the command line, and for the content of the images."""
    parser.add_argument(
        "--from-file",
        metavar="FILE",
        help="read prompts from a file, one on each line, and name the images by them; - is standard input, lines that "
        "start with '# ' are comments",
    )
    proposals = parser.add_argument_group("without a prompt: rows of the database as queries")
    proposals.add_argument(
        "--proposals", type=number(int, 0, 100_000), default=0, metavar="N", help="choose N rows at random as queries"
    )
    proposals.add_argument(
        "--counts",
        metavar="DIR",
        help="neighbors of the training images (rdm neighbors): counts how often each row was one",
    )
    proposals.add_argument(
        "--top-m",
        type=number(float, 0, MOST),
        metavar="M",
        help="only the M most frequent rows, or that fraction of all",
    )
    proposals.add_argument("--weighted", action="store_true", help="choose a row as often as it was a neighbor")
    parser.add_argument(
        "--content-database",
        action="append",
        metavar="NAME|DIR|hf://...[:WEIGHT]",
        help="where content neighbors come from, of a model with two roles of neighbors (default: the model's own)",
    )


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
    texts = {"from_file": ("--from_file",), "model": ("--model_path",)}
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
    folders = {"out": ("--outdir",)}
    for kind, aliases in ((int, integers), (float, floats), (str, texts), (Path, folders)):
        for name, flags in aliases.items():
            parser.add_argument(*flags, dest=name, type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--prompt", "--caption", dest="more_prompts", action="append", default=[], help=argparse.SUPPRESS
    )
    parser.add_argument("--skip_grid", dest="skip_grid", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Generates the images; everything is checked before the output folder is created."""
    begin = time.monotonic()
    out = args.out
    prompts = [*args.prompts, *args.more_prompts, *(read_prompts(args.from_file) if args.from_file else [])]
    images = [read_query(name) for name in args.image]
    # Imported late: `rdm --help` and wrong file names need not wait for it.
    from rdm_jax.cli import resume, run_folder
    from rdm_jax.generator import Generator

    run_folder.check_writable(out)
    if args.resume and args.seed is None:
        args.seed = resume.read_run(out)["request"].get("seed")
    generator = Generator.load(generating.model_of(args), args.dtype, tuple(args.set), loras=tuple(args.lora))
    generating.build_image_folders(args, generator.encoder)
    databases, plans, sweep = prepare(generator, args, prompts, images)
    files = rendering.layout(args, databases)
    folder, entries = generating.write_run(generator, databases, plans, out, args, layout=files, sweep=sweep)
    note(f"{entries} image{'s' if entries > 1 else ''} in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


def prepare(
    generator: Generator, args: argparse.Namespace, prompts: list[str], images: list[tuple[str, np.ndarray]]
) -> tuple[list[Mixture | None], list[Plan], Sweep | None]:
    """Returns the databases, the plan for each of them, and the sweep, if the run is one.

    Args:
      generator: the model.
      args: the options of `rdm sample`.
      prompts: what to generate.
      images: (label, pixels) of each image that is a query.

    Raises:
      UserError: an option is invalid.
    """
    if args.sweep:
        sweep = _sweep(generator, args, prompts, images)
        return list(sweep.databases), list(sweep.plans), sweep
    databases = generating.open_databases(args.database, args.condition, generator.bundle)
    return databases, plans_of(generator, args, prompts, images, databases), None


def read_prompts(name: str) -> list[str]:
    """Returns the prompts of a file, one on each line; raises UserError if there are none."""
    written = _standard_input() if name == "-" else text.read_given(paths.local(name), "prompts")
    lines = [line.strip() for line in text.lines(written)]
    prompts = [line for line in lines if line and not line.startswith("# ")]
    if not prompts:
        raise UserError(f"{name} holds no prompts; write one on each line")
    return prompts


def _standard_input() -> str:
    try:
        return text.decode(sys.stdin.buffer.read())
    except ValueError as error:
        raise UserError(f"cannot read prompts from standard input: {error}") from error


def read_query(name: str) -> tuple[str, np.ndarray]:
    """Returns a label that identifies the image by its contents, not by its name, and its pixels."""
    from rdm_jax.core import images

    data = images.read_bytes(name)
    try:
        return f"image {hashlib.sha256(data).hexdigest()[:10]}", images.decode(data)
    except ValueError as error:
        raise UserError(f"cannot read {name} as an image: {error}") from error


def plans_of(
    generator: Generator,
    args: argparse.Namespace,
    prompts: list[str],
    images: list[tuple[str, np.ndarray]],
    databases: list[Mixture | None],
) -> list[Plan]:
    """Returns the plan for each database; queries are encoded once."""
    seed = generating.seed_of(args)
    rows = _proposals(args, databases, seed)
    condition, neighbors = _conditions(args, generator.bundle, bool(rows))
    first = generator.plan(
        prompts,
        database=databases[0],
        images=[pixels for _, pixels in images],
        rows=rows,
        **_content(args),
        **{**generating.options(args, seed), "condition": condition, "neighbors": neighbors},
    )
    first = _labelled(first, len(prompts), images)
    note(f"model {generator.bundle.name}, seed {seed}")
    _note_unknown(first)
    return [first, *(generator.replan(first, database, default=neighbors is None) for database in databases[1:])]


def _labelled(plan: Plan, before: int, images: list[tuple[str, np.ndarray]]) -> Plan:
    """Returns a plan with the labels of its query images, which stand after `before` prompts."""
    labels = [label for label, _ in images]
    return dataclasses.replace(plan, prompts=[*plan.prompts[:before], *labels, *plan.prompts[before + len(labels) :]])


def _sweep(
    generator: Generator, args: argparse.Namespace, prompts: list[str], images: list[tuple[str, np.ndarray]]
) -> Sweep:
    """Returns the planned cells of --sweep."""
    from rdm_jax.core.errors import some
    from rdm_jax.sweep.axes import DATABASE, PROMPT, read_axes
    from rdm_jax.sweep.plan import plan_sweep

    seed = generating.seed_of(args)
    shared = generating.options(args, seed)
    axes = read_axes(args.sweep, generator, shared)
    names = {axis.name for axis in axes}
    database, rows = args.database[0] if args.database else None, ()
    if DATABASE in names and args.proposals:
        raise UserError("--proposals chooses rows of one database, and the sweep has several; leave one of them out")
    if DATABASE not in names:
        needed = "neighbors" if "condition" in names else args.condition
        databases = generating.open_databases(args.database, needed, generator.bundle)
        if len(databases) > 1:
            raise UserError("--sweep has one --database for all cells, or --sweep database=A,B; give one")
        database, rows = databases[0], _proposals(args, databases, seed)
    condition, neighbors = _conditions(args, generator.bundle, bool(rows))
    sweep = plan_sweep(
        generator,
        axes,
        prompts,
        database=database,
        images=[pixels for _, pixels in images],
        rows=rows,
        **_content(args),
        **{**shared, "condition": condition, "neighbors": neighbors},
    )
    seeds = some(map(str, dict.fromkeys(plan.request.seed for plan in sweep.plans)))
    cells, programs = len(sweep.plans), len(sweep.shapes)
    note(f"model {generator.bundle.name}, seed {seeds}")
    note(f"{cells} cells, {programs} program{'s' if programs > 1 else ''}")
    for plan in {tuple(plan.prompts): plan for plan in sweep.plans}.values():
        _note_unknown(plan)
    before = 1 if PROMPT in names else len(prompts)
    return dataclasses.replace(sweep, plans=tuple(_labelled(plan, before, images) for plan in sweep.plans))


def _note_unknown(plan: Plan) -> None:
    """Warns of prompts that no content is near."""
    if plan.content is None:
        return
    rows = zip(plan.prompts, plan.content.known.tolist(), plan.content.nearest, strict=True)
    unknown = [(prompt, words) for prompt, known, words in rows if not known]
    for prompt, words in unknown[:MOST_WARNINGS]:
        near = f"; the nearest words with content: {', '.join(words)}" if words else ""
        note(f"warning: no content is near {prompt!r}{near}")
    if len(unknown) > MOST_WARNINGS:
        note(f"warning: no content is near {len(unknown) - MOST_WARNINGS} prompts more")


def _content(args: argparse.Namespace) -> dict[str, Mixture]:
    """Returns the content databases that were given, as an argument of `Generator.plan`."""
    from rdm_jax.retrieval.mixture import Mixture

    return {"content_database": Mixture.open(args.content_database)} if args.content_database else {}


def _proposals(args: argparse.Namespace, databases: list[Mixture | None], seed: int) -> Sequence[int]:
    """Returns the rows that are queries of their own; none without --proposals."""
    if not args.proposals:
        given = {"--counts": args.counts, "--top-m": args.top_m, "--weighted": args.weighted}
        for option in (option for option, value in given.items() if value):
            note(f"warning: {option} applies to --proposals, which is not given; it is ignored")
        return ()
    import numpy as np

    from rdm_jax.retrieval import proposals
    from rdm_jax.retrieval.sidecar import NeighborSidecar

    if len(databases) > 1 or databases[0] is None or len(databases[0].databases) > 1:
        raise UserError("--proposals chooses rows of one database; give one --database, and a condition with neighbors")
    database = databases[0].databases[0]
    if args.counts is None:
        if args.weighted or args.top_m is not None:
            raise UserError(
                "--top-m and --weighted need the number of times each row was a neighbor; give --counts DIR"
            )
        return proposals.sample(np.arange(len(database)), args.proposals, seed).tolist()
    counts = proposals.count_neighbors(NeighborSidecar.open(args.counts), database)
    rows = proposals.top(counts, TOP_M if args.top_m is None else args.top_m)
    return proposals.sample(rows, args.proposals, seed, counts[rows] if args.weighted else None).tolist()


def _conditions(args: argparse.Namespace, bundle: Bundle, proposed: bool) -> tuple[str | None, int | None]:
    """Returns the condition and the number of neighbors, None for the model's own.

    CompVis's --k_nn counts the query, where it is in the context, as one. Rows that are queries are their own first
    neighbors: by default a model of query and neighbors then gets as many tokens of neighbors alone.
    """
    own = bundle.config["sampling"].get("condition", "")
    condition = args.condition or ("neighbors" if proposed else None)
    if "k_nn" in args:
        return condition, args.k_nn - ((condition or own) == "text+neighbors")
    if proposed and args.condition is None and args.neighbors is None:
        return condition, bundle.config["conditioning"]["neighbors"] + (own == "text+neighbors")
    return condition, args.neighbors
