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
from jaxtyping import Float, Int

from rdm_jax import factory
from rdm_jax.bundle import Bundle, override
from rdm_jax.conditioning.candidates import Scorer, best_of
from rdm_jax.conditioning.inputs import check_parts, input_of
from rdm_jax.conditioning.prompts import reads_prompts
from rdm_jax.convert import lora
from rdm_jax.core import memory, trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.core.mesh import make_mesh, put, replicated
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.heads import head_of
from rdm_jax.heads.base import Model, Plan, Program
from rdm_jax.heads.compiling import Compiler
from rdm_jax.planning import Planner
from rdm_jax.request import CANDIDATES_APART
from rdm_jax.result import Result, join, taken
from rdm_jax.retrieval.encoder import encoder_of
from rdm_jax.retrieval.retriever import Neighbors, map_neighbors

__all__ = ["Generator", "Plan", "Result", "join"]

logger = logging.getLogger(__name__)

OnPreview = Callable[[list[int], int, np.ndarray], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Generator(Planner):
    """A model that is ready to generate: it plans requests, and makes the images of plans.

    Attributes:
      programs: what was compiled so far, by shape.
      shared: what the programs of several shapes have in common.
    """

    programs: dict[Hashable, Program] = dataclasses.field(default_factory=dict)
    shared: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

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
            memory.release()  # what encoders took
            self.programs[shape] = self.head.compile(shape, plan, compiler)
            memory.release()  # what the compiler took
            logger.info("compiled in %.1f s", time.monotonic() - begin)
        return self.programs[shape]

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
