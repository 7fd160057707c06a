"""Installs the wheel of dist/ in fresh environments, and tests in each what it is for.

python tests/packaging/environments.py                    without an extra, and each extra alone
python tests/packaging/environments.py svg map            these extras, each alone; "plain" is none
python tests/packaging/environments.py --oldest           with the oldest versions that setup.py allows
python tests/packaging/environments.py --pythons plain    under every Python that setup.py names and that is here
python tests/packaging/environments.py --platforms        looks for wheels for other platforms; installs nothing

The tests are this checkout's, the installed wheel is what its other code imports. An environment is removed when it is
tested, and kept where it failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import email.message
import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from uses import PLAIN, USES, Use

ROOT = Path(__file__).parents[2]
RUNNER = (
    "pytest",
    "pytest-xdist",
    "beartype",
    "hypothesis",
)  # what any test of this repository needs, of the extra "test"
# A macOS that faiss has wheels for; tensorflow-datasets requires promise, which is sources of plain Python.
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin")
DEPLOYMENT_TARGET = "14.0"
SOURCES_ALONE = "promise"


class Failure(Exception):
    """Something that does not install, or fails there; the message says what."""


def run(words: Sequence[str | Path], folder: Path = ROOT, **variables: str) -> str:
    """Returns what a program writes.

    Raises:
      Failure: it fails; the end of what it wrote is the message.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failure(f"{' '.join(map(str, words))[:200]}\n{done.stdout[-6000:]}")
    return done.stdout


def uv(*words: str | Path, **variables: str) -> str:
    """Returns what uv writes."""
    return run([sys.executable, "-m", "uv", "--no-python-downloads", *words], **variables)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A wheel and what its metadata says.

    Attributes:
      wheel: the file.
      metadata: of it.
    """

    wheel: Path
    metadata: email.message.Message

    @staticmethod
    def of(folder: Path) -> Distribution:
        """Returns the only wheel of a folder."""
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            sys.exit(f"{folder} holds {len(wheels)} wheels; run make package")
        with zipfile.ZipFile(wheels[0]) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return Distribution(wheels[0], email.parser.Parser().parsestr(archive.read(name).decode()))

    @property
    def extras(self) -> list[str]:
        """The extras."""
        return self.metadata.get_all("Provides-Extra", [])

    @property
    def pythons(self) -> list[str]:
        """The versions of Python that it names as tested, the oldest first."""
        found = [re.search(r":: Python :: (3\.\d+)$", line) for line in self.metadata.get_all("Classifier", [])]
        return sorted((match[1] for match in found if match), key=Version)

    def requirements(self, extra: str, python: str) -> Iterator[Requirement]:
        """Yields what an extra requires beside what all installations do; PLAIN is these."""
        for line in self.metadata.get_all("Requires-Dist", []):
            requirement = Requirement(line)
            here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
            holds = [
                not requirement.marker or requirement.marker.evaluate({**here, "extra": e}) for e in (PLAIN, extra)
            ]
            if holds == ([True, True] if extra == PLAIN else [False, True]):
                yield requirement


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment with one extra.

    Attributes:
      folder: where it is made.
      distribution: what is installed.
      extra: its name, or PLAIN.
      python: the version of Python.
      oldest: whether the oldest allowed versions are installed.
      imports_alone: whether no tests and no code are run.
    """

    folder: Path
    distribution: Distribution
    extra: str
    python: str
    oldest: bool
    imports_alone: bool = False

    def test(self) -> str:
        """Installs everything and tests it; returns the last line of the tests, and raises Failure."""
        use = USES[self.extra]
        self._install()
        if self.oldest:
            self._check_bounds()
        for package in use.without:
            uv("pip", "uninstall", "--python", self._program, package)
        imports = "".join(f"import {module}\n" for module in ("rdm_jax", *use.modules))
        self._run_code(imports if self.imports_alone else imports + use.code)
        return self._run_tests(use) if use.tests and not self.imports_alone else "imported"

    @property
    def _program(self) -> Path:
        return self.folder / "bin/python"

    def _install(self) -> None:
        """Installs the requirements, of which setup.py holds the versions, and then the wheel, which adds none."""
        uv("venv", "--quiet", "--clear", "--python", self.python, self.folder)
        resolution = "lowest-direct" if self.oldest else "highest"
        extra = [] if self.extra == PLAIN else ["--extra", self.extra]
        place = ["--quiet", "--python", self._program]
        uv("pip", "install", *place, "--resolution", resolution, *extra, "--requirement", ROOT / "setup.py")
        uv("pip", "install", *place, "--no-deps", self.distribution.wheel)
        uv("pip", "check", *place)

    def _check_bounds(self) -> None:
        """Raises Failure for a lower bound of setup.py that no environment has: it would never be tested."""
        listed = json.loads(uv("pip", "list", "--quiet", "--format", "json", "--python", self._program))
        installed = {canonicalize_name(one["name"]): Version(one["version"]).public for one in listed}
        wrong = []
        for requirement in self.distribution.requirements(self.extra, self.python):
            bounds = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
            version = installed[canonicalize_name(requirement.name)]
            if [Version(bound) for bound in bounds] != [Version(version)]:
                wrong.append(f"setup.py says {requirement.name}{requirement.specifier}, the oldest here is {version}")
        if wrong:
            raise Failure("\n".join(wrong))

    def _run_code(self, code: str) -> None:
        empty = self.folder / "empty"
        empty.mkdir()
        run([self._program, "-c", code, ROOT], empty, RDM_CACHE=str(empty / "cache"), JAX_PLATFORMS="cpu")

    def _run_tests(self, use: Use) -> str:
        needed = [one for one in self.distribution.requirements("test", self.python) if one.name in RUNNER]
        uv("pip", "install", "--quiet", "--python", self._program, *(f"{one.name}{one.specifier}" for one in needed))
        written = run([self._program, "-m", "pytest", "-q", "-m", "not slow", *use.tests])
        if not re.search(r"\d+ passed", written):
            raise Failure(f"no test ran\n{written[-6000:]}")
        skipped = [line for line in written.splitlines() if line.startswith("SKIPPED")]
        return "\n  ".join([written.splitlines()[-1].strip("= "), *skipped])


