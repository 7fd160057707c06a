"""The package's modules, what each imports, and the floors that its folders stand on."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rdm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    ("core",),
    ("diffusion", "models"),
    ("parts",),
    ("bundle", "data"),
    ("factory", "convert", "retrieval"),
    ("guidance", "conditioning", "request"),
    ("heads",),
    ("planning", "generator", "result"),
    ("editing", "sweep"),
    ("evaluation",),
    ("training",),
    ("report", "sharing"),
    ("ablation",),
    ("__main__", "cli", "studio"),
)
"""Folders and modules of the package, from the ground up: imports go down, or stay on a floor."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def top_level(file: Path) -> str:
    """Returns the folder under the package that a file is in, or the module at its top."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(file: Path) -> str:
    """Returns the dotted name of a file's module; a package has the name of its folder."""
    parts = (PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, modules: set[str]) -> set[str]:
    """Returns the modules of the package that a file imports, also inside functions, but not for type checking."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node = ast.Module(node.orelse, [])
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from rdm_jax.core import files` imports a module; `from rdm_jax.core.files import sha256` does not.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules if names <= modules else {node.module} | names & modules
        found |= imported_modules(node, modules)
    return found & modules


def module_graph() -> dict[str, set[str]]:
    """Returns {module: modules that it imports} of the package."""
    files = {module_name(file): file for file in FILES}
    return {
        name: imported_modules(ast.parse(file.read_text(encoding="utf-8")), set(files)) for name, file in files.items()
    }


def folder_graph() -> dict[str, set[str]]:
    """Returns {folder: other folders that it imports from}; a module at the top of the package is a folder."""
    graph: dict[str, set[str]] = {name: set() for name in FLOOR}
    for module, imports in module_graph().items():
        here, *there = (name.removeprefix(f"{PACKAGE.name}.").split(".")[0] for name in (module, *sorted(imports)))
        if here in graph:  # the package itself names modules, and imports them late
            graph[here] |= {name for name in there if name in graph and name != here}
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Returns all nodes of a graph that a path of one or more edges leads to."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph[node]
    return seen
