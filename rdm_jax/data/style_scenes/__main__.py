"""`python -m rdm_jax.data.style_scenes --data-dir DIR`: draws the whole set as array_record files, for TFDS to read."""

from __future__ import annotations

import argparse
import logging

import tensorflow_datasets as tfds

from rdm_jax.data.style_scenes.builder import StyleScenes


def main() -> None:
    """Prepares the set; a finished one is left as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="data", help="where TFDS data sets lie (default: data)")
    parser.add_argument("--config", default="full", choices=[c.name for c in StyleScenes.BUILDER_CONFIGS])
    arguments = parser.parse_args()
    tfds.disable_progress_bar()
    logger = logging.getLogger("rdm_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False  # other packages have a handler for all
    builder = StyleScenes(data_dir=arguments.data_dir, config=arguments.config, file_format="array_record")
    builder.download_and_prepare()
    for name, split in builder.info.splits.items():
        print(f"{name}: {split.num_examples} images in {builder.data_dir}")


if __name__ == "__main__":
    main()
