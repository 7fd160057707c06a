"""The databases of a studio: built of uploads, searched, changed, merged and exported."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from rdm_jax.core import values
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import suffixes
from rdm_jax.data.selection import Selection, parse_terms
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval import edit
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.database_map import plot_map
from rdm_jax.retrieval.jobs import Execution, LocalWriter
from rdm_jax.retrieval.parts import working_folder
from rdm_jax.retrieval.retriever import Retriever
from rdm_jax.studio.choice import Row
from rdm_jax.studio.jobs import Job
from rdm_jax.studio.places import Places
from rdm_jax.studio.workshop import Shown, Workshop

MOST_FILES = 5000  # in one upload, within a zip too
MOST_BYTES = 2**31  # of all files of an upload, unpacked
LARGEST = 2**27  # bytes of one file
MOST_ON_MAP, NEAREST = 2000, 8  # images


def build(workshop: Workshop, model: str, title: str, files: Sequence[tuple[Path, str]]) -> Job:
    """Returns the job that builds a database of images, encoded by a model; its result is the database's name.

    Args:
      workshop: the studio.
      model: whose encoder is used.
      title: of the database.
      files: (place on this disk, name that the user's program gave) of images and zips.
    """

    def work(job: Job) -> str:
        """Builds the database."""
        if not files:
            raise UserError("there are no images; drop image files, SVG files or a zip")
        folder, out = workshop.places.new_upload(""), workshop.places.new_database(title)
        try:
            job.say("reading the files")
            _unpack(files, folder)
            with workshop.using(model) as generator, job.progress("encoding image") as progress:
                source = open_source(str(folder))
                options = BuildOptions(name=out.name, quality=100)
                execution = Execution(max_skip=1.0, progress=progress, writer=LocalWriter(0))
                build_database(BuildJob.of(source, generator.encoder, options), out, execution)
        except UserError as error:
            raise UserError(str(error).replace(folder.name, "the upload")) from error
        finally:
            for rest in (folder, working_folder(out)):  # of a build that failed or was canceled
                shutil.rmtree(rest, ignore_errors=True)
        return out.name

    return Job(work)


def _unpack(files: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Copies images, and those within zips, under names of ours.

    Raises:
      UserError: they are too many or too large, or a zip is damaged.
    """
    folder.mkdir()
    count, size, readable = 0, 0, {*suffixes(), ".svg"}
    for path, name in files:
        for data, inner in _contents(path, name):
            suffix = PurePosixPath(inner.replace("\\", "/")).suffix.lower()
            if suffix not in readable:
                continue
            count, size = count + 1, size + len(data)
            if count > MOST_FILES or size > MOST_BYTES:
                raise UserError(
                    f"more than {MOST_FILES} images or {MOST_BYTES >> 30} GB; build it by `rdm database build FOLDER`"
                )
            caption = PurePosixPath(inner.replace("\\", "/")).stem
            (folder / f"{count:05d}{suffix}").write_bytes(data)
            (folder / f"{count:05d}.txt").write_text(caption.replace("-", " ").replace("_", " "), encoding="utf-8")
    if not count:
        raise UserError("none of the files is an image; use PNG, JPEG, WebP, SVG or a .zip of these")


def _contents(path: Path, name: str) -> Iterator[tuple[bytes, str]]:
    """Yields (data, name) of a file, or of each file of a zip."""
    if path.suffix.lower() != ".zip":
        if path.stat().st_size > LARGEST:
            raise UserError(f"{PurePosixPath(name).name} has more than {LARGEST >> 20} MB; make it smaller")
        yield path.read_bytes(), name
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [one for one in archive.infolist() if not one.is_dir()]
            if len(entries) > 2 * MOST_FILES:
                raise UserError(f"the zip has {len(entries)} files, and {MOST_FILES} images are allowed")
            for entry in entries:
                if entry.file_size > LARGEST:
                    raise UserError(f"a file of the zip has more than {LARGEST >> 20} MB; make it smaller")
                yield archive.read(entry), entry.filename
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"the zip cannot be read ({error}); pack it again, without a password") from error


def page(places: Places, name: str, start: int, count: int) -> list[Shown]:
    """Returns some rows of a database, in order."""
    database = Database.open(places.database(name))
    ids = np.arange(start, min(start + count, len(database)))
    if not len(ids):
        return []
    images = database.thumbnails(ids)
    return [
        Shown((database.name, int(row)), "", image, item["caption"] or "", 0.0, str(item["path"]))
        for row, item, image in zip(ids, database.items(ids), images, strict=True)
    ]


def plot(workshop: Workshop, model: str, name: str, text: str) -> np.ndarray:
    """Returns the map of a database, with the neighbors of a text unless that is "".

    Args:
      workshop: the studio.
      model: whose encoder encodes the text.
      name: of the database.
      text: a query.

    Raises:
      UserError: the database has fewer than 3 rows, or another encoder made it.
    """
    database = Database.open(workshop.places.database(name))
    chosen = np.random.default_rng(0).choice(len(database), min(MOST_ON_MAP, len(database)), replace=False)
    title = f"{database.name}: {len(chosen)} of {len(database)} images"
    if not text:
        return plot_map(database, np.sort(chosen), title)[0]
    with workshop.using(model) as generator:
        query = generator.encoder.encode_queries([text])
        neighbors = Retriever(generator.encoder, [database]).retrieve(query, NEAREST, default=True).ids[0]
    return plot_map(database, np.sort(chosen), f"{title}, {text!r} and its neighbors", neighbors, query)[0]


def remove(places: Places, name: str, row: Row) -> int:
    """Removes an image from a database for ever, and returns how many are left.

    Raises:
      UserError: the database comes with the package, or the image is its last one.
    """
    place = places.database(name)
    if Path(place).parent != places.databases:
        raise UserError(f"{name} comes with the package and stays as it is; build or merge one of your own")
    database = Database.open(place)
    item = database.items([row[1]])[0]
    edit.remove(database, Selection(parse_terms([f"id={item['id']}"], "the image")))
    return len(Database.open(place))


def merge(places: Places, names: Sequence[str], title: str, weights: str = "") -> str:
    """Builds one database of several, and returns its name.

    Args:
      places: of the studio.
      names: of the databases.
      title: of the new one.
      weights: a number for each, with commas between: their images are in this proportion; "" takes all images.

    Raises:
      UserError: there are fewer than two, or not as many weights, or different encoders made them.
    """
    if len(names) < 2:
        raise UserError("merging takes two databases or more; choose them in the list")
    try:
        given = [values.parse(float, one) for one in weights.replace(",", " ").split()] or None
    except ValueError as error:
        raise UserError(f"the weights {weights!r} are no numbers; write one for each database, as 2, 1") from error
    if given is not None and len(given) != len(names):
        raise UserError(f"there are {len(given)} weights for {len(names)} databases; give one for each, or none")
    out = places.new_database(title or "+".join(names))
    edit.merge([Database.open(places.database(name)) for name in names], out, out.name, weights=given)
    return out.name


def export(places: Places, name: str) -> Path:
    """Returns a zip of a database, as `rdm sample --database` opens it once it is unpacked."""
    place = Database.open(places.database(name)).path
    out = places.new_upload("")
    return Path(shutil.make_archive(str(out), "zip", place.parent, place.name))
