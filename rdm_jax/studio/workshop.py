"""What the page does, without the page: one model in memory, one job at a time, everything in one folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.bundle import Bundle, locate, read_config
from rdm_jax.cli import generating, rendering, replay, sample
from rdm_jax.cli.edit import add_arguments as add_edit_arguments
from rdm_jax.cli.edit import perform
from rdm_jax.cli.main import Parser
from rdm_jax.cli.png import read_record
from rdm_jax.conditioning.inputs import options_of
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import read_image
from rdm_jax.generator import Generator, Plan
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.mixture import Mixture, parse_weighted
from rdm_jax.retrieval.retriever import Neighbors
from rdm_jax.studio.choice import CONTENT, STYLE, Choices, Row
from rdm_jax.studio.history import Made
from rdm_jax.studio.jobs import Job
from rdm_jax.studio.places import Places
from rdm_jax.studio.wanted import Wanted
from rdm_jax.sweep.plan import Sweep


@dataclasses.dataclass(frozen=True)
class Shown:
    """A neighbor as the page shows it.

    Attributes:
      row: the database and the id.
      prompt: whose neighbor it is.
      image: its thumbnail, uint8 [s, s, 3].
      caption: of the image; "" if unknown.
      score: its cosine to the query.
      source: the path, and the license and the author where they are known.
      role: "content" or "style" of a model with two roles of neighbors, otherwise "".
    """

    row: Row
    prompt: str
    image: np.ndarray
    caption: str
    score: float
    source: str
    role: str = ""


class Workshop:
    """A studio without its page.

    Attributes:
      places: its folders.
      models: {name as the page shows it: name or folder}.
      default_model: the one that is chosen first.
    """

    def __init__(self, places: Places, models: Sequence[str] = ()) -> None:
        """Opens a studio.

        Args:
          places: its folders.
          models: names or folders of models beside those that come with the package; the first one is the default.
        """
        self.places = places
        shipped = [name for name in Bundle.names() if "head" in Bundle.open(name, parts=()).config]
        self.models = {Path(one).name or one: one for one in models} | {name: name for name in shipped}
        self.default_model = next(iter(self.models)) if models else generating.DEFAULT_MODEL
        self._loaded: tuple[str, Generator] | None = None
        self._lock = threading.Lock()

    def config(self, model: str) -> dict[str, Any]:
        """Returns the configuration of a model of the list."""
        return read_config(locate(self._spec(model)))

    def has_roles(self, model: str) -> bool:
        """Returns whether a model of the list has content neighbors beside its style neighbors."""
        return "style_encoder" in self.config(model)

    def fitting(self, model: str) -> list[str]:
        """Returns the names of the databases that the encoder of a model made."""
        own = self.config(model)["sha256"].get("clip")
        known = self.places.known_databases().items()
        return [name for name, place in known if Database.open(place).encoder["sha256"] == own]

    def upscaler(self, model: str) -> str:
        """Returns the model that upscales images: this one, or else the first one of the list that does; "" if none."""
        return next((name for name in [model, *self.models] if "low_resolution" in options_of(self.config(name))), "")

    def upscale(self, model: str, made: Made) -> Job:
        """Returns the job that generates an image at a higher resolution; its result is the run's folder.

        Args:
          model: of the list, by which it is upscaled.
          made: the image.
        """
        prompted = "text_encoder" in self.config(model)
        return self.edit(model, ["upscale", f"--image={made.file}", *([f"--prompt={made.prompt}"] if prompted else [])])

    @contextlib.contextmanager
    def using(self, model: str) -> Iterator[Generator]:
        """Yields a model that nobody else uses meanwhile; the one that was loaded before is released."""
        spec = self._spec(model)
        with self._lock:
            if self._loaded is None or self._loaded[0] != model:
                self._loaded = None
                self._loaded = model, Generator.load(spec)
            yield self._loaded[1]

    def _spec(self, model: str) -> str:
        if model not in self.models:
            raise unknown("model", model, self.models)
        return self.models[model]

    def neighbors(self, model: str, wanted: Wanted, choices: Choices) -> list[Shown]:
        """Returns what a request would retrieve, query by query, the content first where the model has that role."""
        with self.using(model) as generator:
            _, databases, plans, _ = self._planned(generator, wanted, choices)
            shown = []
            content = _content_database(wanted, generator)
            for plan, database in zip(plans, databases, strict=True):
                shown += [*_content(plan, content), *(_style(plan, database) if database else [])]
            return shown

    def search(self, model: str, databases: Sequence[str], text: str, count: int, role: str = STYLE) -> list[Shown]:
        """Returns the rows of a role's databases that are nearest to a text; without any, those of the model's own."""
        given = tuple(databases)
        wanted = Wanted((text,), databases=given, options={"neighbors": count, "condition": "neighbors"})
        if role == CONTENT:
            wanted = Wanted((text,), content_databases=given, options={"content_neighbors": count, "condition": "text"})
        return [one for one in self.neighbors(model, wanted, Choices()) if (one.role == CONTENT) == (role == CONTENT)]

    def generate(self, model: str, wanted: Wanted, choices: Choices) -> Job:
        """Returns the job that generates a request's images; its result is the run's folder."""

        def work(job: Job) -> Path:
            """Generates the images."""
            job.say("loading the model" if self._loaded is None or self._loaded[0] != model else "preparing")
            with self.using(model) as generator:
                args, databases, plans, sweep = self._planned(generator, wanted, choices)
                files = rendering.layout(args, databases)
                folder, _ = generating.write_run(
                    generator, databases, plans, self.places.new_run(), args, layout=files, sweep=sweep, watch=job
                )
                return folder

        return Job(work)

    def command(self, model: str, wanted: Wanted) -> str:
        """Returns the command line that generates a request."""
        return wanted.placed(self.places.placed).command(self._spec(model))

    def edit(self, model: str, arguments: Sequence[str]) -> Job:
        """Returns the job that edits an image; its result is the run's folder.

        Args:
          model: its name in the list.
          arguments: of `rdm edit`, the action first.
        """

        def work(job: Job) -> Path:
            """Edits the image."""
            parser = Parser(prog="rdm edit")
            add_edit_arguments(parser)
            args = parser.parse(list(arguments))
            image = read_image(args.image) if args.image else None
            with self.using(model) as generator:
                return perform(generator, args, image, self.places.new_run(), job)[0]

        return Job(work)

    def replay(self, made: Made) -> str:
        """Generates an image of the history again, beside it, and returns how close the new one is."""
        record, _ = read_record(made.file)
        known = self.places.known_databases()
        arguments = [f"--model={self._recorded_model(made)}", "--quiet"]
        for spec in replay.specs(record["database"]) if record["database"] else []:
            name, weight = parse_weighted(spec)
            arguments.append(f"--database={known.get(name, name)}{'' if weight is None else f':{weight:g}'}")
        content = (record.get("content") or {}).get("databases", [])
        arguments += [f"--content-database={known[name]}" for name in dict.fromkeys(content) if name in known]
        parser = Parser(prog="rdm replay")
        replay.add_arguments(parser)
        with self._lock:
            self._loaded = None  # one model in memory
            file, comparison = replay.replay(parser.parse([*arguments, "--", str(made.file)]))
        return f"{file.name}: {comparison}"

    def _recorded_model(self, made: Made) -> str:
        """Returns the model of the list that made an image: by its hashes, or else by its name."""
        recorded = made.run["model"]
        configs = {spec: self.config(name) for name, spec in self.models.items()}
        same = [spec for spec, config in configs.items() if config.get("sha256") == recorded["parts"]]
        named = [spec for spec, config in configs.items() if config["name"] == recorded["name"]]
        return next(iter([*same, *named]), recorded["name"])

    def _check_inside(self, wanted: Wanted) -> None:
        """Raises UserError if an option names a file outside the studio's folder."""
        for file in wanted.reads():
            if not Path(file).resolve().is_relative_to(self.places.root.resolve()):
                raise UserError(f"{file} is outside the studio's folder, and the page reads no other; upload it first")

    def _planned(
        self, generator: Generator, wanted: Wanted, choices: Choices
    ) -> tuple[argparse.Namespace, list[Mixture | None], list[Plan], Sweep | None]:
        """Returns the options, databases, plans with the chosen neighbors, and the sweep of a request, if it is one."""
        wanted = wanted.placed(self.places.placed)
        self._check_inside(wanted)
        args = wanted.parse()
        images = [sample.read_query(name) for name in args.image]
        databases, plans, sweep = sample.prepare(generator, args, list(args.prompts), images)
        if choices.style or choices.content:
            content = _content_database(wanted, generator)
            pairs = zip(plans, databases, strict=True)
            plans = [choices.apply(generator, plan, database, content) for plan, database in pairs]
        return args, databases, plans, sweep


