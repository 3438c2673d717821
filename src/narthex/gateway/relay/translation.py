"""What the relay needs of a translation between the client's dialect and the engine's."""

from __future__ import annotations

from typing import Protocol


class Translation(Protocol):
    """Of one request; it has state where the answer is a stream. Any method may raise Trouble."""

    @property
    def path(self) -> str:
        """Of the engine, as "/v1/chat/completions"."""
        ...

    def whole(self, data: bytes) -> bytes:
        """An answer in one piece."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The next whole lines of a stream; what can be told of them already."""
        ...

    def end(self) -> bytes:
        """What is left after the last line."""
        ...

    def content_type(self, stream: bool) -> str:
        """Of the translated answer."""
        ...
