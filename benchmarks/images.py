"""How many images of style_scenes one process renders per second, by style.

python benchmarks/images.py --images 1200
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict

from machine import machine

from rdm_jax.data.style_scenes.builder import example


def measure(split: str, count: int) -> dict[str, list[float]]:
    """Returns the seconds of each image of a split, by style."""
    seconds = defaultdict(list)
    for index in range(count):
        begin = time.perf_counter()
        style = example(split, index)["style"]
        seconds[style].append(time.perf_counter() - begin)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Returns the results as a Markdown table."""
    every = [value for values in seconds.values() for value in values]
    return "\n".join(
        [
            f"{len(every)} images by one process; {machine()}",
            "",
            "| style | median, ms | images per second |",
            "|---|---|---|",
            *(
                f"| {name} | {1e3 * statistics.median(values):.2f} | {1 / statistics.mean(values):.0f} |"
                for name, values in (*sorted(seconds.items()), ("all", every))
            ),
        ]
    )


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=2400)
    args = parser.parse_args()
    measure("test", 300)  # so that what is computed once, such as sheets of noise, is not counted
    print(table(measure(args.split, args.images)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
