"""Making images: prompt, query vector, neighbors, conditions, the model's head, first stage, image.

    generator = Generator.load("style-scenes")
    result = generator.sample(["a red boat"], database="neon", num_images=4)
    result.images      # uint8 [4, 64, 64, 3]
    result.neighbors   # row i: what was retrieved for image i

Image i of a run has the random key `fold_in(key(seed), i)`, whatever the batch size. What depends on shapes is compiled
once for each shape; prompts, databases, seeds and scales are traced.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle, override
from rdm_jax.conditioning import CONDITIONERS, Conditioner, change_queries
from rdm_jax.conditioning.building import condition_builder
from rdm_jax.conditioning.candidates import Scorer, best_of
from rdm_jax.conditioning.channels import upscaling_of
from rdm_jax.conditioning.content import Content, ContentSearch
from rdm_jax.conditioning.inputs import check_parts, input_of
from rdm_jax.conditioning.inputs.low_resolution import upscaled_size
from rdm_jax.conditioning.prompts import reads_prompts
from rdm_jax.convert import lora
from rdm_jax.core import trees
from rdm_jax.core.calls import name_of
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.core.mesh import make_mesh, put, replicated
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.heads import all_options, head_of
from rdm_jax.heads.base import FEATURES, Head, Model, Plan, Program
from rdm_jax.heads.compiling import Compiler
from rdm_jax.request import CANDIDATES_APART, Request, resolve
from rdm_jax.result import Result, join, taken
from rdm_jax.retrieval.encoder import SMALL_BATCH, ClipEncoder, encoder_of
from rdm_jax.retrieval.opening import Databases, open_retriever
from rdm_jax.retrieval.retriever import Neighbors, Retriever, map_neighbors

__all__ = ["Generator", "Plan", "Result", "join"]

logger = logging.getLogger(__name__)

OnPreview = Callable[[list[int], int, np.ndarray], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A model that is ready to generate.

    Attributes:
      model: the bundle, its parameters on every device of the mesh, and its encoder.
      head: how the model makes latents or tokens.
      programs: what was compiled so far, by shape.
      shared: what the programs of several shapes have in common.
      contents: the searches of content databases so far.
    """

    model: Model
    head: Head
    programs: dict[Hashable, Program] = dataclasses.field(default_factory=dict)
    shared: dict[Hashable, Any] = dataclasses.field(default_factory=dict)
    contents: dict[Hashable, ContentSearch] = dataclasses.field(default_factory=dict)

    @staticmethod
    def load(
        model: str | Path | Bundle,
        dtype: str | None = None,
        overrides: Sequence[str] = (),
        mesh: Mesh | None = None,
        loras: Sequence[str] = (),
    ) -> Generator:
        """Makes a model ready: an open bundle, or one by its name or folder.

        Args:
          model: the bundle, its name or its folder.
          dtype: what the generative network computes in: "float32" (the default for a bundle that is opened here) or
            "bfloat16", which takes half the memory.
          overrides: settings of the model's config.json to change, "conditioning.unit_tokens=false" each.
          mesh: the devices to generate on, all of all processes if None.
          loras: LoRAs that are added to the weights of a Stable Diffusion, "FILE" or "FILE:WEIGHT" each.

        Raises:
          UserError: there is no such model, it is damaged, it lacks a part that generating needs, it is open in another
            type already, or there is no such setting.
        """
        opened = not isinstance(model, Bundle)
        bundle = Bundle.open(model, dtype=dtype or "float32") if opened else model
        if dtype not in (None, bundle.dtype):
            raise UserError(f"the model is open in {bundle.dtype}, and {dtype} is requested; open it in that type")
        if "head" not in bundle.config:
            raise UserError(
                f"model {bundle.name!r} generates nothing; it holds {', '.join(bundle.params) or 'no part'}"
            )
        factory.check_settings(bundle.config)
        bundle = lora.merge_all(bundle, loras)
        head = head_of(bundle.config)
        check_parts(bundle)
        encoder = () if input_of(bundle) else ("text_encoder",) if reads_prompts(bundle) else ("clip",)
        bundle.require(*encoder, "autoencoder", head.network)
        # Nobody else holds what was opened here: each array is released when its copy is on the device.
        move = trees.map_in_place if opened else jax.tree.map
        config, mesh = override(bundle.config, overrides), mesh or make_mesh()
        sharding = replicated(mesh)
        bundle = dataclasses.replace(
            bundle, config=config, params=move(lambda leaf: put(leaf, sharding), bundle.params)
        )
        return Generator(Model(bundle, encoder_of(bundle), mesh), head)

    @property
    def bundle(self) -> Bundle:
        """The model's bundle."""
        return self.model.bundle

    @property
    def encoder(self) -> ClipEncoder:
        """The encoder of prompts and query images."""
        return self.model.encoder

    @property
    def compilations(self) -> int:
        """The number of shapes that were compiled so far."""
        return len(self.programs)

    def with_params(self, params: Mapping[str, Any]) -> Generator:
        """Returns the generator with other parameters of some parts, which needs no compilation.

        Args:
          params: {part: parameters}, of the parts that change.
        """
        sharding = replicated(self.model.mesh)
        changed = jax.tree.map(lambda leaf: put(leaf, sharding), dict(params))
        bundle = dataclasses.replace(self.bundle, params={**self.bundle.params, **changed}, path=None)
        return dataclasses.replace(self, model=Model(bundle, self.encoder, self.model.mesh), contents={})

    def sample(
        self, prompts: str | Sequence[str] = (), *, progress: ProgressCallback | None = None, **options: Any
    ) -> Result:
        """Generates `num_images` images for each prompt, and for each image that is given as a query.

        Args:
          prompts: one or more prompts.
          progress: called with (steps done, all steps).
          **options: what `plan` takes: database, images, rows, and the options of `Request` and of the head.

        Raises:
          UserError: an argument is invalid; the message names what is valid.
        """
        return join(list(self.generate(self.plan(prompts, **options), progress)))

    def resolve(self, queries: int, **options: Any) -> tuple[Request, Any]:
        """Returns the request and the head's options, the model's own defaults filled in.

        Raises:
          UserError: an option is unknown or out of range.
        """
        file = options.get("low_resolution")

        def edited(chosen: Any) -> tuple[int, int] | None:
            """Returns (height, width) of the image that is edited, or of the result of upscaling."""
            if file:
                return upscaled_size(file, upscaling_of(self.bundle.config, self.bundle.autoencoder.downsampling))
            return self.head.edited(chosen, self.bundle)

        return resolve(self.bundle.config, self.head, options, queries, all_options(), edited)

    @property
    def takes_queries(self) -> bool:
        """Whether prompts or images are queries; a model with an input of another kind and no CLIP takes none."""
        return self.bundle.has("clip") or reads_prompts(self.bundle)

    def plan(
        self,
        prompts: str | Sequence[str] = (),
        *,
        database: Databases | None = None,
        content_database: Databases | None = None,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "n h w 3"] | None = None,
        rows: Sequence[int] | Int[np.ndarray, " r"] = (),
        **options: Any,
    ) -> Plan:
        """Checks a request, fills in the model's own defaults, encodes the queries and retrieves their neighbors.

        Args:
          prompts: one or more prompts, each a query.
          database: a database, its name or its folder, several to be searched as one, a `Mixture` of some by weight, or
            a `Retriever`, which keeps its index from call to call. Condition "text" needs none and uses none.
          content_database: of a model with two roles of neighbors, where content neighbors come from, as `database`;
            the model's own if None. `content_neighbors=0` takes none.
          images: images of any size, each a query as a prompt is.
          rows: ids of rows of the (first) database, each a query as well; `retrieval.proposals` chooses some.
          **options: the fields of `request.Request` and of the head's `Options`; None takes the model's own default. An
            image is the same bit for bit in batches of one size, and to 2/255 in batches of another.

        Raises:
          UserError: a name is unknown, a number is out of range, a prompt is empty, the head does not support
            something, or the database was built by another encoder.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        images = [] if images is None else list(images)
        given_alone = input_of(self.bundle) is not None and not (prompts or images or len(rows))
        request, chosen = self.resolve(given_alone + len(prompts) + len(images) + len(rows), **options)
        if given_alone and request.condition != "text":
            raise UserError(
                f"condition {request.condition!r} retrieves neighbors, and there is no query; give a prompt"
            )
        retriever = None if request.condition == "text" else open_retriever(self.encoder, database)
        if retriever and options.get("neighbors") is None:  # a default fits any database
            request = dataclasses.replace(request, neighbors=retriever.at_most(request.neighbors))
        plan = self.open_plan(request, chosen, retriever)
        labels, queries = self._encode(prompts, images)
        if len(rows):
            if retriever is None:
                raise UserError("rows of a database are queries for its neighbors, and condition 'text' has none")
            labels += [f"row {row}" for row in rows]
            queries = np.concatenate([queries, retriever.databases[0].embeddings(rows).astype(np.float32)])
        if given_alone:
            assert plan.builder.input is not None
            labels, queries = [plan.builder.input.label], np.zeros((1, queries.shape[1]), np.float32)
        plan, queries = self.with_texts(plan, queries, [*prompts, *[""] * (len(images) + len(rows))])
        neighbors = retriever.retrieve(queries, request.neighbors) if retriever else None
        given = [*[None] * len(prompts), *images, *[None] * len(rows)]
        content = self._find_content(plan, content_database, labels, queries, given)
        plan = self.with_content(plan, content)
        return plan.with_queries(labels, queries, neighbors)

    def with_texts(
        self, plan: Plan, queries: Float[np.ndarray, "q d"], texts: Sequence[str]
    ) -> tuple[Plan, Float[np.ndarray, "q d"]]:
        """Returns a plan with the tokens of its queries' texts, where they are sequences, and the queries.

        Args:
          plan: without queries.
          queries: the vectors before the conditioners; they are returned after them.
          texts: of each query, "" where it is an image or a row.
        """
        reader = plan.builder.reader
        text = None if reader is None else reader([plan.builder.as_read(one) for one in texts])
        builder = dataclasses.replace(plan.builder, queries=queries, text=text)
        changed = change_queries(plan.request.conditions, builder)
        return dataclasses.replace(plan, builder=dataclasses.replace(plan.builder, text=changed.text)), changed.queries

    def with_content(self, plan: Plan, content: Content | None) -> Plan:
        """Returns a plan with what shows the content of its queries; None where nothing does.

        Raises:
          UserError: an option needs content, and there is none.
        """
        return self.head.with_content(plan if content is None else plan.with_content(content), self.model)

    def _find_content(
        self,
        plan: Plan,
        database: Databases | None,
        prompts: Sequence[str],
        queries: Float[np.ndarray, "q d"],
        given: Sequence[UInt8[np.ndarray, "_ _ 3"] | None],
    ) -> Content | None:
        """Returns the content of queries; None where the model has no such role, or there is no content database."""
        if plan.builder.style is None:
            if database is not None:
                raise UserError(
                    f"model {self.bundle.name!r} has one role of neighbors, and no content database; leave it out"
                )
            return None
        database = database if database is not None else self.bundle.config["sampling"].get("content_database")
        if database is None or not plan.request.content_neighbors:
            return None
        search = self._content_search(database)
        size = plan.request.height, plan.request.width
        return search.find(prompts, queries, given, plan.request.content_neighbors, size)

    def _content_search(self, database: Databases) -> ContentSearch:
        """Returns the search of content databases, which encodes their captions once."""
        retriever = open_retriever(self.encoder, database)
        key = tuple((one.path, one.digest) for one in retriever.databases), retriever.selection
        if key not in self.contents:
            self.contents[key] = ContentSearch.of(self.encoder, retriever)
        return self.contents[key]

    def plan_vectors(
        self, queries: Float[np.ndarray, "q d"], neighbors: Float[np.ndarray, "q k d"] | None, **options: Any
    ) -> Plan:
        """Returns the plan of query vectors and their neighbors' vectors; nothing is encoded or retrieved.

        Args:
          queries: the query vectors.
          neighbors: the vectors of each query's neighbors; None where the condition has none.
          **options: as of `plan`.

        Raises:
          UserError: an option is unknown or out of range.
        """
        if neighbors is not None:
            options = {**options, "neighbors": neighbors.shape[1]}
        request, chosen = self.resolve(len(queries), **options)
        labels = [f"query {number}" for number in range(1, len(queries) + 1)]
        found = None if neighbors is None else _unnamed(neighbors)
        return self.open_plan(request, chosen, None).with_queries(labels, np.asarray(queries, np.float32), found)

    def open_plan(self, request: Request, options: Any, retriever: Retriever | None) -> Plan:
        """Returns the plan of a request without queries: files are read, references encoded, steps planned.

        Args:
          request: what is wanted.
          options: the head's.
          retriever: of the run's own databases; None where the condition has no neighbors.

        Raises:
          UserError: a file, a guide, a condition, an option or the size is invalid.
        """
        self._check_supported(request.conditions)
        if request.candidates > 1:
            self.bundle.require("clip")  # which ranks them
        run = self.head.plan(request, options, self.model)
        builder = self._builder(request, options, retriever)
        return Plan(request, options, [], builder.queries, None, [], [], builder, run)

    def replan(self, plan: Plan, database: Databases | None, *, default: bool = False) -> Plan:
        """Returns the plan of the same images with neighbors from another database.

        Args:
          plan: of the images.
          database: as of `plan`.
          default: the number of neighbors is nobody's choice: it is lowered where the database has fewer rows.

        Raises:
          UserError: the database is unknown, has too few rows, or was built by another encoder.
        """
        request = plan.request
        retriever = None if request.condition == "text" else open_retriever(self.encoder, database)
        if retriever and default:
            request = dataclasses.replace(request, neighbors=retriever.at_most(request.neighbors))
        found = retriever.retrieve(plan.queries, request.neighbors) if retriever else None
        kept = {"content": plan.builder.content, "text": plan.builder.text}
        builder = dataclasses.replace(self._builder(request, plan.options, retriever), **kept)
        return dataclasses.replace(plan, request=request, neighbors=found, builder=builder).checked()

    def generate(
        self, plan: Plan, progress: ProgressCallback | None = None, preview: OnPreview | None = None
    ) -> Iterator[Result]:
        """Yields the images of a plan batch by batch, in the plan's order.

        Args:
          plan: from `plan`.
          progress: called with (steps done, all steps); what it raises ends the run between two chunks of steps.
          preview: called after each chunk with (the images' indices, the steps done, an estimate of the finished
            images, uint8 [b, h, w, 3]).

        Raises:
          UserError: an image is not finite.
        """
        if plan.request.candidates > 1:
            yield from self._best_candidates(plan, progress, preview)
            return
        yield from self._generate(plan, progress, preview)

    def _best_candidates(
        self, plan: Plan, progress: ProgressCallback | None, preview: OnPreview | None
    ) -> Iterator[Result]:
        """Yields the best of the candidates of each image of a plan, as soon as all of its candidates are there."""
        count, waiting, kept = plan.request.candidates, [], 0
        indices = [index + CANDIDATES_APART * turn for index in plan.indices for turn in range(count)]
        rows = [row for row in plan.rows for _ in range(count)]
        scorer = Scorer(self.encoder, plan.builder.style)
        for result in self._generate(dataclasses.replace(plan, indices=indices, rows=rows), progress, preview):
            joined = join([*waiting, result])
            whole = len(joined.indices) // count
            groups, every = np.repeat(np.arange(whole), count), np.arange(len(joined.indices))
            waiting = [taken(joined, every[whole * count :])] if len(every) > whole * count else []
            if whole:
                full = taken(joined, every[: whole * count])
                best = best_of(scorer.scores(full.images, full.queries, full.neighbors, groups), groups)
                yield dataclasses.replace(taken(full, best), indices=plan.indices[kept : kept + whole])
                kept += whole

    def _generate(self, plan: Plan, progress: ProgressCallback | None, preview: OnPreview | None) -> Iterator[Result]:
        """Yields the images of a plan batch by batch."""
        size = plan.request.batch_size
        starts = range(0, len(plan.indices), size)
        for number, first in enumerate(starts):
            indices, rows = plan.indices[first : first + size], plan.rows[first : first + size]

            def report(done: int, steps: int, before: int = number) -> None:
                """Reports the progress over all batches."""
                if progress:
                    progress(before * steps + done, len(starts) * steps)

            def show(done: int, images: np.ndarray, of: list[int] = indices) -> None:
                """Passes on a batch's images without its padding."""
                if preview:
                    preview(of, done, to_uint8(_unpadded(plan, images[: len(of)])))

            # The last batch is padded with its own images, so that every batch has one shape.
            images = self._batch(plan, np.resize(indices, size), np.resize(rows, size), report, preview and show)
            yield self._result(plan, indices, rows, images)

    def _batch(
        self,
        plan: Plan,
        indices: Int[np.ndarray, " b"],
        rows: Int[np.ndarray, " b"],
        report: ProgressCallback,
        show: Callable[[int, np.ndarray], None] | None,
    ) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images of one full batch, about [-1, 1]."""
        program = self._program(plan, len(indices))
        state = program.start(plan, self.bundle.params, indices, rows)
        report(0, state.total)
        while state.done < state.total:
            state = program.advance(state)
            if show:
                show(state.done, program.preview(state))
            report(state.done, state.total)
        return program.finish(state)

    def _program(self, plan: Plan, batch: int) -> Program:
        shape = self.head.shape(plan, batch)
        if shape not in self.programs:
            logger.info("compiling for %d image%s at once ...", batch, "s" if batch > 1 else "")
            begin = time.monotonic()
            compiler = Compiler(self.bundle, self.head.network, self.model.mesh, self.shared)
            self.programs[shape] = self.head.compile(shape, plan, compiler)
            logger.info("compiled in %.1f s", time.monotonic() - begin)
        return self.programs[shape]

    def _builder(self, request: Request, options: Any, retriever: Retriever | None) -> Any:
        size = self.head.size(request, self.bundle)
        alone = getattr(options, "style_scale", 0.0) != 0.0

        def encode(images: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h2 w2 c"]:
            """Returns the latents of images, which not every head has."""
            return self.model.encode_latent(images)

        return condition_builder(request, self.bundle, self.encoder, encode, size, retriever, style_alone=alone)

    def _check_supported(self, conditioners: Sequence[Conditioner]) -> None:
        """Raises UserError for the first conditioner that the head or its network does not support."""
        for conditioner in conditioners:
            for feature in conditioner.requires:
                reason = self.head.supports(feature, self.bundle)
                if reason:
                    name = name_of(CONDITIONERS, conditioner)
                    raise UserError(
                        f"condition {name} needs {FEATURES[feature]}, and model {self.bundle.name!r} has none: {reason}"
                    )

    def _encode(
        self, prompts: Sequence[str], images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[list[str], Float[np.ndarray, "q d"]]:
        """Returns labels and query vectors, those of the prompts first."""
        for number, prompt in enumerate(prompts, 1):
            if not prompt.strip():
                raise UserError(f"prompt {number} is empty; write what to generate, or leave it out")
        # In small groups, for all to go through the same program, however many there are.
        groups = [self.encoder.encode_queries(prompts)]
        groups += [self.encoder.encode_images(images[i : i + SMALL_BATCH]) for i in range(0, len(images), SMALL_BATCH)]
        labels = [*prompts, *(f"image {number}" for number in range(1, len(images) + 1))]
        return labels, np.concatenate([np.zeros((0, self.encoder.identity["width"]), np.float32), *groups])

    def _result(self, plan: Plan, indices: list[int], rows: list[int], images: Float[np.ndarray, "b h w 3"]) -> Result:
        """Returns the first images of a batch, those of `indices`, with all that belongs to them."""
        for index, image in zip(indices, images, strict=False):
            if not np.isfinite(image).all():
                scale = getattr(plan.options, "guidance_scale", 1.0)
                raise UserError(f"image {index} is not finite; lower the guidance scale, {scale} now")
        return Result(
            images=_unpadded(plan, self.head.finish(plan, to_uint8(images[: len(indices)]))),
            prompts=[plan.prompts[row] for row in rows],
            indices=indices,
            queries=plan.queries[rows],
            neighbors=map_neighbors(lambda part: part[rows], plan.neighbors) if plan.neighbors else None,
            request=plan.request,
            options=plan.options,
            content=_shown_content(plan, indices, rows),
            known=plan.content.known[rows] if plan.content else None,
        )


def _shown_content(plan: Plan, indices: list[int], rows: list[int]) -> Neighbors | None:
    """Returns the content neighbor that each image has taken."""
    if plan.content is None:
        return None
    turns = plan.turns(indices) % plan.content.images.shape[1]
    return map_neighbors(lambda part: part[rows, turns][:, None], plan.content.neighbors)


def _unpadded(plan: Plan, images: np.ndarray) -> np.ndarray:
    """Returns images [b, h, w, 3] at the request's size, without what an edited one was padded with."""
    return images[:, : plan.request.height, : plan.request.width]


def _unnamed(vectors: Float[np.ndarray, "q k d"]) -> Neighbors:
    """Returns neighbors of which the vectors alone are known."""
    shape = vectors.shape[:2]
    ids, scores = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    return Neighbors(ids, scores, np.asarray(vectors, np.float32), np.full(shape, "", dtype="<U1"))
