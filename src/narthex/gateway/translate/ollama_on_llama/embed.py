"""``/api/embed`` and ``/api/embeddings`` on ``/v1/embeddings``."""

from __future__ import annotations

import math

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.offer import Upstream
from narthex.gateway.translate.fields import bad, encode, read, unreadable
from narthex.gateway.translate.moments import Stopwatch


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _Row(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Row]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Embeddings).decode
_numbers = msgspec.json.Decoder(list[float]).decode


def embed(ask: Ask, upstream: Upstream) -> Embedding:
    """Raises Trouble 400."""
    former = ask.path == "/api/embeddings"
    name = "prompt" if former else "input"
    given = read(ask, name, str if former else str | list[str], "a text" if former else "texts")
    texts: list[str] = ([given] if given else []) if isinstance(given, str) else given or []
    dimensions = None if former else read(ask, "dimensions", int, "a whole number")
    if dimensions is not None and dimensions < 0:
        raise bad(f"«dimensions» is {dimensions}.", "Leave it out for all of them.")
    return Embedding(ask, upstream, texts, dimensions=dimensions or None, former=former)


class Embedding:
    """A :class:`~narthex.gateway.translate._base.Translation`. ``former``: Ollama's old route, with one text
    and no figures. Nothing to embed gives no embeddings, as with Ollama."""

    path = "/v1/embeddings"

    def __init__(
        self, ask: Ask, upstream: Upstream, texts: list[str], *, dimensions: int | None, former: bool
    ) -> None:
        self.failure = ""
        asked = {"input": texts or [""], "encoding_format": "float"}
        self.body = encode({"model": upstream.model, **asked} if upstream.model else asked)
        self._model, self._count = ask.model, len(texts)
        self._dimensions, self._former = dimensions, former
        self._watch = Stopwatch(ask.received)

    def content_type(self, stream: bool) -> str:
        """Never a stream."""
        return "application/json; charset=utf-8"

    def whole(self, data: bytes) -> bytes:
        """Raises Trouble 502 for what is no answer."""
        try:
            found = _decode(data)
            rows = sorted(found.data, key=lambda row: row.index)[: self._count]
            vectors = [self._cut(row.embedding) for row in rows]
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise unreadable("llama-server", data) from None
        if len(vectors) < self._count:
            raise unreadable("llama-server", data)
        if self._former:
            return msgspec.json.encode({"embedding": vectors[0] if vectors else []})
        answer = {"model": self._model, "embeddings": vectors, **self._watch.durations()}
        if self._count and found.usage is not None and found.usage.prompt_tokens is not None:
            answer["prompt_eval_count"] = found.usage.prompt_tokens
        return msgspec.json.encode(answer)

    def feed(self, data: bytes) -> bytes:
        """Never a stream."""
        return data

    def end(self) -> bytes:
        """Never a stream."""
        return b""

    def _cut(self, vector: msgspec.Raw) -> msgspec.Raw | list[float]:
        """The first dimensions, of length 1 again, as Ollama cuts."""
        if self._dimensions is None:
            return vector
        numbers = _numbers(vector)[: self._dimensions]
        length = math.sqrt(math.fsum(number * number for number in numbers))
        return [number / length for number in numbers] if length else numbers
