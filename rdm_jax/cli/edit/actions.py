"""What `rdm edit` does: each action plans with a picture as the start, a reference or a query, and draws."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.cli import drawing, outputs
from rdm_jax.cli.png import encode_png
from rdm_jax.cli.progress import Progress, note
from rdm_jax.conditioning import Mix, Switch
from rdm_jax.core import files, images, sheets
from rdm_jax.core.calls import Call, build
from rdm_jax.core.errors import UserError
from rdm_jax.editing import inversion, mixing
from rdm_jax.evaluation.statistics import psnr
from rdm_jax.generator import Generator, Result, join
from rdm_jax.guidance import GUIDES, Outpaint
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.run import Plan

MOST = 8  # pictures in a row of edit.png
SIDE = 256  # of a cell of edit.png, in pixels

Write = Callable[[Path, list[tuple[str, Result]]], None]


@dataclasses.dataclass(frozen=True)
class Desk:
    """What an action works with.

    Attributes:
      generator: the model.
      databases: to draw from, one after another.
      options: of every plan.
      picture: [h, w, 3] what is edited; None where there is none.
      args: the action's own options.
      out: the folder that was asked for.
    """

    generator: Generator
    databases: list[Mixture | None]
    options: dict[str, Any]
    picture: np.ndarray | None
    args: argparse.Namespace
    out: Path

    def plan(self, prompts: list[str] | None = None, **changes: Any) -> Plan:
        """Returns the plan of the first database; without prompts the picture is the query."""
        if prompts is None:
            prompts = [self.args.prompt] if self.args.prompt else []
        images = [] if prompts or self.picture is None else [self.picture]
        options = {**self.options, **changes}
        for name in ("guides", "conditions"):
            options[name] = [*self.options[name], *changes.get(name, ())]
        return self.generator.plan(prompts, database=self.databases[0], images=images, **options)

    def write(self, plan: Plan, out: Path | None = None, extra: Write | None = None) -> tuple[Path, int]:
        """Draws a plan from every database, and the picture beside what came of it."""
        plans = [plan, *(self.generator.replan(plan, database) for database in self.databases[1:])]
        return drawing.write_run(
            self.generator, self.databases, plans, out or self.out, self.args, extra or self._beside
        )

    def _beside(self, folder: Path, drawn: list[tuple[str, Result]]) -> None:
        """Writes edit.png: the picture, and what was drawn, a row for each database."""
        if self.picture is None or self.args.skip_grid:
            return
        shape = drawn[0][1].images.shape[1:3]
        before = images.fit(self.picture, *shape) if self.args.action != "outpaint" else self._on_canvas(shape)
        rows = [np.stack([before, *result.images[:MOST]]) for _, result in drawn]
        write_sheet(folder / "edit.png", np.stack(rows), ["picture"], [name for name, _ in drawn])

    def _on_canvas(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the picture where it is on its canvas, the rest grey."""
        assert self.picture is not None
        canvas = np.full((*shape, 3), 128, np.uint8)
        height, width = self.picture.shape[:2]
        canvas[self.args.up : self.args.up + height, self.args.left : self.args.left + width] = self.picture
        return canvas


