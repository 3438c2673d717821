"""``Translation``: one request in another dialect, and the way back for its answer."""

from __future__ import annotations

from typing import Protocol


class Translation(Protocol):
    """Made for one request. ``path`` and ``body`` go to the engine; a plain answer then goes through
    :meth:`whole`, a stream through :meth:`feed` and, where it ends by itself, :meth:`end`.
    """

    path: str
    body: bytes
    failure: str  # the engine's own words, where it failed inside an answer that had begun; else ""

    def whole(self, data: bytes) -> bytes:
        """The answer that is no stream. Raises Trouble 502 where it can't be read."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What can be told after these bytes, which may be cut anywhere."""
        ...

    def end(self) -> bytes:
        """What is left to tell. A failure where the engine stopped in the midst."""
        ...

    def content_type(self, stream: bool) -> str:
        """Of the answer to the client."""
        ...
