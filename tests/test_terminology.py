"""The repository uses the terms of the field: no word of tests/terminology.toml where that file does not allow it."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCANNED = (
    "rdm_jax",
    "tests",
    "configs",
    "docs",
    "benchmarks",
    "launch",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
SUFFIXES = {".py", ".md", ".sh", ".toml"}
OWN = {"tests/terminology.toml", "tests/test_terminology.py"}
GLOSSARY = ("CONTRIBUTING.md", "## Words")  # the section that lists the words; it is the last one


@dataclasses.dataclass(frozen=True)
class Term:
    """Words that are not used.

    Attributes:
      pattern: matches them.
      write: what to write instead.
      allowed: globs of files where they have their literal meaning.
    """

    pattern: re.Pattern[str]
    write: str
    allowed: tuple[str, ...]


def make_term(patterns: list[str], write: str, case: bool = False, allowed: tuple[str, ...] = ()) -> Term:
    """Returns a term; letters on either side make a match a part of another word, underscores do not."""
    spaced = "|".join(patterns).replace(" ", r"(?:_|\s(?:\s|#)*)")
    flags = re.NOFLAG if case else re.IGNORECASE
    return Term(re.compile(rf"(?<![A-Za-z])(?:{spaced})(?![A-Za-z])", flags), write, tuple(allowed))


TERMS = [make_term(**entry) for entry in tomllib.loads((ROOT / "tests/terminology.toml").read_text())["term"]]


def tracked_files() -> list[str]:
    """Returns the paths of the scanned files, those that git tracks where there is a repository."""
    listed = subprocess.run(["git", "ls-files", *SCANNED], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        paths = listed.stdout.splitlines()
    else:
        places = [ROOT / name for name in SCANNED]
        found = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
        paths = [path.relative_to(ROOT).as_posix() for path in found]
    return sorted(
        path for path in paths if Path(path).suffix in SUFFIXES and path not in OWN and (ROOT / path).is_file()
    )


def occurrences(path: str, text: str, terms: list[Term]) -> Iterator[tuple[int, str, Term]]:
    """Yields (line, words, term) for each occurrence of a term in a file where it is not allowed."""
    for term in terms:
        if any(fnmatch.fnmatchcase(path, glob) for glob in term.allowed):
            continue
        for match in term.pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), term


def scanned_text(path: str) -> str:
    """Returns the content of a file without the glossary."""
    text = (ROOT / path).read_text()
    file, heading = GLOSSARY
    return text.partition(f"\n{heading}\n")[0] if path == file else text


@pytest.mark.slow
def test_the_repository_uses_the_terms_of_the_field() -> None:
    lines = [
        f"{path}:{line}: {words!r}; write {term.write}"
        for path in tracked_files()
        for line, words, term in sorted(occurrences(path, scanned_text(path), TERMS), key=lambda hit: hit[0])
    ]
    assert not lines, f"{len(lines)} words of tests/terminology.toml:\n" + "\n".join(lines)


def test_the_glossary_is_a_section_of_its_file() -> None:
    file, heading = GLOSSARY
    assert f"\n{heading}\n" in (ROOT / file).read_text()


def test_every_allowed_glob_matches_a_file_that_uses_the_word() -> None:
    paths = tracked_files()
    for term in TERMS:
        for glob in term.allowed:
            texts = [scanned_text(path) for path in paths if fnmatch.fnmatchcase(path, glob)]
            assert any(term.pattern.search(text) for text in texts), f"{glob} needs no exception; remove it"


@pytest.mark.parametrize(
    ("patterns", "text", "lines"),
    [
        (["told"], "told\nretold untolds told_by was_told", [1, 2, 2]),
        (["is asked"], "it is asked; is_asked\n# what is\n# asked", [1, 1, 2]),
        (["Bend"], "bend Bend Bends", [1, 1]),
        (["neighbour[a-z]*"], "Neighbours, neighbor, neighboured", [1, 1]),
    ],
)
def test_terms_match_whole_words_also_over_lines_and_underscores(
    patterns: list[str], text: str, lines: list[int]
) -> None:
    hits = occurrences("file.py", text, [make_term(patterns, "another word")])
    assert [line for line, _, _ in hits] == lines


def test_an_identifier_may_differ_in_case_alone() -> None:
    term = make_term(["Bend"], "GuidanceMethod", case=True)
    assert [line for line, _, _ in occurrences("file.py", "bend\nBend", [term])] == [2]


def test_an_allowed_file_may_use_a_word() -> None:
    term = make_term(["draw"], "generate", allowed=("rdm_jax/data/style_scenes/*",))
    assert not list(occurrences("rdm_jax/data/style_scenes/styles/brush.py", "draw", [term]))
    assert len(list(occurrences("rdm_jax/data/sources.py", "draw", [term]))) == 1
