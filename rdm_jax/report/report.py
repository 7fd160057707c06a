"""A whole report: evaluations, training runs, and the images of both and of generated runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core.errors import UserError
from rdm_jax.core.file_names import file_names
from rdm_jax.report import plots
from rdm_jax.report.blocks import Block, File, Heading, Items, Paragraph
from rdm_jax.report.evaluations import report_evaluations
from rdm_jax.report.settings import shown
from rdm_jax.report.sources import Evaluation, GeneratedRun, Source, TrainingRun
from rdm_jax.report.training_runs import report_runs

TITLE = "Report"
MOST_IMAGES = 12  # of one source


def make_report(sources: Sequence[Source]) -> list[Block]:
    """Returns the blocks of a report.

    Args:
      sources: from `sources.read_sources`.

    Raises:
      UserError: results are damaged, or an image cannot be read.
    """
    kinds = {TrainingRun: "training run", Evaluation: "evaluation", GeneratedRun: "generated images"}
    blocks: list[Block] = [Heading(1, TITLE), Items([f"{one.name}: {kinds[type(one)]}" for one in sources])]
    if not plots.available():
        blocks.append(Paragraph(plots.MISSING))
    blocks += report_evaluations([one for one in sources if isinstance(one, Evaluation)])
    blocks += report_runs([one for one in sources if isinstance(one, TrainingRun)])
    images = [(one, _images(one)) for one in sources]
    if any(found for _, found in images):
        blocks.append(Heading(2, "Images"))
    for source, found in images:
        if found or isinstance(source, GeneratedRun):
            blocks += _image_blocks(source, found)
    return _with_own_names(blocks)


def _images(source: Source) -> list[tuple[Path, str]]:
    """Returns the images of a source with their captions."""
    match source:
        case TrainingRun(name, _, _, figures):
            return [(path, f"{name}, {path.stem.rsplit('-', 1)[0]} at step {step}") for path, step in figures]
        case Evaluation(name, _, _, images):
            return [(path, f"{name}, {path.stem}") for path in images]
        case GeneratedRun(name, record, sheets):
            places = [path.parent.name for path in sheets]
            nested = [path.name == "neighbors.png" and len(record.get("databases", ())) > 1 for path in sheets]
            return [
                (path, f"{name}, {path.stem}{f' of {place}' if inner else ''}")
                for path, place, inner in zip(sheets, places, nested, strict=True)
            ]


def _image_blocks(source: Source, found: Sequence[tuple[Path, str]]) -> list[Block]:
    blocks: list[Block] = [Heading(3, source.name)]
    if isinstance(source, GeneratedRun):
        blocks.append(Items(_generation(source.record)))
    if len(found) > MOST_IMAGES:
        blocks.append(Paragraph(f"The first {MOST_IMAGES} of {len(found)} images."))
    for path, caption in found[:MOST_IMAGES]:
        try:
            blocks.append(File(f"{caption}.png", path.read_bytes(), caption))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}; leave its folder out") from error
    return blocks


def _generation(record: Mapping[str, Any]) -> list[str]:
    """Returns how the images of a run were generated, a line each."""
    named = [record.get("model") or {}, *record.get("databases", ())]
    lines = [f"model and databases: {', '.join(str(one.get('name')) for one in named)}"]
    for name in ("request", "options"):
        values = {key: value for key, value in (record.get(name) or {}).items() if value not in ("", [], None)}
        lines.append(f"{name}: {', '.join(f'{key} {shown(value)}' for key, value in values.items())}")
    axes = [f"{axis['key']}={','.join(axis['values'])}" for axis in record.get("sweep", ())]
    return [*lines, *([f"sweep: {'; '.join(axes)}"] if axes else [])]


def _with_own_names(blocks: Sequence[Block]) -> list[Block]:
    """Returns blocks whose files have different names that every file system takes; a plot and its CSV share one."""
    stems: dict[str, list[str]] = {}
    for file in (block for block in blocks if isinstance(block, File)):
        stems.setdefault(Path(file.name).suffix, []).append(Path(file.name).stem)
    names = {suffix: file_names(of_suffix) for suffix, of_suffix in stems.items()}

    def renamed(file: File) -> File:
        suffix = Path(file.name).suffix
        return dataclasses.replace(file, name=next(names[suffix]) + suffix)

    return [renamed(block) if isinstance(block, File) else block for block in blocks]
