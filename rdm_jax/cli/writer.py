"""The files of a run: each image with its record as soon as it is finished, run.json, and the sheets."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.cli import outputs, resume
from rdm_jax.cli.contact_sheet import contact_sheet
from rdm_jax.cli.content import ContentRecord
from rdm_jax.cli.png import encode_png
from rdm_jax.cli.progress import Progress, note
from rdm_jax.cli.rendering import Layout
from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.core.file_names import file_names
from rdm_jax.core.rendition import Rendition
from rdm_jax.generator import Generator, Plan, Result, join
from rdm_jax.retrieval.mixture import Mixture


@dataclasses.dataclass
class Writer:
    """Writes the images of a run.

    Attributes:
      generator: the model.
      databases: of the run.
      plan: of the first database.
      folder: of the run.
      args: `disable_metadata`, `previews` and `quiet`.
      read: the hashes of the files that the run has read.
      layout: what files the run has.
      content: what shows the content of the images; None where the model has no such role.
      entries: run.json's record of each image that was written.
      recorded: how many of them are in run.json already.
    """

    generator: Generator
    databases: list[Mixture | None]
    plan: Plan
    folder: Path
    args: argparse.Namespace
    read: dict[str, str]
    layout: Layout
    content: ContentRecord | None = None
    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    recorded: int = 0

    def resumed(self, plans: list[Plan], names: Sequence[str]) -> list[Plan]:
        """Returns the plans of the images that are not there yet; the record of the others is taken over.

        Raises:
          UserError: the run in the folder is another one.
        """
        before = resume.read_run(self.folder)
        resume.check_same(self.folder, before, self._record([]))
        places = {
            (number, index): Path(names[number]) / file
            for number in range(len(plans))
            for index, file in self._names.items()
        }
        there = resume.written(self.folder, before, plans, places, self.databases)
        self.entries = list(there.values())
        note(f"{len(there)} of {len(places)} images are there already")
        return [resume.rest(plan, [index for of, index in there if of == number]) for number, plan in enumerate(plans)]

    def generate(self, number: int, plan: Plan, name: str, keep: bool = True) -> Result | None:
        """Generates the images of a database's plan and writes each one, to a subfolder, as soon as it is finished.

        Args:
          number: of the database.
          plan: of its images.
          name: of the subfolder.
          keep: whether the images are returned; otherwise the memory does not grow with their number.
        """
        results, args = [], self.args
        with Progress(f"generating {name}".strip(), quiet=args.quiet) as progress:
            previews = _previews(self.folder / name, plan, self._replace) if args.previews else None
            for result in self.generator.generate(plan, progress, previews):
                results += [result] if keep else []
                self._write(result, number, name)
        return join(results) if keep else None

    def _write(self, result: Result, number: int, name: str) -> None:
        """Writes the images of a batch, and the record of all images so far: a killed run has both.

        The record is written again once it has grown by an eighth, so that its writing takes time in proportion to the
        number of images.
        """
        database, rendition = self.databases[number], self.layout.renditions[number]
        records = outputs.records(result, self.generator, database, self.read, rendition, self.content)
        for image, record in zip(result.images, records, strict=True):
            file = Path(name) / self._names[record["index"]]
            traced = self._write_image(file, rendition, image, record)
            self.entries.append({**outputs.run_entry(file, record, database), **traced})
        if len(self.entries) - self.recorded > self.recorded // 8:
            self.write_record()

    def _write_image(
        self, file: Path, rendition: Rendition, image: np.ndarray, record: dict[str, Any]
    ) -> dict[str, str]:
        """Writes an image, after its SVG if there is one, and returns what its entry holds of that."""
        pixels, svg = rendition.apply(image)
        if svg is not None:
            self._replace(self.folder / file.with_suffix(".svg"), svg.encode())
        outputs.write_new(self.folder / file, encode_png(pixels, None if self.args.disable_metadata else record))
        return {} if svg is None else {"svg": file.with_suffix(".svg").as_posix()}

    def write_sheet(self, file: Path, sheet: np.ndarray) -> None:
        """Writes a sheet."""
        self._replace(self.folder / file, encode_png(sheet))

    @property
    def _replace(self) -> Callable[[Path, bytes], None]:
        """What writes a file beside the images: that of a run that is resumed replaces the one before."""
        return outputs.write_again if self.layout.resume else outputs.write_new

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        """The name of each image's file by its index."""
        plan = self.plan
        if not self.layout.by_word:
            return {index: f"{index:05d}-{plan.request.seed}.png" for index in plan.indices}
        words = file_names(plan.prompts[row] for row in plan.rows)
        return {index: f"{word}.png" for index, word in zip(plan.indices, words, strict=True)}

    def write_record(self) -> None:
        """Writes the record of all images so far, if there are new ones."""
        if len(self.entries) == self.recorded:
            return
        outputs.write_record(self.folder / outputs.RUN, self._record(self.entries))
        self.recorded = len(self.entries)

    def _record(self, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Returns the content of run.json with some images."""
        opened = [database for database in self.databases if database is not None]
        planned = len(self.plan.indices) * len(self.databases)
        run = outputs.run_record(self.generator, opened, self.plan, self.read, entries, planned)
        renditions = [one.to_json() for one in self.layout.renditions if not one.is_plain]
        shown = self.content.databases if self.content else None
        return {
            **run,
            **({"renditions": renditions} if renditions else {}),
            **({"content_databases": outputs.identity(shown)} if shown else {}),
        }


def _previews(
    folder: Path, plan: Plan, save: Callable[[Path, bytes], None]
) -> Callable[[list[int], int, np.ndarray], None]:
    """Returns the callback that writes an estimate of each image after every chunk."""
    with files.writing(folder / "previews"):
        (folder / "previews").mkdir(exist_ok=True)

    def write(indices: list[int], done: int, images: np.ndarray) -> None:
        """Writes the images of one batch."""
        for index, image in zip(indices, images, strict=True):
            name = f"{index:05d}-{plan.request.seed}-step{done:04d}.png"
            save(folder / "previews" / name, encode_png(image))

    return write


def write_sheets(writer: Writer, results: Mapping[str, Result], databases: Mapping[str, Mixture | None]) -> None:
    """Writes the sheets of a run; where files are named by word, no sheet has a word's name.

    Args:
      writer: of the run.
      results: what was generated, by the subfolder.
      databases: of the run, by the subfolder.
    """
    by_word, write = writer.layout.by_word, writer.write_sheet
    if results and not by_word:
        write(Path("grid.png"), outputs.grid_sheet(list(results.items())))
    for name, database in databases.items():
        if name in results and database is not None:
            sheet = outputs.neighbor_sheet(results[name], database, writer.content)
            write(Path(name) / ("neighbor_sheet.png" if by_word else "neighbors.png"), sheet)
        if by_word:
            entries = [one for one in writer.entries if Path(one["file"]).parent == Path(name)]
            write(Path(name) / "contact_sheet.png", contact_sheet(writer.folder, entries, database))


def folder_names(databases: list[Mixture | None]) -> list[str]:
    """Returns each database's subfolder, "" where there is only one; names come from files and are not trusted."""
    if len(databases) == 1:
        return [""]
    names = [re.sub(r"[^\w.-]+", "-", database.name).strip(".-") or "database" for database in databases if database]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise UserError(f"two databases are named {duplicate!r}; give each once, or rename one")
    return names
