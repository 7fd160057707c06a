"""Compares what `make package` has built with what git tracks: nothing is missing, and nothing else came along.

python tests/packaging/contents.py dist
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "rdm_jax"
FOLDERS = {PACKAGE: PACKAGE, "configs": f"{PACKAGE}/configs"}
"""Where each folder of the repository lies in the wheel."""


def tracked() -> set[str]:
    """Returns the files of the repository that a wheel holds, by their names in it."""
    listed = subprocess.run(["git", "ls-files", "-z", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name.partition("/") for name in listed.stdout.split("\0") if name]
    return {f"{FOLDERS[top]}/{rest}" for top, _, rest in names}


def in_wheel(wheel: Path) -> set[str]:
    """Returns the files of a wheel, but for its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def in_sdist(sdist: Path) -> set[str]:
    """Returns the files of a source distribution that its wheel holds too, by their names there."""
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2].partition("/") for member in archive if member.isfile()]
    return {f"{FOLDERS[top]}/{rest}" for top, _, rest in names if top in FOLDERS}


def main() -> None:
    """Prints each difference, and fails if there is one."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    expected, wrong = tracked(), []
    for archive, names in ((wheel, in_wheel(wheel)), (sdist, in_sdist(sdist))):
        wrong += [f"{archive.name} lacks {name}" for name in sorted(expected - names)]
        wrong += [f"{archive.name} holds {name}, which git does not track" for name in sorted(names - expected)]
    print("\n".join(wrong) or f"{wheel.name} and {sdist.name} hold the {len(expected)} files that git tracks")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
