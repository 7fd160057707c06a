"""What `rdm sample` and `rdm edit` have in common: options, databases to retrieve from, and the output folder."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.options import add_options, given
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.bundle import Bundle
    from rdm_jax.cli.rendering import Layout
    from rdm_jax.cli.watch import Watch
    from rdm_jax.cli.writer import Group
    from rdm_jax.generator import Generator, Plan, Result
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.retriever import Neighbors
    from rdm_jax.sweep.plan import Sweep

Extra = Callable[[Path, "list[tuple[str, Result]]"], None]

READ_ROWS = 1000  # thumbnails in memory at once, where they are only checked

DEFAULT_MODEL = "style-scenes"
DEFAULT_OUT = "outputs"


def add_arguments(parser: argparse.ArgumentParser, *, everything: bool = False) -> None:
    """Adds the options for the databases, the model, the request, the head and the output.

    Args:
      parser: of the verb.
      everything: also the options that not every verb has (`core.options.Declaration`).
    """
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR|hf://...", help="(default: %(default)s)")
    parser.add_argument(
        "--fast", action="store_true", help="use the model's few-step model, which takes a few evaluations of a network"
    )
    add_generation_options(parser, everything=everything)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help="the folder; a used one gets run-002/ (default: %(default)s)",
    )
    add_writing_options(output)
    output.add_argument("--skip-grid", action="store_true", help="write no sheets: no grid.png, no neighbors.png")
    output.add_argument(
        "--previews", action="store_true", help="write an estimate of each image after every chunk to previews/"
    )


def add_generation_options(parser: argparse.ArgumentParser, *, everything: bool) -> None:
    """Adds the options for the databases, the request and the head; see `add_arguments`."""
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME|DIR|hf://...[:WEIGHT]",
        help="where neighbors come from: a database, or a folder or .zip of images (repeatable); with weights, "
        "neighbors come from all of them together",
    )
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what to guide away from")
    parser.add_argument("--list-guides", action=_Print, text=_guides, help="print what --guide and --with take")
    parser.add_argument(
        "--list-samplers", action=_Print, text=_samplers, help="print what --sampler and --spacing take"
    )
    parser.add_argument(
        "--dtype", default="float32", metavar="TYPE", help="float32 (default), or bfloat16: half the memory"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the model's config.json"
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="add a LoRA to the weights of a Stable Diffusion (repeatable; default weight: 1)",
    )
    add_options(parser, everything=everything)


def add_writing_options(parser: Any) -> None:
    """Adds the options of every command that writes images."""
    parser.add_argument("--disable-metadata", action="store_true", help="leave the parameters out of the PNG files")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


class _Print(argparse.Action):
    """Prints a text and exits."""

    def __init__(self, text: Callable[[], str], **options: Any) -> None:
        super().__init__(nargs=0, **options)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        sys.stdout.write(self._text())
        parser.exit()


def _guides() -> str:
    from rdm_jax import conditioning, guidance

    return f"--guide\n{guidance.describe_guides()}\n\n--with\n{conditioning.describe_conditioners()}\n"


def _samplers() -> str:
    from rdm_jax.core.calls import describe
    from rdm_jax.diffusion.samplers import SAMPLERS
    from rdm_jax.diffusion.spacing import SPACINGS, WITH_OWN_STEPS

    samplers = "\n".join(describe(name, cls) for name, cls in SAMPLERS.items())
    fixed = "".join(f", {name} ({steps} steps)" for name, (steps, _) in WITH_OWN_STEPS.items())
    sections = "or the steps of equal sections of the schedule, from the image to noise: 10,15,20 (45 steps)"
    return f"--sampler\n{samplers}\n\n--spacing\n{', '.join(SPACINGS)}{fixed},\n{sections}\n"


def model_of(args: argparse.Namespace) -> str:
    """Returns the name or folder of the model to use; raises UserError for --fast if there is no few-step model."""
    if not args.fast:
        return args.model
    from rdm_jax.heads.diffusion.few_steps import student_of

    return student_of(args.model)


def seed_of(args: argparse.Namespace) -> int:
    """Returns the seed that was given, or a random one."""
    return secrets.randbits(32) if args.seed is None else args.seed


def options(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Returns the options of a plan, by the names of `Generator.plan`."""
    from rdm_jax.conditioning import Negative

    negative = [Negative(prompt=args.negative_prompt)] if args.negative_prompt else []
    return {**given(args), "conditions": [*negative, *args.conditions], "seed": seed}


def build_image_folders(args: argparse.Namespace, encoder: ClipEncoder) -> None:
    """Replaces each database option that names a folder or zip of images by the database that is built of it."""
    for option in ("database", "content_database", "to_database"):
        value = getattr(args, option, None)
        if isinstance(value, list):
            setattr(args, option, [_built(name, encoder, args.quiet) for name in value])
        elif value:
            setattr(args, option, _built(value, encoder, args.quiet))


def _built(spec: str, encoder: ClipEncoder, quiet: bool) -> str:
    """Returns NAME or NAME:WEIGHT with the folder of the database that was built, where one had to be."""
    from rdm_jax.retrieval.mixture import parse_weighted
    from rdm_jax.retrieval.opening import database_place

    name, weight = parse_weighted(spec)
    with Progress(f"building a database of {name}", unit="image", quiet=quiet) as progress:
        place = str(database_place(encoder, name, progress))
    return place if weight is None else f"{place}:{weight:g}"


