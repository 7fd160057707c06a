"""What `rdm sample` and `rdm edit` have in common: options, databases to retrieve from, and the output folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.options import add_options, given
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.generator import Generator, Plan, Result
    from rdm_jax.retrieval.mixture import Mixture

Extra = Callable[[Path, "list[tuple[str, Result]]"], None]

DEFAULT_MODEL = "style-scenes"
DEFAULT_OUT = "outputs"


def add_arguments(parser: argparse.ArgumentParser, *, everything: bool = False) -> None:
    """Adds the options for the databases, the model, the request, the head and the output.

    Args:
      parser: of the verb.
      everything: also the options that not every verb has (`core.options.Declaration`).
    """
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME|DIR[:WEIGHT]",
        help="where neighbors come from (repeatable); with weights, neighbors come from all of them together",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="(default: %(default)s)")
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
    add_options(parser, everything=everything)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help="the folder; a used one gets run-002/ (default: %(default)s)",
    )
    add_writing_options(output)
    output.add_argument("--skip-grid", action="store_true", help="write no grid.png and no neighbors.png")
    output.add_argument(
        "--previews", action="store_true", help="write an estimate of each image after every chunk to previews/"
    )


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
    from rdm_jax.diffusion.spacing import SPACINGS

    samplers = "\n".join(describe(name, cls) for name, cls in SAMPLERS.items())
    return f"--sampler\n{samplers}\n\n--spacing\n{', '.join(SPACINGS)}\n"


def seed_of(args: argparse.Namespace) -> int:
    """Returns the seed that was given, or a random one."""
    return secrets.randbits(32) if args.seed is None else args.seed


def options(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Returns the options of a plan, by the names of `Generator.plan`."""
    from rdm_jax.conditioning import Negative

    negative = [Negative(prompt=args.negative_prompt)] if args.negative_prompt else []
    return {**given(args), "conditions": [*negative, *args.conditions], "seed": seed}


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
    *,
    claimed: bool = False,
) -> tuple[Path, int]:
    """Generates the images of each database's plan into a folder, with a record of how.

    Args:
      generator: the model.
      databases: what the plans retrieve from.
      plans: one for each database.
      out: the folder; a used one gets another within.
      args: `disable_metadata`, `skip_grid`, `previews` and `quiet`.
      extra: called with the folder and the results, to write more sheets.
      claimed: whether `out` is this run's own already (`outputs.run_folder`).

    Returns:
      the folder and the number of images in it.
    """
    from rdm_jax.cli import outputs

    _read_neighbors(databases, plans)
    names = _folder_names(databases)
    read = outputs.read_files(plans[0].request, plans[0].options)
    with outputs.run_folder(out, [name for name in names if name], claimed=claimed) as folder:
        writer = _Writer(generator, databases, plans[0], folder, args, read)
        results: list[tuple[str, Result]] = []
        try:
            for database, plan, name in zip(databases, plans, names, strict=True):
                results.append((name, writer.generate(database, plan, name)))
        except BaseException:
            with contextlib.suppress(UserError):  # the disk may be full: the first error is the one to show
                writer.write_record()
            raise
        writer.write_record()
        if not args.skip_grid:
            _write_sheets(folder, results, databases)
        if extra:
            extra(folder, results)
    return folder, len(writer.entries)


def _read_neighbors(databases: list[Mixture | None], plans: list[Plan]) -> None:
    """Reads what will be shown of neighbors: a damaged database fails before anything is generated."""
    for database, plan in zip(databases, plans, strict=True):
        if database is not None and plan.neighbors is not None:
            names, ids = plan.neighbors.databases.ravel(), plan.neighbors.ids.ravel()
            database.items(names, ids)
            database.thumbnails(names, ids)


def _folder_names(databases: list[Mixture | None]) -> list[str]:
    """Returns each database's subfolder, "" where there is only one; names come from files and are not trusted."""
    if len(databases) == 1:
        return [""]
    names = [re.sub(r"[^\w.-]+", "-", database.name).strip(".-") or "database" for database in databases if database]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise UserError(f"two databases are named {duplicate!r}; give each once, or rename one")
    return names


@dataclasses.dataclass
class _Writer:
    """Writes the images of a run.

    Attributes:
      generator: the model.
      databases: of the run.
      plan: of the first database.
      folder: of the run.
      args: `disable_metadata`, `previews` and `quiet`.
      read: the hashes of the files that the run has read.
      entries: run.json's record of each image that was written.
      recorded: how many of them are in run.json already.
    """

    generator: Generator
    databases: list[Mixture | None]
    plan: Plan
    folder: Path
    args: argparse.Namespace
    read: dict[str, str]
    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    recorded: int = 0

    def generate(self, database: Mixture | None, plan: Plan, name: str) -> Result:
        """Generates the images of a plan and writes each one, to a subfolder, as soon as it is finished."""
        from rdm_jax.generator import join

        results, args = [], self.args
        with Progress(f"generating {name}".strip(), quiet=args.quiet) as progress:
            previews = _previews(self.folder / name, plan) if args.previews else None
            for result in self.generator.generate(plan, progress, previews):
                results.append(result)
                self._write(result, database, name)
        return join(results)

    def _write(self, result: Result, database: Mixture | None, name: str) -> None:
        """Writes the images of a batch, and the record of all images so far: a killed run has both.

        The record is written again once it has grown by an eighth, so that its writing takes time in proportion to the
        number of images.
        """
        from rdm_jax.cli import outputs
        from rdm_jax.cli.png import encode_png

        records = outputs.records(result, self.generator, database, self.read)
        for image, record in zip(result.images, records, strict=True):
            file = Path(name) / f"{record['index']:05d}-{result.seed}.png"
            outputs.write_new(self.folder / file, encode_png(image, None if self.args.disable_metadata else record))
            self.entries.append(outputs.run_entry(file, record, database))
        if len(self.entries) - self.recorded > self.recorded // 8:
            self.write_record()

    def write_record(self) -> None:
        """Writes the record of all images so far, if there are new ones."""
        from rdm_jax.cli import outputs

        if len(self.entries) == self.recorded:
            return
        opened = [database for database in self.databases if database is not None]
        planned = len(self.plan.indices) * len(self.databases)
        run = outputs.run_record(self.generator, opened, self.plan, self.read, self.entries, planned)
        outputs.write_record(self.folder / outputs.RUN, run)
        self.recorded = len(self.entries)


def _previews(folder: Path, plan: Plan) -> Callable[[list[int], int, np.ndarray], None]:
    """Returns the callback that writes an estimate of each image after every chunk."""
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png
    from rdm_jax.core import files

    with files.writing(folder / "previews"):
        (folder / "previews").mkdir(exist_ok=True)

    def write(indices: list[int], done: int, images: np.ndarray) -> None:
        """Writes the images of one batch."""
        for index, image in zip(indices, images, strict=True):
            name = f"{index:05d}-{plan.request.seed}-step{done:04d}.png"
            outputs.write_new(folder / "previews" / name, encode_png(image))

    return write


def _write_sheets(folder: Path, results: list[tuple[str, Result]], databases: list[Mixture | None]) -> None:
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png

    outputs.write_new(folder / "grid.png", encode_png(outputs.grid_sheet(results)))
    for (name, result), database in zip(results, databases, strict=True):
        if database is not None:
            sheet = outputs.neighbor_sheet(result, database)
            outputs.write_new(folder / name / "neighbors.png", encode_png(sheet))