def is_here(python: str) -> bool:
    """Returns whether uv finds a version of Python on this machine."""
    try:
        uv("python", "find", python)
    except Failure:
        return False
    return True


def check_environments(args: argparse.Namespace, distribution: Distribution) -> bool:
    """Tests environments one after another and prints a line for each; returns whether all passed."""
    pythons = distribution.pythons if args.pythons else distribution.pythons[:1] if args.oldest else [args.python]
    failed = False
    for python in pythons:
        if not is_here(python):
            print(f"Python {python}: untested, no interpreter is found", flush=True)
            continue
        for extra in args.extras or USES:
            begin = time.monotonic()
            name = f"Python {python}, {extra}{', oldest versions' if args.oldest else ''}"
            folder = args.folder / f"{extra}-{python}{'-oldest' if args.oldest else ''}"
            try:
                line = Environment(folder, distribution, extra, python, args.oldest, args.imports).test()
            except Failure as failure:
                failed, line = True, f"FAILED: {failure}"
            else:
                shutil.rmtree(folder)
            print(f"{name}: {line} ({time.monotonic() - begin:.0f} s)", flush=True)
    return not failed


def check_platforms(distribution: Distribution) -> bool:
    """Prints for each Python and platform whether every requirement has a wheel there; returns whether all have."""
    failed = False
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"rdm_jax @ {distribution.wheel.resolve().as_uri()}")
        file.flush()
        for python in distribution.pythons:
            for platform in PLATFORMS:
                where = ["--python-version", python, "--python-platform", platform]
                wheels = ["--only-binary", ":all:", "--no-binary", SOURCES_ALONE]
                try:
                    found = uv(
                        "pip", "compile", "--no-header", "--no-annotate", *where, *wheels, file.name,
                        MACOSX_DEPLOYMENT_TARGET=DEPLOYMENT_TARGET,
                    )  # fmt: skip
                except Failure as failure:
                    failed, line = True, f"FAILED: {failure}"
                else:
                    line = ", ".join(re.findall(r"^(?:jaxlib|scann|faiss-cpu)==[\d.]+", found, re.MULTILINE))
                print(f"Python {python} on {platform}: {line}", flush=True)
    return not failed


def main() -> None:
    """Tests what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(USES)}")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder of the wheel (dist)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-extras", help="where environments are made")
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="its version")
    parser.add_argument("--oldest", action="store_true", help="the oldest allowed versions, and the oldest Python")
    parser.add_argument("--pythons", action="store_true", help="every version of Python that setup.py names")
    parser.add_argument("--imports", action="store_true", help="install and import alone, without tests")
    parser.add_argument("--platforms", action="store_true", help="look for wheels for other platforms")
    args = parser.parse_args()
    if unknown := set(args.extras) - set(USES):
        parser.error(f"no extra {', '.join(sorted(unknown))}; there are {', '.join(USES)}")
    distribution = Distribution.of(args.dist)
    if set(distribution.extras) != set(USES) - {PLAIN}:
        parser.error("tests/packaging/uses.py does not name the extras of setup.py")
    passed = check_platforms(distribution) if args.platforms else check_environments(args, distribution)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
