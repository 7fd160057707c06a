"""The actions of `rdm edit`: each plans with an image as the start, a reference or a query, and generates."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.cli import generating, run_folder
from rdm_jax.cli.png import encode_png
from rdm_jax.cli.progress import Progress, note
from rdm_jax.cli.watch import Watch
from rdm_jax.conditioning import Fill, Mix, Switch
from rdm_jax.conditioning.channels import LAYOUTS, inpainting_of
from rdm_jax.core import files, images, sheets
from rdm_jax.core.calls import Call, build
from rdm_jax.core.errors import UserError
from rdm_jax.editing import inversion, mixing
from rdm_jax.evaluation.metrics.pixels import psnr
from rdm_jax.generator import Generator, Plan, Result, join
from rdm_jax.guidance import GUIDES, Outpaint
from rdm_jax.retrieval.mixture import Mixture

MOST = 8  # images in a row of edit.png
SIDE = 256  # of a cell of edit.png, in pixels

Write = Callable[[Path, list[tuple[str, Result]]], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What an action works with.

    Attributes:
      generator: the model.
      databases: to retrieve from, one after another.
      options: of every plan.
      image: [h, w, 3] to edit; None where there is none.
      args: the action's own options.
      out: the output folder.
      watch: follows the run; the terminal if None.
    """

    generator: Generator
    databases: list[Mixture | None]
    options: dict[str, Any]
    image: np.ndarray | None
    args: argparse.Namespace
    out: Path
    watch: Watch | None = None

    def plan(self, prompts: list[str] | None = None, **changes: Any) -> Plan:
        """Returns the plan of the first database; without prompts the image is the query."""
        if prompts is None:
            prompt = getattr(self.args, "prompt", None)
            prompts = [prompt] if prompt else []
        images = [] if prompts or self.image is None or not self.generator.takes_queries else [self.image]
        options = {**self.options, **changes}
        for name in ("guides", "conditions"):
            # None where there are none: not every head has guides.
            options[name] = [*self.options.get(name, ()), *changes.get(name, ())] or None
        return self.generator.plan(prompts, database=self.databases[0], images=images, **options)

    def write(self, plan: Plan, out: Path | None = None, extra: Write | None = None) -> tuple[Path, int]:
        """Generates a plan with every database, and writes a sheet of the image and the results.

        Args:
          plan: of the first database.
          out: a folder that is this run's own already; by default the run claims one in the output folder.
          extra: writes another sheet.
        """
        default = "neighbors" not in self.options
        plans = [plan, *(self.generator.replan(plan, one, default=default) for one in self.databases[1:])]
        extra, claimed = extra or self._write_comparison, out is not None
        return generating.write_run(
            self.generator, self.databases, plans, out or self.out, self.args, extra, claimed=claimed, watch=self.watch
        )

    def _write_comparison(self, folder: Path, results: list[tuple[str, Result]]) -> None:
        """Writes edit.png: the image and the results, a row for each database."""
        if self.image is None or self.args.skip_grid:
            return
        shape = results[0][1].images.shape[1:3]
        before = images.fit(self.image, *shape) if self.args.action != "outpaint" else self._on_canvas(shape)
        rows = [np.stack([before, *result.images[:MOST]]) for _, result in results]
        write_sheet(folder / "edit.png", np.stack(rows), ["image"], [name for name, _ in results])

    def _on_canvas(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the canvas with the image at its position, the rest gray."""
        assert self.image is not None
        canvas = np.full((*shape, 3), 128, np.uint8)
        height, width = self.image.shape[:2]
        canvas[self.args.up : self.args.up + height, self.args.left : self.args.left + width] = self.image
        return canvas


def write_sheet(path: Path, cells: np.ndarray, columns: list[str], rows: list[str]) -> None:
    """Writes images [rows, columns, h, w, 3] as one sheet; columns beyond the given labels have none."""
    zoom = max(1, SIDE // cells.shape[3])
    columns = [*columns, *[""] * (cells.shape[1] - len(columns))]
    run_folder.write_new(path, encode_png(sheets.grid(cells, row_labels=rows, column_labels=columns, zoom=zoom)))


def img2img(job: Job) -> tuple[Path, int]:
    """Generates from the image with noise added."""
    return job.write(job.plan(init=job.args.image, strength=job.args.strength))


def inpaint(job: Job) -> tuple[Path, int]:
    """Generates what is white in the mask."""
    args = job.args
    files = {"image": args.image, "mask": args.mask}
    takes_mask = inpainting_of(job.generator.bundle.config)
    method = args.method or (LAYOUTS[takes_mask].method if takes_mask else "inpaint")
    guide = build(GUIDES, Call(method, files), "guide")
    if not takes_mask:
        note("this model has no inpainting channels: the known part of the image is kept in each step")
    return job.write(job.plan(guides=[guide], conditions=[Fill(**files)] if takes_mask else []))


def upscale(job: Job) -> tuple[Path, int]:
    """Generates the image at a higher resolution."""
    return job.write(job.plan(low_resolution=job.args.image))


def outpaint(job: Job) -> tuple[Path, int]:
    """Continues the image beyond its edges."""
    args = job.args
    guide = Outpaint(image=args.image, left=args.left, right=args.right, up=args.up, down=args.down)
    return job.write(job.plan(guides=[guide]))


def vary(job: Job) -> tuple[Path, int]:
    """Generates variations: the image is the query, and with a strength below 1 the start too."""
    whole = job.args.strength == 1
    start = {"strength": None} if whole else {"init": job.args.image, "strength": job.args.strength}
    return job.write(job.plan([], **start))


def invert(job: Job) -> tuple[Path, int]:
    """Finds the image's noise, reports how close sampling from it comes, and generates other conditions from it."""
    args = job.args
    prompts = [one for one in (args.prompt, args.to) if one]
    if args.to and not args.prompt:
        raise UserError("--to generates another prompt from the noise; describe the image by --prompt")
    job.generator.resolve(1, **job.options)  # before anything is written
    with run_folder.claimed(job.out) as folder:
        start = _inverted(job, folder, args.iterations)
        if args.to_database:
            other = generating.open_databases([args.to_database], args.condition, job.generator.bundle)
            job = dataclasses.replace(job, databases=[*job.databases, *other])
        return job.write(job.plan(prompts or None, **start), folder)


def _inverted(job: Job, folder: Path, iterations: int) -> dict[str, Any]:
    """Writes noise.npy and inversion.json, and returns the options of a plan that starts from the noise."""
    fixed = {"sampler": job.options.get("sampler", "ddim"), "guidance_scale": job.options.get("guidance_scale", 1.0)}
    plan = job.plan(init=job.args.image, num_images=1, batch_size=1, **fixed)
    note(f"inverting {job.args.image} ...")
    inverted = inversion.invert(job.generator, plan, iterations)
    assert job.image is not None
    fitted = images.fit(job.image, *inverted.image.shape[:2])
    decibels = [float(psnr(one[None], fitted[None])[0]) for one in (inverted.image, inverted.decoded)]
    note(
        f"the latent returns with relative error {inverted.latent_error:.1e}, the image with {decibels[0]:.1f} dB, "
        f"through the autoencoder alone {decibels[1]:.1f} dB"
    )
    record = {"latent_error": inverted.latent_error, "psnr": decibels[0], "autoencoder_psnr": decibels[1]}
    run_folder.write_new(folder / "inversion.json", files.json_bytes({**record, "iterations": iterations}))
    buffer = io.BytesIO()
    np.save(buffer, inverted.noise)
    run_folder.write_new(folder / "noise.npy", buffer.getvalue())
    size = {"height": plan.request.height, "width": plan.request.width, "fit": plan.request.fit}
    return {"init": str(folder / "noise.npy"), **size, **fixed}


def mix(job: Job) -> tuple[Path, int]:
    """Learns the weights of two conditions over the steps, or reads them from a file, and generates with them."""
    args = job.args
    if not args.to and not args.to_database:
        raise UserError("there is nothing to mix with; give --to TEXT or --to-database NAME")
    if len(job.databases) > 1:
        raise UserError("mix takes one --database, and another by --to-database")
    other = {"prompt": args.to or "", "database": args.to_database or ""}
    job.generator.resolve(1, **job.options)  # before anything is written
    with run_folder.claimed(job.out) as folder:
        start = _inverted(job, folder, 3) if args.image else {}
        weights = args.weights or str(_learned(job, other, start, folder))
        count = job.options.get("num_images", 1)
        # As many images again as were learned from: the weights should hold for other seeds.
        several: dict[str, Any] = {} if args.image or args.weights else {"num_images": 2 * count}
        plan = job.plan(conditions=[Mix(**other, weights=weights)], **{**start, **several})
        return job.write(plan, folder, functools.partial(_before_and_after, job, other, {**start, **several}))


def _learned(job: Job, other: dict[str, Any], start: dict[str, Any], folder: Path) -> Path:
    """Learns the weights, writes them to weights.json, and returns its path."""
    args, generator = job.args, job.generator
    plan = job.plan(conditions=[Switch(**other, after=args.start)], **start)
    with Progress("learning weights", unit="update", quiet=args.quiet) as progress:
        learned = mixing.learn(
            generator,
            plan,
            iterations=args.iterations,
            perceptual_weight=args.keep,
            learning_rate=args.learning_rate,
            progress=progress,
        )
    note(
        f"loss {learned.losses[0]:.3f} to {learned.losses[-1]:.3f}, {learned.bytes / 2**20:.0f} MiB of temporary memory"
    )
    record = {"weights": learned.weights.tolist(), "losses": learned.losses, "temporary_bytes": learned.bytes}
    path = folder / "weights.json"
    run_folder.write_new(
        path, files.json_bytes({**record, "prompt": args.prompt, "to": args.to, "to_database": args.to_database})
    )
    return path


def _before_and_after(
    job: Job, other: dict[str, Any], options: dict[str, Any], folder: Path, results: list[tuple[str, Result]]
) -> None:
    """Writes edit.png: each image under the first condition, mixed, and under the second one."""
    if job.args.skip_grid:
        return
    result = results[0][1]
    plans = [job.plan(**options), job.plan(conditions=[Switch(**other, after=0.0)], **options)]
    first, second = (join(list(job.generator.generate(plan))).images for plan in plans)
    rows = np.stack([first, result.images, second], axis=1)[: 2 * MOST]
    write_sheet(folder / "edit.png", rows, ["first", "mixed", "second"], [""] * len(rows))


RUNNERS: dict[str, Callable[[Job], tuple[Path, int]]] = {
    "img2img": img2img,
    "inpaint": inpaint,
    "outpaint": outpaint,
    "upscale": upscale,
    "vary": vary,
    "invert": invert,
    "mix": mix,
}
