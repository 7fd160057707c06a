"""What a studio has generated: the runs in its folder, in the format of `rdm sample`."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdm_jax.cli.run_folder import RUN
from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval import attribution
from rdm_jax.studio.places import Places


@dataclasses.dataclass(frozen=True)
class Made:
    """A generated image.

    Attributes:
      file: the PNG.
      svg: its SVG; None without.
      entry: of run.json: prompt, seed, index, database, neighbors.
      run: run.json without its images.
    """

    file: Path
    svg: Path | None
    entry: dict[str, Any]
    run: dict[str, Any]

    @property
    def prompt(self) -> str:
        """What was to be generated."""
        return str(self.entry["prompt"])

    @property
    def label(self) -> str:
        """The prompt with the seed."""
        return f"{self.prompt} · seed {self.entry['seed']}"

    @property
    def rows(self) -> list[tuple[str, int]]:
        """The neighbors: the database and the id of each."""
        return [(str(one["database"]), int(one["id"])) for one in self.entry.get("neighbors") or []]


def images_of(folder: Path) -> list[Made]:
    """Returns the images of a run that are there; none where the folder holds no run."""
    try:
        run = text.read_json(folder / RUN)
        entries = run.pop("images")
        return [_made(folder, entry, run) for entry in entries if (folder / entry["file"]).is_file()]
    except (UserError, OSError, KeyError, TypeError, json.JSONDecodeError):
        return []


def _made(folder: Path, entry: dict[str, Any], run: dict[str, Any]) -> Made:
    svg = folder / entry["svg"] if entry.get("svg") else None
    return Made(folder / entry["file"], svg if svg and svg.is_file() else None, entry, run)


def search(places: Places, words: str, most: int) -> list[Made]:
    """Returns the newest images whose prompts contain all words.

    Args:
      places: of the studio.
      words: separated by spaces, in any case; "" finds all.
      most: at most so many images.
    """
    wanted, found = words.lower().split(), []
    for folder in sorted((one for one in places.runs.iterdir() if one.is_dir()), reverse=True):
        found += [made for made in images_of(folder) if all(word in made.prompt.lower() for word in wanted)]
        if len(found) >= most:
            break
    return found[:most]


def find(places: Places, file: str) -> Made:
    """Returns the image of a file by its place below the runs; raises UserError where there is none.

    Args:
      places: of the studio.
      file: such as "000003/00001-7.png"; any other place is refused.
    """
    path = places.runs / file
    known = images_of(places.runs / Path(file).parts[0]) if Path(file).parts else []
    made = next((one for one in known if one.file == path), None)
    if made is None:
        raise UserError(f"{file} is no image of the history; reload the page")
    return made


def pack(made: Sequence[Made], out: Path) -> Path | None:
    """Writes a zip of images of one run with their SVGs, the run's record and its attribution, and returns it.

    Args:
      made: the images.
      out: the file to write.

    Returns:
      None where there are no images, or those of several runs.
    """
    folders = {one.file.parent for one in made}
    if len(folders) != 1:
        return None
    (folder,) = folders
    beside = [folder / name for name in (RUN, attribution.FILE)]
    content = [file for one in made for file in (one.file, one.svg) if file] + [one for one in beside if one.is_file()]
    # PNG is compressed already.
    with files.replaced(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for file in content:
            archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
    return out