def _style(plan: Plan, database: Mixture) -> list[Shown]:
    """Returns the neighbors of every query."""
    if plan.neighbors is None:
        return []
    return _of_queries(plan, plan.neighbors, database, STYLE if plan.builder.style is not None else "")


def _content_database(wanted: Wanted, generator: Generator) -> Mixture | None:
    """Returns where content neighbors come from; None where there is no content database."""
    names = wanted.content_databases or (generator.bundle.config["sampling"].get("content_database"),)
    return Mixture.open([name for name in names if name]) if any(names) else None


def _content(plan: Plan, database: Mixture | None) -> list[Shown]:
    """Returns the content neighbors of every query; none where the model has no such role."""
    if plan.content is None or database is None:
        return []
    return _of_queries(plan, plan.content.neighbors, database, CONTENT)


def _of_queries(plan: Plan, found: Neighbors, database: Mixture, role: str) -> list[Shown]:
    """Returns the neighbors that were found for the queries of a plan, query by query."""
    rows = zip(plan.prompts, found.databases, found.ids, found.scores, strict=True)
    return [one for prompt, names, ids, scores in rows for one in rows_of(database, names, ids, scores, prompt, role)]


def rows_of(database: Mixture, names: Any, ids: Any, scores: Any, prompt: str = "", role: str = "") -> list[Shown]:
    """Returns rows of databases, each given by its database's name and its id there, as the page shows them."""
    names, ids, scores = np.asarray(names), np.asarray(ids, np.int64), np.asarray(scores)
    stored = ids >= 0  # an image that the user gave is no row
    names, ids, scores = names[stored], ids[stored], scores[stored]
    if not len(ids):
        return []
    items, images = database.items(names, ids), database.thumbnails(names, ids)
    rows = zip(names.tolist(), ids.tolist(), scores.tolist(), items, images, strict=True)
    return [
        Shown((str(name), int(row)), prompt, image, item["caption"] or "", float(score), _source(item), role)
        for name, row, score, item, image in rows
    ]


def _source(item: dict[str, Any]) -> str:
    """Returns the path of a row, with its license and author where they are known."""
    named = [str(item[key]) for key in ("license", "licence", "author", "artist") if item.get(key)]
    return ", ".join([str(item["path"]), *named])
