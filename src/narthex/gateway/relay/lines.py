"""``Lines``: lets whole lines of a stream through at once, and finds the line with which an engine gives up.

The beginning of a line is kept back until its rest is there. No client can use half a line, so nothing comes
later for that; and where the stream breaks, it breaks between two lines, where its end can still be told in
its own dialect.
"""

from __future__ import annotations

from narthex.gateway.relay.figures import Shape

HELD_BYTES = 64 * 1024
"""A longer line goes through in pieces: it is the end of /api/generate with its «context»."""
_MARKS: dict[Shape, tuple[bytes, ...]] = {
    "ndjson": (b'{"error"',),
    "sse": (b'data: {"error"', b"error: {"),  # the second: llama-server of 2024
    "whole": (),
}
_NEWLINE = 10


class Lines:
    """One stream. ``error`` is the engine's error line, None before one came; ``inside``: a part of a line
    has gone through already."""

    __slots__ = ("_after", "_held", "_marks", "error", "inside")

    def __init__(self, shape: Shape) -> None:
        self._marks = _MARKS[shape]
        self._after = tuple(b"\n" + mark for mark in self._marks)
        self._held = b""
        self.inside = False
        self.error: bytes | None = None

    def feed(self, piece: bytes) -> bytes:
        """What of it, and of what was kept back, may go to the client. Nothing does after an error line."""
        if self.inside:
            return self._rest_of_line(piece)
        if self._held:
            piece, self._held = self._held + piece, b""
        if piece and piece[-1] != _NEWLINE:
            piece = self._kept_back(piece)
        return self._searched(piece)

    def end(self) -> bytes:
        """The last line, where it has no newline. After the stream came to its end by itself."""
        piece, self._held = self._held, b""
        return self._searched(piece)

    def _rest_of_line(self, piece: bytes) -> bytes:
        cut = piece.find(b"\n") + 1
        if not cut:
            return piece
        self.inside = False
        return piece[:cut] + (self.feed(piece[cut:]) if cut < len(piece) else b"")

    def _kept_back(self, piece: bytes) -> bytes:
        cut = piece.rfind(b"\n") + 1
        if len(piece) - cut > HELD_BYTES and not piece.startswith(self._marks, cut):
            self.inside = True
            return piece
        self._held = piece[cut:]
        return piece[:cut]

    def _searched(self, piece: bytes) -> bytes:
        at = 0 if piece.startswith(self._marks) else self._find(piece)
        if at < 0:
            return piece
        self.inside = False
        self.error = piece[at:].partition(b"\n")[0]
        return piece[:at]

    def _find(self, piece: bytes) -> int:
        found = [at + 1 for mark in self._after if (at := piece.find(mark)) >= 0]
        return min(found, default=-1)
