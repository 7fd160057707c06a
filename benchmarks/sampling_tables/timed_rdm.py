"""`rdm` with its parts timed: `python timed_rdm.py SPANS.json sample ...` writes the spans of the process to a file."""

from __future__ import annotations

import time

BEGIN = time.monotonic()

import builtins  # noqa: E402, after the first reading of the clock
import importlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from spans import Recorder  # noqa: E402

FUNCTIONS = (
    ("rdm_jax.bundle", "Bundle.open", "loading"),
    ("rdm_jax.generator", "Generator.load", "loading"),
    ("rdm_jax.retrieval.mixture", "Mixture.open", "loading"),
    ("rdm_jax.planning", "Planner._encode", "text encoder"),
    ("rdm_jax.planning", "open_retriever", "retrieval"),
    ("rdm_jax.retrieval.retriever", "Retriever.retrieve", "retrieval"),
    ("rdm_jax.heads.diffusion.program", "DiffusionProgram.start", "noise"),
    ("rdm_jax.heads.diffusion.program", "DiffusionProgram.advance", "denoiser"),
    ("rdm_jax.heads.diffusion.program", "DiffusionProgram.finish", "decoder"),
    ("rdm_jax.heads.diffusion.program", "DiffusionProgram.preview", "previews"),
    ("rdm_jax.cli.writer", "Writer._write", "file writing"),
    ("rdm_jax.cli.writer", "Writer.write_record", "file writing"),
    ("rdm_jax.cli.writer", "write_sheets", "sheets"),
    ("rdm_jax.cli.rendering", "_rendition", "SVG"),  # the colors of the database
)
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
    "/jax/core/compile/backend_compile_duration": "compilation",
}


def time_imports(recorder: Recorder) -> None:
    """Records every import statement that no other one has caused."""
    original, depth = builtins.__import__, 0

    def imported(*arguments: Any, **options: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            if depth > 1:
                return original(*arguments, **options)
            with recorder.part("imports"):
                return original(*arguments, **options)
        finally:
            depth -= 1

    builtins.__import__ = imported


def time_functions(recorder: Recorder) -> None:
    """Records the calls of `FUNCTIONS`, of what writes previews and of what traces images to SVG."""
    for module, name, part in FUNCTIONS:
        path = name.split(".")
        owner = importlib.import_module(module)
        for step in path[:-1]:
            owner = getattr(owner, step)
        recorder.patch(owner, path[-1], part)
    from rdm_jax.cli.watch import Terminal
    from rdm_jax.core.rendition import Rendition

    plain = Rendition.apply
    traced = recorder.timed("SVG", plain)
    Rendition.apply = lambda self, image: (plain if self.is_plain else traced)(self, image)
    make = Terminal.previews

    def previews(self: Terminal, *arguments: Any) -> Any:
        write = make(self, *arguments)
        return write and recorder.timed("previews", write)

    Terminal.previews = previews  # pyright: ignore[reportAttributeAccessIssue]


def time_compilation(recorder: Recorder) -> None:
    """Records what JAX traces, compiles or reads from its cache."""
    import jax

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in EVENTS:
            now = time.monotonic()
            recorder.add(EVENTS[event], now - duration_secs, now)

    jax.monitoring.register_event_duration_secs_listener(listen)


def main() -> int:
    """Runs `rdm` and writes the spans."""
    file, *arguments = sys.argv[1:]
    recorder = Recorder()
    time_imports(recorder)
    from rdm_jax.cli.main import program, set_environment

    set_environment()  # before JAX is imported
    with recorder.part("imports"):
        time_functions(recorder)
        time_compilation(recorder)
    status = program(arguments)
    Path(file).write_text(json.dumps({"begin": BEGIN, "end": time.monotonic(), "spans": recorder.spans}))
    return status


if __name__ == "__main__":
    sys.exit(main())
