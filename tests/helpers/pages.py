"""The pages of the documentation: their code blocks, the commands of a shell block, and the code in their sentences."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)

# What bash runs in place of every program: it writes each word of the call before \x1f, and \x1e after the last.
_WRITE = r"""printf '%s\037' {} >> "$RECORD"; printf '\036' >> "$RECORD"; """
_ANY_NAME = "command_not_found_handle() { " + _WRITE.format('"$@"') + "}\n"
_PROGRAM = f"#!{shutil.which('bash')}\n" + _WRITE.format('"$0" "$@"') + "\n"
_PATH_OF_A_PROGRAM = re.compile(r"^(?:\w+=\S+ )*([\w.-]*(?:/[\w.-]+)+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
      page: its path in the repository.
      line: where its content starts, from 1.
      language: the word after the fence; "indented" for a block without a fence.
      text: the content.
      reason: why it is not run, from a comment `<!-- not run: REASON -->` above it; empty without one.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands that a shell block calls, as words; loops and variables are expanded by bash."""
        return list(_called(self.text))


@functools.cache
def blocks(page: Path, language: str = "") -> tuple[Block, ...]:
    """Returns the code blocks of a page, in order; those of a language if one is named."""
    found, reason = [], ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            word = token.info.split()[0] if token.info.strip() else ""
            kind = "indented" if token.type == "code_block" else word
            line = token.map[0] + 1 + (token.type == "fence")
            found.append(Block(str(page.relative_to(ROOT)), line, kind, token.content, reason))
        note = NOT_RUN.search(token.content) if token.type == "html_block" else None
        reason = " ".join(note[1].split()) if note else ""
    return tuple(block for block in found if language in ("", block.language))


def code_spans(page: Path) -> Iterator[tuple[int, str]]:
    """Yields the code of a page's sentences and tables, each with the line of its paragraph or table row."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield (token.map[0] + 1 if token.map else 0), child.content


def _called(script: str) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # A program that is named by a path exists, unlike all others, which bash finds nowhere.
        for word in set(_PATH_OF_A_PROGRAM.findall(script)):
            program = folder / word
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(_PROGRAM)
            program.chmod(0o755)
        record = folder / "record"
        record.touch()
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", _ANY_NAME + script],
            cwd=folder,
            env={"PATH": "/nowhere", "RECORD": str(record), "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise AssertionError(f"bash does not understand the block: {done.stderr}")
        for call in record.read_text(encoding="utf-8").split("\x1e")[:-1]:
            yield call.split("\x1f")[:-1]