def open_databases(names: Sequence[str], condition: str | None, model: Bundle) -> list[Mixture | None]:
    """Returns the databases to retrieve from, one after another; a single None where the condition needs none."""
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.mixture import Mixture, parse_weighted

    sampling = model.config.get("sampling", {})
    if (condition or sampling.get("condition")) == "text":
        if names:
            note("warning: condition text uses no database; --database is ignored")
        return [None]
    default = sampling.get("database")
    known = Database.names(model.config.get("sha256", {}).get("clip"))
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
    *,
    claimed: bool = False,
    layout: Layout | None = None,
    sweep: Sweep | None = None,
    watch: Watch | None = None,
) -> tuple[Path, int]:
    """Generates the images of each plan into a folder, with a record of how.

    Args:
      generator: the model.
      databases: what each plan retrieves from.
      plans: one for each database, or for each cell of a sweep.
      out: the folder; a used one gets another within.
      args: `disable_metadata`, `skip_grid`, `previews` and `quiet`.
      extra: called with the folder and the results, to write more sheets.
      claimed: whether `out` is this run's own already (`run_folder.claimed`).
      layout: what files the run has; by default images as they were generated, named by index and seed.
      sweep: whose cells the plans are; None for a run without.
      watch: follows the run; the terminal if None.

    Returns:
      the folder and the number of images in it.
    """
    from rdm_jax.cli import run_folder
    from rdm_jax.cli.watch import Terminal
    from rdm_jax.cli.writer import Writer, write_sheets, write_sweep_sheet
    from rdm_jax.retrieval import attribution

    layout = layout or plain_layout(databases)
    groups = _groups(generator, databases, plans, args, layout, sweep)
    credits = attribution.attribution([pair for group in groups for pair in _used(group)])
    _read_thumbnails(databases, plans)
    claimed = claimed or layout.resume
    with run_folder.claimed(out, [group.name for group in groups if group.name], claimed=claimed) as folder:
        watch = watch or Terminal(args.quiet, args.previews)
        writer = Writer(generator, groups, folder, args, watch, layout, sweep.to_json() if sweep else ())
        plans = writer.resumed() if layout.resume else plans
        results: dict[str, Result] = {}
        try:
            for group, plan in zip(groups, plans, strict=True):
                if plan.indices:
                    kept = writer.generate(group, plan, keep=not sweep and (bool(extra) or not args.skip_grid))
                    results |= {} if kept is None else {group.name: kept}
        except BaseException:
            with contextlib.suppress(UserError):  # the disk may be full: the first error is the one to show
                writer.write_record()
                if writer.entries:
                    _write_credits(folder, credits)
            raise
        writer.write_record()
        _write_credits(folder, credits)
        if not args.skip_grid and sweep:
            write_sweep_sheet(writer, sweep)
        elif not args.skip_grid:
            write_sheets(writer, results)
        if extra:
            extra(folder, list(results.items()))
    return folder, len(writer.entries)


def _groups(
    generator: Generator,
    databases: Sequence[Mixture | None],
    plans: Sequence[Plan],
    args: argparse.Namespace,
    layout: Layout,
    sweep: Sweep | None,
) -> list[Group]:
    """Returns the groups of a run's images, one for each plan."""
    from rdm_jax.cli import records
    from rdm_jax.cli.content import ContentRecord
    from rdm_jax.cli.writer import Group, folder_names

    names = sweep.names if sweep else folder_names(databases)
    settings = sweep.settings if sweep else [{}] * len(plans)
    content_databases = getattr(args, "content_database", None) or []
    return [
        Group(
            name=name,
            plan=plan,
            database=database,
            rendition=rendition,
            content=ContentRecord.of(plan, generator.bundle, content_databases),
            read=records.read_files(plan.request, plan.options) | records.lora_files(generator.bundle),
            by_word=layout.by_word,
            setting=setting,
        )
        for name, plan, database, rendition, setting in zip(
            names, plans, databases, layout.renditions, settings, strict=True
        )
    ]


def plain_layout(databases: Sequence[Mixture | None]) -> Layout:
    """Returns the layout of a run whose images are written as they were generated."""
    from rdm_jax.cli.rendering import Layout
    from rdm_jax.core.rendition import Rendition

    return Layout([Rendition()] * len(databases))


def _used(group: Group) -> list[tuple[Sequence[Database], Neighbors | None]]:
    """Returns the databases and neighbors of each role."""
    content = group.content
    shown = content.databases if content is not None else None
    own = [(group.database.databases, group.plan.neighbors)] if group.database is not None else []
    return [*own, *([(shown.databases, content.used)] if content is not None and shown is not None else [])]


def _write_credits(folder: Path, credits: str) -> None:
    from rdm_jax.cli import run_folder
    from rdm_jax.retrieval import attribution

    run_folder.write_again(folder / attribution.FILE, credits.encode())


def _read_thumbnails(databases: list[Mixture | None], plans: list[Plan]) -> None:
    """Reads what will be shown of neighbors: a damaged database fails before anything is generated."""
    import numpy as np

    for database, plan in zip(databases, plans, strict=True):
        if database is not None and plan.neighbors is not None:
            for one in database.databases:
                ids = np.unique(plan.neighbors.ids[plan.neighbors.databases == one.name])
                for first in range(0, len(ids), READ_ROWS):
                    one.thumbnails(ids[first : first + READ_ROWS])
