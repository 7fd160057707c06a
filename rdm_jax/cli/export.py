"""`rdm export`: writes the averaged parameters of one or more runs as a model bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from rdm_jax.cli.progress import note
from rdm_jax.cli.readers import number
from rdm_jax.core.errors import some

HELP = """write the bundle of a trained model

  rdm export runs/clip --out runs/encoder              one part
  rdm export runs/clip runs/autoencoder --out runs/base  parts joined
  rdm export style-scenes runs/clip --out runs/base      a model with another part
  rdm export runs/rdm --out my-model --name my-model     the whole model
  rdm export runs/rdm --out longer --ema-length 0.15     another average, of a run with --config.snapshot_every
  rdm export runs/few --out in-4 --step 3000             an earlier checkpoint, of a run with --config.keep_every
  rdm export runs/rdm --experts runs/noisy runs/clean --out experts    networks for ranges of noise
  rdm export runs/masked --fine-first-stage runs/vq_fine --out runs/fine_base    for a second stage (task masked_fine)
  rdm export runs/few --out fast --dtype int8 --parts-of style-scenes    small: what style-scenes has is left out"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "workdirs",
        nargs="+",
        metavar="DIR",
        help="folders of runs, or their gs:// addresses; models (NAME|DIR|hf://...)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="BUNDLE", help="the folder to write")
    parser.add_argument("--name", help="the model's name; that of the last run's config by default")
    parser.add_argument(
        "--license", metavar="NAME", help="of the weights, such as apache-2.0: recorded, for `rdm push`"
    )
    parser.add_argument(
        "--dtype",
        default="float16",
        metavar="TYPE",
        help="of the stored arrays: float16 (default), float32, or int8, a quarter of the size, for the kernels of the "
        "generative network",
    )
    parser.add_argument(
        "--parts-of",
        metavar="NAME",
        help="a model that ships with the package: leave out files that are equal to its own, and read them there",
    )
    parser.add_argument(
        "--ema-length",
        type=number(float, 0, 1),
        metavar="L",
        help="of a power-function average (EDM2): its standard deviation over the steps, 0.05 to 0.2, of a run with "
        "snapshot_every (default: the run's own moving average)",
    )
    parser.add_argument(
        "--experts",
        nargs="+",
        default=[],
        metavar="DIR",
        help="runs or models that were fine-tuned on ranges of noise (--config.expert_level), which they take over",
    )
    parser.add_argument(
        "--fine-first-stage",
        metavar="DIR",
        help="a run or model whose first stage a second stage of masked codes generates in (task masked_fine)",
    )
    parser.add_argument(
        "--step", type=number(int, 1), metavar="N", help="of a checkpoint that the runs keep (default: the newest)"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the bundle and prints its parts."""
    from rdm_jax.bundle import merge, with_fine_first_stage
    from rdm_jax.cli.train import quiet_orbax
    from rdm_jax.core import trees
    from rdm_jax.training.experts import with_experts
    from rdm_jax.training.export import run_or_model

    quiet_orbax()
    named = {key: value for key in ("name", "license") if (value := getattr(args, key))}
    opened = [run_or_model(place, args.ema_length, args.step) for place in (*args.workdirs, *args.experts)]
    bundle = merge(opened[: len(args.workdirs)], **named)
    if args.experts:
        bundle = with_experts(bundle, opened[len(args.workdirs) :])
    if args.fine_first_stage:
        bundle = with_fine_first_stage(bundle, run_or_model(args.fine_first_stage))
    bundle.save(args.out, args.dtype, args.parts_of)
    parts = some(f"{part} {trees.count(params) / 1e6:.2f}M" for part, params in bundle.params.items())
    note(f"{args.out}: {bundle.name} with {parts} parameters in {args.dtype}")
