"""The blocks of the documentation run as printed, page by page, in a folder that has what the page speaks of.

Tiny models and databases stand in for those that ship, under their names, and for what a command that is not run would
have written. What is not run has its reason in `REASONS`, or in the page: `<!-- not run: REASON -->` above the block.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdm_jax import bundle, generator
from rdm_jax.cli.main import main
from tests.helpers import command_lines, pages, stand_ins
from tests.helpers.pages import PAGES, ROOT, Block

Maker = Callable[[Path], None]

OTHER_PROGRAMS = sorted(set(command_lines.PROGRAMS) - {"rdm", "python"})
REASONS = {
    rf"^({'|'.join(OTHER_PROGRAMS)}) ": "installs something, or needs other machines",
    r"--runner .*dask\(scheduler=": "needs a scheduler; tests/retrieval/test_dask.py starts one",
    r"^launch/": "starts trainings on several machines, or of hours; tests/launch runs the scripts",
    r"\b(gs|hf)://": "reads object storage or a hub; tests/core and tests/retrieval have servers for both",
    r"^rdm (convert|database import) ": "reads released files; tests/convert reads small ones of the same form",
    r"^rdm train .*--config smoke ": "is run by docs/tutorials/train_your_own.ipynb, with the models that ship",
    r"^rdm export runs/smoke ": "is run by docs/tutorials/train_your_own.ipynb, with the models that ship",
    r"^rdm train (?!--list-configs)": "trains for hours; its config is checked, and tests/training trains every task",
    r"^rdm export ": "exports what is not trained here; tests/training exports every task",
    r"^rdm info runs/rdm": "describes what is not trained here; tests/cli describes small runs",
    r"^rdm ablate ablations/": "trains or measures for hours; tests/ablation reads every grid, and runs a small one",
    r"^rdm (evaluate|report) ": "measures for minutes; tests/cli runs every measure on few images",
    r"^(\S+/)?python benchmarks/|^benchmarks/": "measures for minutes or hours",
    r"^python -m rdm_jax\.data\.": "makes a data set; tests/data makes small ones",
    r"^rdm studio$": "serves until it is stopped; tests/studio uses the page",
    r"^rdm (database build|neighbors --dataset) (icons/64|style_scenes|imagenet) ": "reads a data set that is not here",
    r"--model (adm\w+|bsr_sr|celeba|cin256|glide\w*|inpainting|karlo\w*|layout2img|semantic|txt2img)\b": (
        "needs a model of another kind; the tests of latent_tasks, pixel_models and karlo generate with golden ones"
    ),
    r"--model runs/class-bundle\b": "needs a model of classes; tests/cli/test_inputs.py generates with one",
    r"--query-vector (translator|prior)\b": "needs a prior; tests/test_generator.py and tests/models generate with one",
    r"--(lora|counts) ": "needs a file of others; tests/convert and tests/cli read small ones",
}

# In commands with a text: what stands there, and what runs, which takes less time or fits random networks.
SUBSTITUTES = {
    "--duplicates": [("--duplicates 0.97", "--duplicates 0.999999")],  # a random network finds all images alike
    "mix --prompt": [("--steps 20", "--steps 2"), ("--num-images 4", "--num-images 1")],
    "invert ": [("--steps 25", "--steps 2")],
    "--sweep steps": [("guidance_scale=1,2,4", "guidance_scale=2,4"), ("steps=10,20,50", "steps=2,4")],
}

FILES: dict[str, Maker] = {
    **dict.fromkeys(["my_images", "my_art", "photographs"], stand_ins.images),
    "data/emoji": lambda folder: stand_ins.images(folder, count=48),
    "more_images": lambda folder: stand_ins.images(folder, seed=1),
    "my-icons": stand_ins.icons,
    "icons": stand_ins.model(stand_ins.roles),
    "words.txt": stand_ins.lines("boat", "paper plane"),
    **dict.fromkeys(["noto.zip", "lineart.zip", "firefox.zip"], stand_ins.zipped),
    **dict.fromkeys(["boat.png", "mosaic.png", "sketch.png", "face.jpg", "dog.jpg", "mine.jpg"], stand_ins.image),
    **dict.fromkeys(["mask.png", "left.png"], stand_ins.mask),
    "no.txt": stand_ins.lines("harbor/02.png", "town/"),
    "prompts.txt": stand_ins.lines("a red boat", "a blue cat"),
}

# What a command that is not run would have written: the tiny diffusion model, but for these names.
KINDS = {
    **dict.fromkeys(["amused", "masked"], stand_ins.codes),
    "masked-fine": stand_ins.fine_codes,
    "encoders": stand_ins.several_encoders,
    **dict.fromkeys(["frido"], stand_ins.scales),
    **dict.fromkeys(["rarm-dogs"], stand_ins.autoregressive),
    **dict.fromkeys(["my-few-step-model"], stand_ins.few_steps),
}


# The first line of a block that is a file: tests/heads, tests/models and tests/diffusion write those of docs/heads.md.
FILE = re.compile(r"# [\w/]+\.py\n")


def python(page: Path) -> list[Block]:
    """Returns the blocks of Python that are run."""
    return [block for block in pages.blocks(page, "python") if not block.reason and not FILE.match(block.text)]


def reason(block: Block, words: list[str]) -> str:
    """Returns why a command is not run; "" for one that is."""
    line = " ".join(words)
    return block.reason or next((why for pattern, why in REASONS.items() if re.search(pattern, line)), "")


def commands(page: Path) -> Iterator[tuple[Block, list[str]]]:
    for block in pages.blocks(page, "bash"):
        for words in block.commands:
            yield block, words


def runs(page: Path) -> bool:
    """Whether a page has anything that is run."""
    return bool(python(page)) or any(not reason(block, words) for block, words in commands(page))


def substituted(words: list[str]) -> list[str]:
    """Returns a command with its substitutes."""
    line = "\n".join(words)
    for part, changes in SUBSTITUTES.items():
        if part in " ".join(words):
            for before, after in changes:
                line = line.replace(before.replace(" ", "\n"), after.replace(" ", "\n"))
    return line.split("\n")


def write_result(words: list[str]) -> None:
    """Writes what a command that is not run would have written, if later commands read it."""
    if words[:2] not in (["rdm", "convert"], ["rdm", "export"]) or "--out" not in words:
        return
    out = Path(words[words.index("--out") + 1])
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        stand_ins.model(KINDS.get(out.name, stand_ins.diffusion))(out)


def run_python(block: Block, embedded: Path) -> None:
    """Runs a block in a process of its own: in this one every annotation is checked, and an integer is no float."""
    words = [sys.executable, "-m", "tests.helpers.stand_ins", str(embedded), block.text]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{block}: {done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    stand_ins.write_embedded(folder)
    return folder


@pytest.fixture(scope="module")
def load() -> Callable:
    """Loads each model once, so that what was compiled for one command serves the next."""
    loaded: dict[tuple, generator.Generator] = {}
    original = generator.Generator.load

    def opened(model, *args, **options):
        if isinstance(model, bundle.Bundle):
            return original(model, *args, **options)
        key = (stand_ins.weights(bundle.locate(model)), repr(args), repr(sorted(options.items())))
        if key not in loaded:
            loaded[key] = original(model, *args, **options)
        return loaded[key]

    return opened


@pytest.fixture
def place(embedded: Path, load: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_environment) -> Path:
    """An empty folder with what the pages speak of, in which the tiny models and databases are those that ship."""
    for module, folder in stand_ins.folders(embedded):
        monkeypatch.setattr(module, "EMBEDDED", folder)
    monkeypatch.setattr(generator.Generator, "load", staticmethod(load))
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, write in FILES.items():
        write(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", list(filter(runs, PAGES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_runs(page: Path, place: Path, embedded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in pages.blocks(page):
        if block in python(page):
            run_python(block, embedded)
        for words in block.commands if block.language == "bash" else []:
            if reason(block, words):
                write_result(words)
            else:
                assert main(substituted(words[1:])) == 0, (
                    f"{block}: {' '.join(words)}\n{capsys.readouterr().err[-2000:]}"
                )


def test_every_reason_is_one_of_today() -> None:
    lines = [" ".join(words) for page in PAGES for _, words in commands(page)]
    unused = [pattern for pattern in REASONS if not any(re.search(pattern, line) for line in lines)]
    assert unused == [], "no command needs these reasons any more"
    named = {name for line in lines for name in FILES if name in line}
    assert sorted(set(FILES) - named) == [], "no command reads these files any more"
