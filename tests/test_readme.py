"""What the README shows runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.retrieval.database import Database
from tests.helpers import pages

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_runs_as_printed() -> None:
    (example,) = (block.text for block in pages.blocks(ROOT / "README.md", "python"))
    # In a process of its own: here every annotation is checked, and an integer is no float.
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0] == "(4, 64, 64, 3)"
    assert [len(re.findall(r"\d+", row)) for row in printed[1:]] == [3] * 4  # the ids of three neighbors of each image


def test_what_ships_is_what_the_readme_names() -> None:
    assert Bundle.names() == ["icons", "style-scenes", "style-scenes-fast", "style-scenes-rarm"]
    assert all(f"`{name}`" in README for name in Bundle.names())
    named = set(re.findall(r"--database ([a-z_/-]+)", README)) - {"my_style", "my_sd_style", "my-icons/"}
    assert named and named <= set(Database.names())


def test_what_ships_is_small_enough() -> None:
    size = sum(file.stat().st_size for file in (ROOT / "rdm_jax/assets").rglob("*") if file.is_file())
    assert size < 92e6
