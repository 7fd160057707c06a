"""What each extra of setup.py is for, and what tests it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

PLAIN = "plain"
"""Names the installation without an extra."""


@dataclasses.dataclass(frozen=True)
class Use:
    """What an extra is for.

    Attributes:
      modules: that it brings.
      code: Python that runs in an empty folder, with the wheel and the extra alone; its argument is the repository.
      tests: of this repository that concern it; those that are marked slow are left out.
      without: packages that are removed first.
    """

    modules: tuple[str, ...] = ()
    code: str = ""
    tests: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


EVERY_MODULE = """
import importlib, pkgutil, rdm_jax
for module in pkgutil.walk_packages(rdm_jax.__path__, "rdm_jax."):
    if not module.name.startswith("rdm_jax.studio.page") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
ONE_IMAGE = """
from rdm_jax.cli.main import main
assert main(["train", "--list-configs"]) == 0
assert main(["sample", "a red boat", "--database", "poster", "--steps", "2", "--num-images", "1"]) == 0
"""
# What the marker of setup.py does where ScaNN has no wheel.
FAISS_INSTEAD = """
from pathlib import Path
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval import indexing
from rdm_jax.retrieval.database import Database
general = Database.open("general")
indexing.AUTO_ROWS = 100
assert indexing.make_index(general).engine.name == "faiss"
try:
    indexing.make_index(general, "scann")
except UserError as error:
    assert "ScaNN is not installed" in str(error)
else:
    raise AssertionError("ScaNN was to be refused")
assert main(["database", "merge", "general:1", "--out", "copy"]) == 0
assert main(["database", "tune", "copy"]) == 0
assert Database.open(Path("copy")).manifest["index"]["kind"] == "faiss"
"""
BY_PROCESSES = """
from pathlib import Path
import numpy as np
from PIL import Image
from rdm_jax.cli.main import main
from rdm_jax.retrieval.database import Database
Path("images").mkdir()
for i in range(4):
    Image.fromarray(np.full((16, 16, 3), 60 * i, np.uint8)).save(f"images/{i}.png")
assert main(["database", "build", "images", "--out", "built", "--part-size", "2", "--runner", "dask(workers=2)"]) == 0
assert len(Database.open(Path("built"))) == 4
"""
DEVICES = "import jax; print(jax.devices())"
BUCKETS = """
import fsspec
assert fsspec.get_filesystem_class("gs").__module__.startswith("gcsfs")
"""
PAGES = """
import sys
from sphinx.cmd.build import main
words = ["--quiet", "--fail-on-warning", "--keep-going", "--builder", "dummy", f"{sys.argv[1]}/docs", "site"]
assert main(words) == 0
"""

USES: Mapping[str, Use] = {
    PLAIN: Use(code=EVERY_MODULE + ONE_IMAGE),
    "cuda": Use(("jax_cuda12_plugin", "nvidia.cudnn"), DEVICES),
    "tpu": Use(("libtpu",), DEVICES),
    "beam": Use(("apache_beam",), tests=("tests/retrieval/test_beam.py",)),
    "dask": Use(("dask", "distributed"), BY_PROCESSES, tests=("tests/retrieval/test_dask.py",)),
    "faiss": Use(
        ("faiss",), FAISS_INSTEAD, ("tests/retrieval/test_index.py", "tests/retrieval/test_tune.py"), ("scann",)
    ),
    "svg": Use(("vtracer",), tests=("tests/core/test_tracing.py", "tests/core/test_rendition.py")),
    "gcs": Use(("gcsfs",), BUCKETS, ("tests/core/test_storage.py",)),
    "hub": Use(("huggingface_hub",), tests=("tests/core/test_hub.py", "tests/sharing/test_push.py")),
    "webdataset": Use(("webdataset",), tests=("tests/data/test_tar_source.py",)),
    "datasets": Use(("datasets",), tests=("tests/data/test_datasets_source.py",)),
    "map": Use(("umap",), tests=("tests/retrieval/test_projection.py",)),
    "studio": Use(("gradio", "starlette", "python_multipart"), "import rdm_jax.studio.page.app", ("tests/studio",)),
    "plots": Use(("matplotlib",), tests=("tests/report", "tests/evaluation/test_plots.py")),
    "docs": Use(("sphinx", "myst_parser", "myst_nb", "furo", "sphinx_copybutton"), PAGES),
    "wandb": Use(("wandb",), tests=("tests/training/test_metrics.py",)),
    "test": Use(("pytest", "xdist", "beartype", "hypothesis"), tests=("tests",)),
    "browser": Use(("playwright", "axe_playwright_python")),
    "parity": Use(
        ("torch", "diffusers", "peft"), tests=("tests/parity/test_parity.py", "tests/parity/test_samplers.py")
    ),
}
