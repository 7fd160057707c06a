"""What must be done in one way is done in one place: a second place is a second way, sooner or later."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rdm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def called(*names: str) -> Callable[[ast.AST], bool]:
    """Returns the test whether a node calls a function, or a method of any object, of one of these names."""

    def matches(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names

    return matches


def calls_exactly(*names: str) -> Callable[[ast.AST], bool]:
    """Returns the test whether a node calls one of these dotted names."""
    return lambda node: isinstance(node, ast.Call) and ast.unparse(node.func) in names


def opens_text(node: ast.AST) -> bool:
    """Says whether a node opens a file as text: the mode of `open` has no b."""
    if not calls_exactly("open", "io.open")(node):
        return False
    modes = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def says(*phrases: str) -> Callable[[ast.AST], bool]:
    """Returns the test whether a node is a text of a message with one of these phrases; docstrings are none."""
    return lambda node: isinstance(node, ast.Constant) and any(phrase in str(node.value) for phrase in phrases)


PLACES: dict[str, tuple[Callable[[ast.AST], bool], set[str]]] = {
    "opening a foreign image": (calls_exactly("Image.open", "PIL.Image.open"), {"core/images.py"}),
    "reading text": (lambda node: called("read_text")(node) or opens_text(node), {"core/text.py"}),
    "splitting lines": (called("splitlines"), {"core/text.py", "core/errors.py"}),
    "expanding a path": (called("expanduser", "home"), {"core/paths.py"}),
    "claiming a folder": (called("FileLock", "lockf", "flock"), {"core/files.py"}),
    "parsing a value of unknown type": (
        calls_exactly("yaml.load", "yaml.compose", "yaml.safe_load", "ast.literal_eval"),
        {"core/values.py", "core/calls.py", "convert/compvis_config.py"},
    ),
    "truncating text": (says("cut off"), {"data/unread.py"}),
    "reporting what was left out": (says(" left out: "), {"core/left_out.py"}),
}


def found(what: str) -> list[str]:
    """Returns the files of the package in which a thing is done."""
    matches, _ = PLACES[what]
    return [file.relative_to(PACKAGE).as_posix() for file in FILES if any(map(matches, _nodes(file)))]


@functools.cache
def _nodes(file: Path) -> list[ast.AST]:
    """Returns the nodes of a file but for docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bare = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    bare |= {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [node for node in ast.walk(tree) if id(node) not in bare]


@pytest.mark.slow
@pytest.mark.parametrize("what", PLACES)
def test_there_is_one_place(what: str) -> None:
    allowed = PLACES[what][1]
    assert set(found(what)) <= allowed, f"{what} belongs to {', '.join(sorted(allowed))}"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("opening a foreign image", "from PIL import Image\nImage.open(file)"),
        ("reading text", "path.read_text()"),
        ("reading text", "open(path)"),
        ("reading text", "open(path, 'a')"),
        ("splitting lines", "text.splitlines()"),
        ("expanding a path", "Path(x).expanduser()"),
        ("claiming a folder", "filelock.FileLock(path)"),
        ("parsing a value of unknown type", "yaml.safe_load(text)"),
        ("truncating text", "logger.warning('cut off: %r', tail)"),
        ("reporting what was left out", "f'{n} files are left out: {names}'"),
    ],
)
def test_a_second_place_would_be_found(what: str, code: str) -> None:
    assert any(PLACES[what][0](node) for node in ast.walk(ast.parse(code)))
    assert not any(PLACES["reading text"][0](node) for node in ast.walk(ast.parse("open(path, 'rb')")))
