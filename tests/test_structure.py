"""The house's walls: imports go downward only, and heavy or optional packages stay in their rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rdm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"core"},
    {"diffusion", "models"},
    {"parts"},
    {"bundle", "data"},
    {"factory", "retrieval", "convert"},
    {"request", "conditioning", "guidance"},
    {"heads"},
    {"generator"},
    {"editing"},
    {"evaluation"},
    {"training"},
    {"cli", "studio", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WALLS = {
    ("diffusion", "models"),
    ("models", "diffusion"),
    ("retrieval", "diffusion"),
    ("diffusion", "retrieval"),
    ("training", "evaluation"),
}
CONFINED = {
    "torch": {"convert"},
    "scann": {"retrieval"},
    "apache_beam": {"retrieval"},
    "gradio": {"studio"},
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
            # `from rdm_jax import generator` imports the room that it names.
            modules = [node.module]
            if node.module == "rdm_jax":
                modules = [f"rdm_jax.{alias.name}" for alias in node.names if alias.name != "__version__"]
            found += [(module, id(node) in top) for module in modules]
    return found


def room(file: Path) -> str:
    """Returns the room a file is in: the folder under the package, or the module at its top."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_downward(file: Path) -> None:
    here = room(file)
    if here == "__init__":  # the public face names the rooms, and imports them late
        return
    assert here in FLOOR, f"{here} has no floor in this test; give it one"
    for module, _ in imports(file):
        parts = module.split(".")
        if parts[0] != "rdm_jax" or len(parts) < 2:
            continue
        there = parts[1]
        assert FLOOR[there] <= FLOOR[here], f"{here} imports upward from {there}"
        assert (here, there) not in WALLS, f"{here} imports through the wall to {there}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_optional_packages_stay_in_their_rooms(file: Path) -> None:
    for module, top in imports(file):
        allowed = CONFINED.get(module.split(".")[0])
        if allowed is not None:
            assert room(file) in allowed, f"{module} is imported outside {allowed}"
            assert not top, f"{module} is imported at the top of {file.name}; import it in the function that needs it"


@pytest.mark.parametrize("file", [f for f in FILES if room(f) == "heads"], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_heads_do_not_import_each_other(file: Path) -> None:
    parts = file.relative_to(PACKAGE).parts
    own = parts[1] if len(parts) > 2 else None
    heads = {
        folder.name for folder in (PACKAGE / "heads").iterdir() if folder.is_dir() and folder.name != "__pycache__"
    }
    for module, _ in imports(file):
        there = module.removeprefix("rdm_jax.heads.").split(".")[0] if module.startswith("rdm_jax.heads.") else None
        assert there not in heads - {own}, f"{file.name} imports the head {there}"


def test_one_file_imports_scann() -> None:
    users = [file.name for file in FILES if any(m.split(".")[0] == "scann" for m, _ in imports(file))]
    assert users == ["scann_index.py"]
