"""One sheet of random styles: each row has a real icon, and that and others of its set as a random style draws them.

python benchmarks/icon_styles.py --data-dir data --out docs/images/icons_restyled.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from rdm_jax.core import sheets
from rdm_jax.training.config import load_config
from rdm_jax.training.labels import attribute, one_color_images
from rdm_jax.training.restyling.collection import choose_images, restyled
from rdm_jax.training.tasks.base import training_images


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", default="data", help="where the set `icons/64` is")
    parser.add_argument("--styles", type=int, default=40, help="random styles; two on each row of the sheet")
    parser.add_argument("--icons", type=int, default=7, help="of each style")
    parser.add_argument("--out", type=Path, default=Path("icons_restyled.png"))
    args = parser.parse_args()
    data = load_config("icons/rdm", [f"data.data_dir={args.data_dir}"]).data
    images = training_images(data, data.split, lambda *_: None)
    styles = np.unique(attribute(images, data.style), return_inverse=True)[1]
    chosen = choose_images(styles, one_color_images(images, data.one_color), args.styles, args.icons)
    drawn = restyled(images, chosen, lambda *_: None)
    rows = np.stack([np.concatenate([images.images[of[:1]], made]) for of, made in zip(chosen, drawn, strict=True)])
    pairs = np.concatenate([rows[: args.styles // 2], rows[args.styles // 2 : 2 * (args.styles // 2)]], axis=1)
    Image.fromarray(sheets.grid(pairs)).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
