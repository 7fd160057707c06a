"""Imports go down the floors of the package only, and optional dependencies are imported in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.import_graph import (
    FILES,
    FLOOR,
    PACKAGE,
    imported_modules,
    module_graph,
    reachable,
    top_level,
)

FORBIDDEN = {
    ("diffusion", "models"),
    ("models", "diffusion"),
    ("retrieval", "diffusion"),
    ("diffusion", "retrieval"),
}
CONFINED = {
    "torch": {"convert"},
    "scann": {"retrieval"},
    "faiss": {"retrieval"},
    "apache_beam": {"retrieval"},
    "dask": {"retrieval"},
    "distributed": {"retrieval"},
    "gradio": {"studio"},
    "vtracer": {"core"},
    "matplotlib": {"report"},
    "webdataset": {"data"},
    "datasets": {"data"},
    "huggingface_hub": {"core"},
    "tensorflow": set(),
}


def imports(file: Path) -> list[tuple[str, bool]]:
    """Returns every imported module's dotted name and whether the import stands at the top level of the file."""
    tree = ast.parse(file.read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from rdm_jax import generator` imports the module that it names.
            modules = [node.module]
            if node.module == "rdm_jax":
                modules = [f"rdm_jax.{alias.name}" for alias in node.names if alias.name != "__version__"]
            found += [(module, id(node) in top) for module in modules]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_downward(file: Path) -> None:
    here = top_level(file)
    if here == "__init__":  # the public interface names modules, and imports them late
        return
    assert here in FLOOR, f"{here} has no floor in this test; give it one"
    for module, _ in imports(file):
        parts = module.split(".")
        if parts[0] != "rdm_jax" or len(parts) < 2:
            continue
        there = parts[1]
        assert FLOOR[there] <= FLOOR[here], f"{here} imports upward from {there}"
        assert (here, there) not in FORBIDDEN, f"{here} must not import {there}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_optional_dependencies_are_confined(file: Path) -> None:
    for module, top in imports(file):
        allowed = CONFINED.get(module.split(".")[0])
        if allowed is not None:
            assert top_level(file) in allowed, f"{module} is imported outside {allowed}"
            whole = file.is_relative_to(PACKAGE / "studio" / "page")  # which is imported for nothing else
            assert not top or whole, (
                f"{module} is imported at the top of {file.name}; import it in the function that needs it"
            )


@pytest.mark.parametrize(
    "file", [f for f in FILES if top_level(f) == "heads"], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_heads_do_not_import_each_other(file: Path) -> None:
    parts = file.relative_to(PACKAGE).parts
    own = parts[1] if len(parts) > 2 else None
    heads = {
        folder.name for folder in (PACKAGE / "heads").iterdir() if folder.is_dir() and folder.name != "__pycache__"
    }
    for module, _ in imports(file):
        there = module.removeprefix("rdm_jax.heads.").split(".")[0] if module.startswith("rdm_jax.heads.") else None
        assert there not in heads - {own}, f"{file.name} imports the head {there}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "file"),
    [
        ("scann", "scann_engine.py"),
        ("faiss", "faiss_engine.py"),
        ("apache_beam", "beam_runner.py"),
        ("distributed", "dask_runner.py"),
    ],
)
def test_one_file_imports_each_engine_and_runner(library: str, file: str) -> None:
    assert [one.name for one in FILES if any(m.split(".")[0] == library for m, _ in imports(one))] == [file]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected components of a graph that contain a cycle, each sorted."""
    paths = {node: reachable(graph, node) for node in graph}
    components = {frozenset(n for n in paths[node] if node in paths[n]) for node in graph if node in paths[node]}
    return sorted(sorted(component) for component in components)


def test_cycles_of_a_graph_are_its_strongly_connected_components() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a", "f"}, "g": {"a"}}
    assert cycles(graph) == [["a", "b", "c"], ["d", "e"], ["f"]]


def test_imports_are_found_at_the_top_and_in_functions_but_not_for_type_checking() -> None:
    source = """
import p.a, os
from p import b, name
from p.c import d
if TYPE_CHECKING:
    from p.e import x
else:
    from p.f import x
def function():
    import p.g
    if typing.TYPE_CHECKING:
        import p.h
"""
    modules = {"p", *(f"p.{letter}" for letter in "abcdefgh")}
    assert imported_modules(ast.parse(source), modules) == {"p", "p.a", "p.b", "p.c", "p.f", "p.g"}


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    """An import inside a function counts: it only hides a cycle."""
    assert cycles(module_graph()) == []