def write_sheet(path: Path, cells: np.ndarray, columns: list[str], rows: list[str]) -> None:
    """Writes pictures [rows, columns, h, w, 3] as one sheet, with labels as far as there are some."""
    zoom = max(1, SIDE // cells.shape[3])
    columns = [*columns, *[""] * (cells.shape[1] - len(columns))]
    outputs.write_new(path, encode_png(sheets.grid(cells, row_labels=rows, column_labels=columns, zoom=zoom)))


def img2img(desk: Desk) -> tuple[Path, int]:
    """Draws from the picture, made noisy."""
    return desk.write(desk.plan(init=desk.args.image, strength=desk.args.strength))


def inpaint(desk: Desk) -> tuple[Path, int]:
    """Paints anew what is white in the mask."""
    args = desk.args
    guide = build(GUIDES, Call(args.method, {"image": args.image, "mask": args.mask}), "guide")
    return desk.write(desk.plan(guides=[guide]))


def outpaint(desk: Desk) -> tuple[Path, int]:
    """Continues the picture beyond its edges."""
    args, picture = desk.args, desk.picture
    assert picture is not None
    guide = Outpaint(image=args.image, left=args.left, right=args.right, up=args.up, down=args.down)
    height, width = guide.canvas(picture)[0].shape[:2]
    return desk.write(desk.plan(guides=[guide], height=height, width=width))


def vary(desk: Desk) -> tuple[Path, int]:
    """Draws others like the picture: it is the query, and with a strength below 1 the start too."""
    start = {"init": desk.args.image, "strength": desk.args.strength} if desk.args.strength < 1 else {}
    return desk.write(desk.plan([], **start))


def invert(desk: Desk) -> tuple[Path, int]:
    """Finds the picture's noise, says how near the way forth comes, and draws other conditions from it."""
    args = desk.args
    prompts = [one for one in (args.prompt, args.to) if one]
    if args.to and not args.prompt:
        raise UserError("--to draws another prompt from the noise; say what the picture is by --prompt")
    with outputs.run_folder(desk.out) as folder:
        start = _inverted(desk, folder, args.iterations)
        if args.to_database:
            other = drawing.open_databases([args.to_database], args.condition, desk.generator.bundle)
            desk = dataclasses.replace(desk, databases=[*desk.databases, *other])
        return desk.write(desk.plan(prompts or None, **start), folder)


def _inverted(desk: Desk, folder: Path, iterations: int) -> dict[str, Any]:
    """Writes noise.npy and inversion.json, and returns what makes a plan start from the noise."""
    steady = {"sampler": desk.options["sampler"] or "ddim", "guidance_scale": desk.options["guidance_scale"] or 1.0}
    plan = desk.plan(init=desk.args.image, num_images=1, batch_size=1, **steady)
    note(f"inverting {desk.args.image} ...")
    found = inversion.invert(desk.generator, plan, iterations)
    assert desk.picture is not None
    fitted = images.fit(desk.picture, *found.picture.shape[:2])
    decibels = [float(psnr(one[None], fitted[None])[0]) for one in (found.picture, found.decoded)]
    note(
        f"latents come back to {found.latent_error:.1e} of their size; the picture to {decibels[0]:.1f} dB, "
        f"through the autoencoder alone {decibels[1]:.1f} dB"
    )
    told = {"latent_error": found.latent_error, "psnr": decibels[0], "autoencoder_psnr": decibels[1]}
    outputs.write_new(folder / "inversion.json", files.json_bytes({**told, "iterations": iterations}))
    buffer = io.BytesIO()
    np.save(buffer, found.noise)
    outputs.write_new(folder / "noise.npy", buffer.getvalue())
    return {"init": str(folder / "noise.npy"), **steady}


def mix(desk: Desk) -> tuple[Path, int]:
    """Learns how two conditions are mixed over time, or takes that from a file, and draws with it."""
    args = desk.args
    if not args.to and not args.to_database:
        raise UserError("there is nothing to mix with; give --to TEXT or --to-database NAME")
    if len(desk.databases) > 1:
        raise UserError("mix takes one --database, and another by --to-database")
    other = {"prompt": args.to or "", "database": args.to_database or ""}
    with outputs.run_folder(desk.out) as folder:
        start = _inverted(desk, folder, 3) if args.image else {}
        weights = args.weights or str(_learned(desk, other, start, folder))
        count = desk.options["num_images"] or 1
        # As many again as were learned from: the weights are to serve seeds that they have not seen.
        several: dict[str, Any] = {} if args.image or args.weights else {"num_images": 2 * count}
        plan = desk.plan(conditions=[Mix(**other, weights=weights)], **{**start, **several})
        return desk.write(plan, folder, functools.partial(_before_and_after, desk, other, {**start, **several}))


def _learned(desk: Desk, other: dict[str, Any], start: dict[str, Any], folder: Path) -> Path:
    """Learns the weights, writes them to weights.json, and returns its place."""
    args, generator = desk.args, desk.generator
    plan = desk.plan(conditions=[Switch(**other, after=args.start)], **start)
    with Progress("learning weights", unit="update", quiet=args.quiet) as progress:
        learned = mixing.learn(
            generator,
            plan,
            iterations=args.iterations,
            perceptual_weight=args.keep,
            learning_rate=args.learning_rate,
            progress=progress,
        )
    note(f"loss {learned.losses[0]:.3f} to {learned.losses[-1]:.3f}, {learned.bytes / 2**20:.0f} MiB beside the model")
    told = {"weights": learned.weights.tolist(), "losses": learned.losses, "temporary_bytes": learned.bytes}
    path = folder / "weights.json"
    outputs.write_new(
        path, files.json_bytes({**told, "prompt": args.prompt, "to": args.to, "to_database": args.to_database})
    )
    return path


def _before_and_after(
    desk: Desk, other: dict[str, Any], options: dict[str, Any], folder: Path, drawn: list[tuple[str, Result]]
) -> None:
    """Writes edit.png: each picture under the first condition, mixed, and under the second one."""
    if desk.args.skip_grid:
        return
    result = drawn[0][1]
    plans = [desk.plan(**options), desk.plan(conditions=[Switch(**other, after=0.0)], **options)]
    first, second = (join(list(desk.generator.draw(plan))).images for plan in plans)
    rows = np.stack([first, result.images, second], axis=1)[: 2 * MOST]
    write_sheet(folder / "edit.png", rows, ["first", "mixed", "second"], [""] * len(rows))


RUNNERS: dict[str, Callable[[Desk], tuple[Path, int]]] = {
    "img2img": img2img,
    "inpaint": inpaint,
    "outpaint": outpaint,
    "vary": vary,
    "invert": invert,
    "mix": mix,
}
