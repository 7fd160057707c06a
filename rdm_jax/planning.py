"""From a request to its plan: queries are encoded, neighbors and content retrieved, everything checked.

Nothing is generated here and nothing is compiled but encoders: `generator.Generator` makes the images of a plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning import CONDITIONERS, ConditionBuilder, Conditioner, change_queries
from rdm_jax.conditioning.building import condition_builder
from rdm_jax.conditioning.channels import upscaling_of
from rdm_jax.conditioning.content import Content, ContentSearch
from rdm_jax.conditioning.inputs import input_of
from rdm_jax.conditioning.inputs.low_resolution import upscaled_size
from rdm_jax.conditioning.prompts import reads_prompts
from rdm_jax.conditioning.roles import StyleReferences
from rdm_jax.core.calls import name_of
from rdm_jax.core.errors import UserError
from rdm_jax.heads import all_options
from rdm_jax.heads.base import FEATURES, Head, Model, Plan
from rdm_jax.request import Request, resolve
from rdm_jax.retrieval.encoder import SMALL_BATCH, ClipEncoder
from rdm_jax.retrieval.opening import Databases, open_retriever
from rdm_jax.retrieval.retriever import Neighbors, Retriever


@dataclasses.dataclass(frozen=True, eq=False)
class Planner:
    """A model that is ready to plan requests.

    Attributes:
      model: the bundle, its parameters on every device of the mesh, and its encoder.
      head: how the model makes latents or tokens.
      contents: the searches of content databases so far.
    """

    model: Model
    head: Head
    contents: dict[Hashable, ContentSearch] = dataclasses.field(default_factory=dict)

    @property
    def bundle(self) -> Bundle:
        """The model's bundle."""
        return self.model.bundle

    @property
    def encoder(self) -> ClipEncoder:
        """The encoder of prompts and query images."""
        return self.model.encoder

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
        labels, queries = self._encode(plan.builder, prompts, images)
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
        content = self._find_content(plan, content_database, labels, queries, given, neighbors)
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
        neighbors: Neighbors | None,
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
        size = plan.request.height, plan.request.width
        style = None if neighbors is None else StyleReferences(plan.builder.style, neighbors)
        return self.find_content(database, prompts, queries, given, plan.request.content_neighbors, size, style)

    def find_content(
        self,
        database: Databases,
        prompts: Sequence[str],
        queries: Float[np.ndarray, "q d"],
        given: Sequence[UInt8[np.ndarray, "_ _ 3"] | None],
        count: int,
        size: tuple[int, int],
        style: StyleReferences | None = None,
    ) -> Content:
        """Returns what shows the content of queries.

        Args:
          database: one or several content databases.
          prompts: the texts of the queries.
          queries: their vectors.
          given: the image that a query is, which is its own content; None where it is a text.
          count: the content neighbors of each.
          size: (height, width) of the images that are made.
          style: the style neighbors of the queries, if they have some: of equal captions, the images nearest to them
            are taken.

        Raises:
          UserError: the database is unknown, or was built by another encoder.
        """
        return self._content_search(database).find(prompts, queries, given, count, size, style)

    def _content_search(self, database: Databases) -> ContentSearch:
        """Returns the search of content databases, which encodes their captions once."""
        retriever = open_retriever(self.encoder, database)
        key = tuple((one.path, one.digest) for one in retriever.databases), retriever.selection
        if key not in self.contents:
            self.contents[key] = ContentSearch.of(self.encoder, retriever)
        return self.contents[key]

    def plan_vectors(
        self,
        queries: Float[np.ndarray, "q d"],
        neighbors: Float[np.ndarray, "q k d"] | None,
        texts: Sequence[str] | None = None,
        **options: Any,
    ) -> Plan:
        """Returns the plan of query vectors and their neighbors' vectors; nothing is retrieved.

        Args:
          queries: the query vectors.
          neighbors: the vectors of each query's neighbors; None where the condition has none.
          texts: of the queries, for a model that reads prompts as sequences; None without.
          **options: as of `plan`.

        Raises:
          UserError: an option is unknown or out of range.
        """
        if neighbors is not None:
            options = {**options, "neighbors": neighbors.shape[1]}
        request, chosen = self.resolve(len(queries), **options)
        labels = [f"query {number}" for number in range(1, len(queries) + 1)]
        found = None if neighbors is None else _unnamed(neighbors)
        plan, queries = self.open_plan(request, chosen, None), np.asarray(queries, np.float32)
        if texts is not None:
            plan, queries = self.with_texts(plan, queries, texts)
        return plan.with_queries(labels, queries, found)

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

    def _builder(self, request: Request, options: Any, retriever: Retriever | None) -> Any:
        size = self.head.size(request, self.bundle)
        unstyled = getattr(options, "style_scale", 0.0) != 0.0

        def encode(images: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h2 w2 c"]:
            """Returns the latents of images, which not every head has."""
            return self.model.encode_latent(images)

        return condition_builder(request, self.bundle, self.encoder, encode, size, retriever, unstyled=unstyled)

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
        self, builder: ConditionBuilder, prompts: Sequence[str], images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[list[str], Float[np.ndarray, "q d"]]:
        """Returns labels and query vectors, those of the prompts first."""
        for number, prompt in enumerate(prompts, 1):
            if not prompt.strip():
                raise UserError(f"prompt {number} is empty; write what to generate, or leave it out")
        # In small groups, for all to go through the same program, however many there are.
        groups = [builder.encode_prompts(prompts)]
        groups += [self.encoder.encode_images(images[i : i + SMALL_BATCH]) for i in range(0, len(images), SMALL_BATCH)]
        labels = [*prompts, *(f"image {number}" for number in range(1, len(images) + 1))]
        return labels, np.concatenate([np.zeros((0, self.encoder.identity["width"]), np.float32), *groups])


def _unnamed(vectors: Float[np.ndarray, "q k d"]) -> Neighbors:
    """Returns neighbors of which the vectors alone are known."""
    shape = vectors.shape[:2]
    ids, scores = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    return Neighbors(ids, scores, np.asarray(vectors, np.float32), np.full(shape, "", dtype="<U1"))
