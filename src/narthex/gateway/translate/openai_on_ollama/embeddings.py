"""``/v1/embeddings`` on ``/api/embed``."""

from __future__ import annotations

import array
import base64
import sys
from typing import Any, Literal

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, not_mappable, read, unreadable

Form = Literal["float", "base64"]


class _Embedded(msgspec.Struct):
    embeddings: list[msgspec.Raw]
    prompt_eval_count: int = 0


_decode = msgspec.json.Decoder(_Embedded).decode
_numbers = msgspec.json.Decoder(list[float]).decode


def embedding_fields(ask: Ask) -> tuple[dict[str, Any], Form]:
    """The fields, and how the client wants its numbers: its library asks for base64 by itself. Raises Trouble
    400."""
    given = read(ask, "input", Any, "a text or a list of texts")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise bad("«input» must be a text or a list of texts.", "Send what is to be embedded.")
    if not all(isinstance(text, str) for text in texts):
        raise not_mappable("An input of tokens can't be given to Ollama.", "Send it as text.")
    fields: dict[str, Any] = {"input": texts}
    if dimensions := read(ask, "dimensions", int, "a whole number"):
        fields["dimensions"] = dimensions
    form = read(ask, "encoding_format", str, "float or base64") or "float"
    if form not in ("float", "base64"):
        raise bad(f"«encoding_format» is «{form[:40]}».", "It can be float or base64.")
    return fields, "base64" if form == "base64" else "float"


class Embeddings:
    """A :class:`~narthex.gateway.translate._base.Translation`."""

    path = "/api/embed"

    def __init__(self, ask: Ask, body: bytes, form: Form) -> None:
        self.body, self.failure = body, ""
        self._model, self._form = ask.model, form

    def content_type(self, stream: bool) -> str:
        """Never a stream."""
        return "application/json"

    def whole(self, data: bytes) -> bytes:
        """Raises Trouble 502 for what is no answer."""
        try:
            found = _decode(data)
            rows = [
                {"object": "embedding", "embedding": self._written(vector), "index": place}
                for place, vector in enumerate(found.embeddings)
            ]
        except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError):
            raise unreadable("Ollama", data) from None
        count = found.prompt_eval_count
        usage = {"prompt_tokens": count, "total_tokens": count}
        return msgspec.json.encode({"object": "list", "data": rows, "model": self._model, "usage": usage})

    def feed(self, data: bytes) -> bytes:
        """Never a stream."""
        return data

    def end(self) -> bytes:
        """Never a stream."""
        return b""

    def _written(self, vector: msgspec.Raw) -> msgspec.Raw | str:
        """The bytes that came, or in base64: 32 bits each, the lowest byte first."""
        if self._form == "float":
            return vector
        numbers = array.array("f", _numbers(vector))
        if sys.byteorder == "big":
            numbers.byteswap()
        return base64.b64encode(numbers.tobytes()).decode()
