"""`rdm evaluate prompts`: generates images for the prompts of a benchmark, and scores them by category."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli import generating, sample
from rdm_jax.cli.evaluate import model as of_model
from rdm_jax.cli.evaluate.common import Measured, Stages
from rdm_jax.cli.readers import MOST, number
from rdm_jax.core import paths, text
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.data.examples import ImageSource
    from rdm_jax.evaluation.prompt_benchmark import Prompt

HELP = "CLIP-score by category, for prompts of a file or captions of real images"
TABLE = "prompts.tsv"
EACH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    parser.add_argument("model", metavar="MODEL", help="the name or folder of a model")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write; the same command continues"
    )
    parser.add_argument(
        "--from-file", metavar="FILE.tsv", help="prompts with their categories, in the format of PartiPrompts"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="real images whose captions are the prompts (a folder, .zip, database or TFDS set)",
    )
    parser.add_argument("--category", metavar="KEY", help="the attribute of --images that is the category")
    parser.add_argument(
        "--per-category",
        type=number(int, 1, MOST),
        default=EACH,
        metavar="N",
        help="captions of each category (default: %(default)s)",
    )
    parser.add_argument(
        "--content-database", action="append", metavar="NAME|DIR|hf://...[:WEIGHT]", help="as of rdm evaluate model"
    )
    generating.add_generation_options(parser, everything=False)
    parser.add_argument(
        "--features", action="append", default=[], metavar="BUNDLE", help="the CLIP that scores; see docs/evaluation.md"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(disable_metadata=False, skip_grid=True, previews=False)
    parser.set_defaults(proposals=0, counts=None, top_m=None, weighted=False)


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Generates the images that are not there yet, and scores all of them."""
    args.seed = args.seed or 0
    if (args.from_file is None) == (args.images is None):
        raise UserError("give the prompts by --from-file FILE.tsv, or real images by --images DIR --category KEY")
    if args.images is not None and not args.category:
        raise UserError("--images needs --category KEY, the attribute whose values are the categories")
    from rdm_jax.cli import run_folder
    from rdm_jax.evaluation.set_comparison import open_bundles
    from rdm_jax.generator import Generator

    prompts, real = _prompts(args)
    bundles = open_bundles(args.features)
    run_folder.check_writable(out)
    generator = Generator.load(args.model, args.dtype, tuple(args.set))
    generating.build_image_folders(args, generator.encoder)
    databases = generating.open_databases(args.database, args.condition, generator.bundle)
    if len(databases) > 1:
        raise UserError(f"one evaluation is of one database, and {len(databases)} are given; run it for each")
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    plans = sample.plans_of(generator, args, texts, [], databases)
    of_model.generate(generator, databases, plans, out, args)
    opened = [one for database in databases if database is not None for one in database.databases]
    results = _scores(args, out / of_model.SAMPLES, prompts, real, bundles)
    results["generation"] = of_model.generation(generator, plans[0], opened, args)
    from rdm_jax.evaluation import prompt_benchmark, set_report

    with_definition = {**results, "metrics": results["metrics"][:1]}  # all rows have the same parameters
    title = f"CLIP-score of {generator.bundle.name} by category"
    run_folder.write_again(out / TABLE, prompt_benchmark.write_table(prompts).encode())
    return Measured(
        results=results,
        arguments={"seed": args.seed, "category": args.category, "per_category": args.per_category},
        bundle=generator.bundle,
        classifier=None,
        databases=opened,
        markdown=prompt_benchmark.markdown(results, title, set_report.definition(with_definition)),
        screen=prompt_benchmark.screen(results),
        images={},
    )


def _prompts(args: argparse.Namespace) -> tuple[list[Prompt], ImageSource | None]:
    """Returns the prompts, and the real images with their captions where there are such."""
    from rdm_jax.data.examples import SelectedExamples
    from rdm_jax.evaluation import prompt_benchmark
    from rdm_jax.evaluation.features.image_sets import open_images

    if args.from_file is not None:
        written = text.read_given(paths.local(args.from_file), "prompts")
        return prompt_benchmark.read_table(written, args.from_file), None
    source = open_images(args.images)
    prompts, rows = prompt_benchmark.choose(source, args.category, args.per_category, args.seed)
    return prompts, SelectedExamples(source, rows.tolist())


def _scores(
    args: argparse.Namespace, samples: Path, prompts: list[Prompt], real: ImageSource | None, bundles: Any
) -> dict[str, Any]:
    """Returns the results as JSON values."""
    import numpy as np

    from rdm_jax import __version__
    from rdm_jax.evaluation import prompt_benchmark, set_report
    from rdm_jax.evaluation.features.extraction import extract
    from rdm_jax.evaluation.features.image_sets import open_images
    from rdm_jax.evaluation.set_comparison import choose_network
    from rdm_jax.retrieval.encoder import ClipEncoder

    network, stages = choose_network(bundles, ("clip",), "clean"), Stages(args.quiet)
    sets = {"images": open_images(samples), **({"reference": real} if real is not None else {})}
    contents, vectors = {}, {}
    for role, source in sets.items():
        contents[role], (found,) = extract(source, [network], True, lambda *at: stages("features", *at))
        vectors[role] = found.features
    if real is not None and len(contents["reference"]) < len(prompts):
        raise UserError(f"{real.name} holds images that cannot be read; remove them")
    pairs = np.array(prompt_benchmark.matching(prompts, contents["images"].captions))
    queries = ClipEncoder(network.bundle).encode_texts([prompt.text for prompt in prompts])
    title = f"CLIP-score ({network.title})" if network.published else f"cosine of image and caption by {network.title}"
    rows = prompt_benchmark.score_rows(
        prompts, queries, vectors["images"][pairs[:, 0]], pairs[:, 1], vectors.get("reference"), title, args.seed
    )
    used = {"network": network.title, "stand_in": network.stand_in}
    results = {
        "implementation": f"rdm_jax {__version__}",
        **{role: {**one.record, "captions": sets[role].captions} for role, one in contents.items()},
        "features": [network.record],
        "metrics": [{**row, **used} for row in rows],
        "remarks": [line for one in contents.values() for line in one.remarks],
    }
    return {**results, "remarks": set_report.remarks(results)}
