"""``Lines``: whole lines out of bytes that are cut anywhere."""

from __future__ import annotations

_DATA = b"data:"
_OLD_ERROR = b"error:"  # llama-server up to 2025 put a failure there, in a stream
DONE = b"[DONE]"


class Lines:
    """A line ends with LF or CR LF. A cut inside a letter does no harm: lines are bytes until they are
    whole."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends; empty ones are left out."""
        first, found, tail = data.partition(b"\n")
        if not found:
            self._rest.append(data)
            return []
        lines = [b"".join((*self._rest, first)), *tail.split(b"\n")]
        self._rest = [lines.pop()]
        return [line for each in lines if (line := each.strip())]

    def rest(self) -> list[bytes]:
        """The last line, where nothing ended it."""
        line, self._rest = b"".join(self._rest).strip(), []
        return [line] if line else []


def event_data(line: bytes) -> bytes | None:
    """What a line of an SSE stream carries; None for its other lines."""
    if line.startswith(_DATA):
        return line[len(_DATA) :].strip()
    if line.startswith(_OLD_ERROR):
        return b'{"error":' + line[len(_OLD_ERROR) :].strip() + b"}"
    return None
