"""`rdm convert`: converts released weights to a model bundle and back, without PyTorch and in little memory."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rdm_jax.cli.progress import Progress, note

HELP = """convert released weights to a model bundle, and back

  rdm convert ViT-L-14.pt --tokenizer bpe_simple_vocab_16e6.txt.gz --out clip
  rdm convert model.ckpt --config 768x768.yaml --clip clip --out rdm-768
  rdm convert kl-f16/model.ckpt --config kl-f16/config.yaml --out kl-f16
  rdm convert v1-5-pruned-emaonly.safetensors --tokenizer bpe_simple_vocab_16e6.txt.gz --out sd15
  rdm convert 256x256_diffusion.pt --classifier 256x256_classifier.pt --out adm256
  rdm convert base.pt --tokenizer vocab.bpe --out glide
  rdm convert karlo-v1-alpha --out karlo
  rdm convert karlo-v1-alpha/super_res_first --out karlo_upsampler

  rdm convert rdm-768 --to compvis --out original       a bundle in the format of CompVis's programs
  rdm convert --list                                    where released weights are: addresses, sizes, licenses
  rdm convert --list "stable diffusion"

The format of SRC is recognized by its content: a CompVis checkpoint, RARM, Frido, ViT-VQGAN or first stage (with its
yaml), Stable Diffusion 1 or 2 (a file, or a folder of diffusers), OpenAI's CLIP (as released, or a state dict), a
folder with Hugging Face's CLIP, a pipeline of diffusers, a DiT, SiT or U-ViT, ADM or GLIDE, LPIPS, or the Inception-v3
of the Fréchet distance. No code in it is run."""

_ALL = "*"  # what --list without a word stands for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "source", nargs="?", metavar="SRC", help="a file of weights, a folder, or with --to a model (NAME|DIR|hf://...)"
    )
    parser.add_argument(
        "--list",
        nargs="?",
        const=_ALL,
        metavar="WORD",
        help="print where released weights are (those whose names contain WORD), and convert nothing",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="yaml of a CompVis model, or .json of a DiT's, SiT's or U-ViT's arguments or of ADM's or GLIDE's flags "
        "(default: the one beside it)",
    )
    parser.add_argument(
        "--weights",
        metavar="ema|raw|both",
        help="of a CompVis checkpoint (default: ema, or raw where its program samples with them)",
    )
    parser.add_argument(
        "--prediction",
        metavar="eps|v",
        help="of a Stable Diffusion 2 without its yaml: eps of the base models (512 pixels), v of the others (768)",
    )
    parser.add_argument(
        "--interpolant",
        metavar="linear|gvp",
        help="the path of a SiT, whose tensors have the names of a DiT's (default: linear where the file's name begins "
        "with SiT, and a DiT otherwise)",
    )
    parser.add_argument(
        "--clip", type=Path, metavar="DIR", help="add this CLIP (a bundle, or another source with a CLIP)"
    )
    parser.add_argument(
        "--ip-adapter",
        type=Path,
        metavar="FILE",
        help="add this IP-Adapter to a Stable Diffusion, which then takes neighbors; needs the --clip that it was "
        "trained with",
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json, or OpenAI's merges file")
    parser.add_argument(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="add this classifier of noisy images, of ADM, to a model of pixels",
    )
    parser.add_argument(
        "--noised-clip",
        type=Path,
        nargs=2,
        metavar=("IMAGE", "TEXT"),
        help="add this CLIP of noisy images, GLIDE's two files, to a model of pixels",
    )
    parser.add_argument("--noised-tokenizer", type=Path, metavar="FILE", help="its tokenizer, that of OpenAI's CLIP")
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="torchvision's VGG-16, which completes LPIPS's file")
    parser.add_argument(
        "--allow-missing", nargs="+", default=[], metavar="NAME", help="tensors that may be missing or unused"
    )
    parser.add_argument("--to", metavar="PROGRAM", help="convert a bundle to the format of compvis or diffusers")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write")


def run(args: argparse.Namespace) -> None:
    """Converts, and reports the result."""
    from rdm_jax.core.errors import UserError

    if args.list is not None:
        _list(args)
        return
    if args.source is None or args.out is None:
        raise UserError("give what to convert and the folder to write: rdm convert SRC --out DIR (or --list)")
    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another folder or remove it first")
    bars: dict[str, Progress] = {}

    def progress(name: str, *at: int) -> None:
        """Shows how many megabytes of a file are written."""
        bars.setdefault(name, Progress(name, unit="megabyte"))(*(size // 10**6 for size in at))

    (_write_back if args.to else _convert)(args, progress)


def _list(args: argparse.Namespace) -> None:
    """Prints where released weights are."""
    from rdm_jax.convert.released import as_text, released
    from rdm_jax.core.errors import UserError

    if args.source is not None or args.out is not None:
        raise UserError("--list converts nothing; leave out SRC and --out")
    print(as_text(released("" if args.list == _ALL else args.list)))


def _convert(args: argparse.Namespace, progress: Callable[..., None]) -> None:
    from rdm_jax.convert.conversion import convert
    from rdm_jax.core import paths

    converted = convert(
        paths.local(args.source),
        config=args.config,
        weights=args.weights,
        clip_source=args.clip,
        tokenizer=args.tokenizer,
        vgg=args.vgg,
        prediction=args.prediction,
        interpolant=args.interpolant,
        adapter=args.ip_adapter,
        classifier=args.classifier,
        noised_clip=tuple(args.noised_clip) if args.noised_clip else None,
        noised_tokenizer=args.noised_tokenizer,
        allowed=frozenset(args.allow_missing),
    )
    converted.write(args.out, progress)
    parts = ", ".join(f"{part} {size / 1e6:.2f}M" for part, size in converted.sizes.items())
    note(f"{args.out}: {converted.kind} {converted.config['name']!r} with {parts} parameters")
    reads = {"clip", "text_encoder"} & set(converted.parts)
    if not reads and converted.conditioned and "input" not in converted.config.get("conditioning", {}):
        note("it has no CLIP yet, which prompts and databases need; convert again with --clip")
    if reads and converted.tokenizer is None:
        note("it has no tokenizer, which prompts need; convert again with --tokenizer")


def _write_back(args: argparse.Namespace, progress: Callable[..., None]) -> None:
    from rdm_jax.convert.writing import write_back
    from rdm_jax.core.errors import UserError

    options = {"--config": args.config, "--weights": args.weights, "--clip": args.clip, "--tokenizer": args.tokenizer}
    options |= {"--vgg": args.vgg, "--prediction": args.prediction, "--ip-adapter": args.ip_adapter}
    options |= {"--classifier": args.classifier, "--noised-clip": args.noised_clip}
    options |= {"--noised-tokenizer": args.noised_tokenizer}
    given = [option for option, value in {**options, "--allow-missing": args.allow_missing}.items() if value]
    if given:
        raise UserError(
            f"{given[0]} is an option for reading released weights, and --to writes a bundle as it is; omit it"
        )
    written = write_back(args.source, args.to, args.out, progress)
    note(f"{args.out}: {', '.join(path.name for path in written)}")
