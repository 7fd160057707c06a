"""`python -m rdm_jax.data.icons --data-dir DIR`: renders the icons as array_record files, for TFDS to read."""

from __future__ import annotations

import argparse
import sys

import tensorflow_datasets as tfds
from tqdm import tqdm

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons.attribution import FILE
from rdm_jax.data.icons.builder import Icons


def main() -> None:
    """Prepares the set; a finished one is left as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="data", help="where TFDS data sets lie (default: data)")
    parser.add_argument("--config", default="64", choices=[c.name for c in Icons.BUILDER_CONFIGS])
    arguments = parser.parse_args()
    tfds.disable_progress_bar()
    builder = Icons(data_dir=arguments.data_dir, config=arguments.config, file_format="array_record")
    with tqdm(unit="icon") as bar:

        def show(stage: str, done: int, total: int) -> None:
            bar.desc, bar.total = stage, total
            bar.update(done - bar.n)

        builder.progress = show
        try:
            builder.download_and_prepare()
        except UserError as error:
            sys.exit(f"error: {error}")
    for name, split in builder.info.splits.items():
        print(f"{name}: {split.num_examples} images in {builder.data_dir}, sets and licenses in its {FILE}")


if __name__ == "__main__":
    main()
