"""``Record``: what a fake engine saw, as JSON lines that a test reads while it runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Record:
    """Appends to one file from any number of processes. ``path`` None: nothing is kept."""

    def __init__(self, path: Path | str | None) -> None:
        self._file = (
            os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path is not None else None
        )

    def add(self, event: str, **more: Any) -> None:
        """One line. ``t`` is CLOCK_MONOTONIC, which all processes of a machine share."""
        if self._file is not None:
            row = {"t": time.monotonic(), "event": event, "pid": os.getpid(), **more}
            os.write(self._file, json.dumps(row).encode() + b"\n")


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines so far; one that is being written is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
