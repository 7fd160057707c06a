"""The event files of TensorBoard."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


class Board:
    """Writes scalars and images.

    It writes in the thread that calls it. tensorboardX's own writer has a thread whose errors nobody sees, and waits
    for it forever once the disk is full.

    Args:
      folder: gets a file of its own for each start of a run.
      first: the next step; values of it and of later ones in the folder's older files do not count.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._proto: Any = event_pb2
        self._file = (folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}").open("ab")
        self._add(0, file_version="brain.Event:2")
        self._add(first, session_log=self._proto.SessionLog(status=self._proto.SessionLog.START))

    def scalar(self, step: int, name: str, value: float) -> None:
        """Adds a value of a step."""
        from tensorboardX import summary

        self._add(step, summary=summary.scalar(name, value))

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Adds an image of a step."""
        from tensorboardX import summary

        self._add(step, summary=summary.image(name, image, dataformats="HWC"))

    def flush(self) -> None:
        """Writes what was added to the disk; raises OSError if it cannot be written."""
        self._file.flush()

    def close(self) -> None:
        """Does the same, and closes the file."""
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.record_writer import masked_crc32c

        event = self._proto.Event(wall_time=time.time(), step=step, **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        for part in (length, event):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))
