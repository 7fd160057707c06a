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

from rdm_jax.cli import records, resume, run_folder, run_sheets
from rdm_jax.cli.contact_sheet import contact_sheet
from rdm_jax.cli.content import ContentRecord
from rdm_jax.cli.png import encode_png
from rdm_jax.cli.progress import note
from rdm_jax.cli.rendering import Layout
from rdm_jax.cli.watch import Watch
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.core.file_names import file_names
from rdm_jax.core.rendition import Rendition
from rdm_jax.generator import Generator, Plan, Result, join
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.sweep.plan import Sweep
from rdm_jax.sweep.sheet import sheet


@dataclasses.dataclass(frozen=True)
class Group:
    """The images of one plan: those of a database, or of a cell of a sweep.

    Attributes:
      name: of their subfolder.
      plan: of all of them, with those that are there already.
      database: that their neighbors are from; None without.
      rendition: how they are written.
      content: what shows their content; None where the model has no such role.
      read: the hashes of the files that they are made with.
      by_word: whether their files are named by their prompts.
      setting: {key: value} of the cell of a sweep.
    """

    name: str
    plan: Plan
    database: Mixture | None
    rendition: Rendition
    content: ContentRecord | None
    read: Mapping[str, str]
    by_word: bool = False
    setting: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def entry(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Returns an image's entry of run.json with the group's setting."""
        return {**entry, "sweep": dict(self.setting)} if self.setting else dict(entry)

    @functools.cached_property
    def files(self) -> dict[int, str]:
        """The name of each image's file by its index."""
        if not self.by_word:
            return {index: f"{index:05d}-{self.plan.request.seed}.png" for index in self.plan.indices}
        words = file_names(self.plan.prompts[row] for row in self.plan.rows)
        return {index: f"{word}.png" for index, word in zip(self.plan.indices, words, strict=True)}


@dataclasses.dataclass
class Writer:
    """Writes the images of a run.

    Attributes:
      generator: the model.
      groups: of the run's images; all plans differ in what is recorded of each image alone.
      folder: of the run.
      args: `disable_metadata`.
      watch: follows the run.
      layout: what files the run has.
      axes: of the sweep, as JSON values; none where the run is no sweep.
      entries: run.json's record of each image that was written.
      recorded: how many of them are in run.json already.
    """

    generator: Generator
    groups: Sequence[Group]
    folder: Path
    args: argparse.Namespace
    watch: Watch
    layout: Layout
    axes: Sequence[Mapping[str, Any]] = ()
    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    recorded: int = 0

    def resumed(self) -> list[Plan]:
        """Returns the plans of the images that are not there yet; the record of the others is taken over.

        Raises:
          UserError: the run in the folder is another one.
        """
        before = resume.read_run(self.folder)
        resume.check_same(self.folder, before, self._record([]))
        places = {
            (number, index): Path(group.name) / file
            for number, group in enumerate(self.groups)
            for index, file in group.files.items()
        }
        plans, databases = [group.plan for group in self.groups], [group.database for group in self.groups]
        there = resume.written(self.folder, before, plans, places, databases)
        self.entries = [self.groups[number].entry(entry) for (number, _), entry in there.items()]
        note(f"{len(there)} of {len(places)} images are there already")
        return [resume.rest(plan, [index for of, index in there if of == number]) for number, plan in enumerate(plans)]

    def generate(self, group: Group, plan: Plan, keep: bool = True) -> Result | None:
        """Generates images of a group and writes each one, to its subfolder, as soon as it is finished.

        Args:
          group: of the images.
          plan: of those that are not there yet.
          keep: whether the images are returned; otherwise the memory does not grow with their number.
        """
        results: list[Result] = []
        with self.watch.progress(f"generating {group.name}".strip()) as progress:
            previews = self.watch.previews(self.folder / group.name, plan, self._replace)
            for result in self.generator.generate(plan, progress, previews):
                results += [result] if keep else []
                self._write(result, group)
        return join(results) if keep else None

    def _write(self, result: Result, group: Group) -> None:
        """Writes the images of a batch, and the record of all images so far: a killed run has both.

        The record is written again once it has grown by an eighth, so that its writing takes time in proportion to the
        number of images.
        """
        found = records.of_images(result, self.generator, group.database, group.read, group.rendition, group.content)
        for image, record in zip(result.images, found, strict=True):
            file = Path(group.name) / group.files[record["index"]]
            traced = self._write_image(file, group.rendition, image, record)
            self.entries.append(group.entry({**records.run_entry(file, record, group.database), **traced}))
        if len(self.entries) - self.recorded > self.recorded // 8:
            self.write_record()

    def _write_image(
        self, file: Path, rendition: Rendition, image: np.ndarray, record: dict[str, Any]
    ) -> dict[str, str]:
        """Writes an image, after its SVG if there is one, and returns what its entry holds of that."""
        pixels, svg = rendition.apply(image)
        if svg is not None:
            self._replace(self.folder / file.with_suffix(".svg"), svg.encode())
        run_folder.write_new(self.folder / file, encode_png(pixels, None if self.args.disable_metadata else record))
        return {} if svg is None else {"svg": file.with_suffix(".svg").as_posix()}

    def write_sheet(self, file: Path, sheet: np.ndarray) -> None:
        """Writes a sheet."""
        self._replace(self.folder / file, encode_png(sheet))

    @property
    def _replace(self) -> Callable[[Path, bytes], None]:
        """What writes a file beside the images: that of a run that is resumed replaces the one before."""
        return run_folder.write_again if self.layout.resume else run_folder.write_new

    def write_record(self) -> None:
        """Writes the record of all images so far, if there are new ones."""
        if len(self.entries) == self.recorded:
            return
        run_folder.write_record(self.folder / run_folder.RUN, self._record(self.entries))
        self.recorded = len(self.entries)

    def _record(self, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Returns the content of run.json with some images."""
        plans = [group.plan for group in self.groups]
        used = [group.database for group in self.groups if group.database is not None]
        opened = {(one.name, one.digest): one for one in used}
        read = {name: digest for group in self.groups for name, digest in group.read.items()}
        planned = sum(len(plan.indices) for plan in plans)
        run = records.run_record(self.generator, list(opened.values()), plans[0], read, entries, planned)
        renditions = [group.rendition.to_json() for group in self.groups if not group.rendition.is_plain]
        content = self.groups[0].content
        shown = content.databases if content else None
        return {
            **run,
            "prompts": [
                prompt for prompts in dict.fromkeys(tuple(plan.prompts) for plan in plans) for prompt in prompts
            ],
            **({"renditions": renditions} if renditions else {}),
            **({"content_databases": records.identity(shown)} if shown else {}),
            **({"sweep": list(self.axes)} if self.axes else {}),
        }


def write_sheets(writer: Writer, results: Mapping[str, Result]) -> None:
    """Writes the sheets of a run; where files are named by word, no sheet has a word's name.

    Args:
      writer: of the run.
      results: what was generated, by the subfolder.
    """
    by_word, write = writer.layout.by_word, writer.write_sheet
    if results and not by_word:
        write(Path("grid.png"), run_sheets.grid_sheet(list(results.items())))
    for group in writer.groups:
        name, database = group.name, group.database
        if name in results and database is not None:
            sheet = run_sheets.neighbor_sheet(results[name], database, group.content)
            write(Path(name) / ("neighbor_sheet.png" if by_word else "neighbors.png"), sheet)
        if by_word:
            entries = [one for one in writer.entries if Path(one["file"]).parent == Path(name)]
            write(Path(name) / "contact_sheet.png", contact_sheet(writer.folder, entries, database))


def write_sweep_sheet(writer: Writer, sweep: Sweep) -> None:
    """Writes the one sheet of a sweep, of the files of all cells: a run that was resumed has not generated them all."""
    cells = []
    for group in writer.groups:
        entries = [one for one in writer.entries if Path(one["file"]).parent == Path(group.name)]
        ordered = [writer.folder / one["file"] for one in sorted(entries, key=lambda one: one["index"])]
        cells.append(np.stack([images.read_image(file) for file in ordered]))
    writer.write_sheet(Path("grid.png"), sheet(sweep, cells))


def folder_names(databases: Sequence[Mixture | None]) -> list[str]:
    """Returns each database's subfolder, "" where there is only one; names come from files and are not trusted."""
    if len(databases) == 1:
        return [""]
    names = [re.sub(r"[^\w.-]+", "-", database.name).strip(".-") or "database" for database in databases if database]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise UserError(f"two databases are named {duplicate!r}; give each once, or rename one")
    return names
