"""What the documentation shows is of today: every command is understood, every option, file, config and name exists."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rdm_jax.cli.main import VERBS
from rdm_jax.core.errors import UserError
from rdm_jax.training.config import load_config, shipped_configs
from tests.helpers import command_lines, pages
from tests.helpers.pages import PAGES, ROOT

LANGUAGES = {"bash", "python", "json", "text", "{toctree}"}
FOLDERS = "|".join(folder.name for folder in sorted(ROOT.iterdir()) if folder.is_dir() and folder.name[0] not in "._")
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w")
CONFIG = re.compile(r"(?:style_scenes|icons|emoji|ablations)/[a-z_]\w*")
# Options of others' programs and of pipelines, which stand in the code of sentences.
FOREIGN = re.compile(
    r"^(?:dask |scancel|sbatch|--(?:nworkers|nthreads)\b|--(?:gpus-per-\w+|signal)\b|--runner=\w+Runner|--dataflow_)"
)
# Folders that commands make, and what the original's repository has.
ELSEWHERE = ("build/", "data/", "outputs/", "runs/", "configs/rarm/")


def each(pages_: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages_, ids=lambda page: str(page.relative_to(ROOT)))


@each(PAGES)
def test_blocks_are_fenced_and_have_a_known_language(page: Path) -> None:
    assert [str(block) for block in pages.blocks(page) if block.language not in LANGUAGES] == []


@each(PAGES)
def test_the_commands_are_understood(page: Path) -> None:
    wrong = []
    for block in pages.blocks(page, "bash"):
        for words in block.commands:
            try:
                command_lines.check(words)
            except (AssertionError, UserError) as error:
                wrong.append(f"{block}: {' '.join(words)}: {error}")
    assert wrong == []


@each(PAGES)
def test_python_is_valid_and_imports_what_is_there(page: Path) -> None:
    for block in pages.blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rdm_jax"):
                module = importlib.import_module(node.module or "")
                missing = [name.name for name in node.names if not _has(module, name.name)]
                assert missing == [], f"{block}: {node.module} has no {missing}"


def _has(module: ModuleType, name: str) -> bool:
    return hasattr(module, name) or importlib.util.find_spec(f"{module.__name__}.{name}") is not None


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option of `rdm` and of the scripts."""
    own = {option for verb in VERBS for option in command_lines.options_of(verb)}
    scripts = [*ROOT.glob("launch/**/*.*"), *ROOT.glob("benchmarks/**/*.*"), *ROOT.glob("rdm_jax/**/*.py")]
    texts = [file.read_text(encoding="utf-8") for file in scripts if file.suffix in (".py", ".sh", ".sbatch")]
    return own | {option for text in texts for option in re.findall(r'["\s|\[(](--[a-z][\w-]*)', text)}


@each(PAGES)
def test_the_options_in_sentences_exist(page: Path, options: set[str]) -> None:
    wrong = []
    for line, code in pages.code_spans(page):
        words = code.split()
        named = [] if FOREIGN.match(code) else command_lines.OPTION.findall(code)
        known = command_lines.options_of(" ".join(words[1:3])) if words[:1] == ["rdm"] and named else options
        wrong += [f"{line}: {code}" for option in named if option not in known | {"--config", "--help", "--version"}]
    assert wrong == []


@pytest.fixture(scope="module")
def configs() -> set[str]:
    return {name for folder in ("", "ablations", "models") for name in shipped_configs(folder)}


@each(PAGES)
def test_the_files_and_configs_in_sentences_exist(page: Path, configs: set[str]) -> None:
    wrong = []
    for line, code in pages.code_spans(page):
        files = [file for file in PATH.findall(code) if not f"{file}/".startswith(ELSEWHERE)]
        wrong += [f"{line}: {file}" for file in files if not (ROOT / file).exists()]
        named = CONFIG.fullmatch(code.partition(":")[0])
        wrong += [f"{line}: {code}" for name in ([named[0]] if named else []) if name not in configs]
    assert wrong == []


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """Every setting that some config or the schema of its task has, with dots."""
    return {setting for name in shipped_configs() for setting in _flat(load_config(name).to_dict())}


def _flat(values: dict[str, Any], before: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        names.append(before + key)
        if isinstance(value, dict):
            names += _flat(value, f"{before}{key}.")
    return names


@each(PAGES)
def test_the_settings_in_sentences_exist(page: Path, settings: set[str]) -> None:
    wrong = []
    for line, code in pages.code_spans(page):
        for name in re.findall(r"--config\.([a-z][\w.]*)", code):
            if name not in settings:
                wrong.append(f"{line}: {code}")
    assert wrong == []
