"""``Calls``: tool calls, put together from the parts that a stream brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from narthex.gateway.translate.ollama_on_llama.pieces import CallPart

_arguments = msgspec.json.Decoder(dict[str, Any])


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class Calls:
    """Those of one answer."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}

    def add(self, parts: Sequence[CallPart]) -> None:
        """Parts of a chunk, or whole calls without an index."""
        for place, part in enumerate(parts):
            call = self._calls.setdefault(place if part.index is None else part.index, _Call())
            call.id = call.id or part.id or ""
            call.name += part.function.name or ""
            call.arguments += part.function.arguments or ""

    def told(self) -> tuple[list[dict[str, Any]], str]:
        """The calls in Ollama's shape, and as text what was to become one: an answer that is cut off by its
        limit may end inside a call. Both are told once."""
        calls: list[dict[str, Any]] = []
        rest = ""
        for call in self._calls.values():
            try:
                arguments = _arguments.decode(call.arguments or "{}")
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                rest += f'{{"name": "{call.name}", "arguments": {call.arguments}'
                continue
            function = {"index": len(calls), "name": call.name, "arguments": arguments}
            calls.append({**({"id": call.id} if call.id else {}), "function": function})
        self._calls.clear()
        return calls, rest
