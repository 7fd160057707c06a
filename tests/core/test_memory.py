"""Memory that was freed goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rdm_jax.core import memory

SIZE, COUNT = 2**12, 2**14  # pieces too small to be mapped on their own: 64 MB


def resident() -> int:
    """Returns the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pieces_under_one_that_is_in_use_are_given_back():
    before = resident()
    pieces = [bytearray(SIZE) for _ in range(COUNT)]
    last = bytearray(SIZE)  # holds the end of the heap, so that freeing alone cannot shrink it
    del pieces
    memory.release()
    assert resident() - before < SIZE * COUNT / 2 and len(last) == SIZE


@pytest.mark.parametrize("library", [SimpleNamespace(), OSError("none")], ids=["without it", "that cannot be opened"])
def test_another_c_library_is_left_alone(monkeypatch, library):
    def opened(_):
        if isinstance(library, Exception):
            raise library
        return library

    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", opened)
    assert memory._trim() is None
    memory.release()
    memory._trim.cache_clear()
