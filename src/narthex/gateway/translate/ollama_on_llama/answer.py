"""``Answer``: what llama-server says, in Ollama's shape. One class for chats and plain completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import unreadable
from narthex.gateway.translate.lines import DONE, Lines, event_data
from narthex.gateway.translate.moments import Stopwatch, now_text
from narthex.gateway.translate.ollama_on_llama.calls import Calls
from narthex.gateway.translate.ollama_on_llama.pieces import Figures, Piece

BROKEN_OFF = "The engine's answer ended before it was complete."
_encode = msgspec.json.encode

Form = Literal["message", "response"]
"""Where Ollama puts the text: ``/api/chat`` into a message, ``/api/generate`` beside the rest."""


class Answer:
    """A :class:`~narthex.gateway.translate._base.Translation`. ``tops``: how many alternatives of a token
    the client asked for; None: no probabilities at all."""

    def __init__(
        self,
        ask: Ask,
        path: str,
        body: bytes,
        *,
        piece: Callable[[bytes], Piece],
        form: Form,
        tops: int | None,
    ) -> None:
        self.path, self.body, self.failure = path, body, ""
        self._piece, self._form, self._tops, self._model = piece, form, tops, ask.model
        self._watch, self._lines, self._calls = Stopwatch(ask.received), Lines(), Calls()
        self._end: str | None = None
        self._figures = Figures()
        self._closed = False

    def content_type(self, stream: bool) -> str:
        """As Ollama has it."""
        return "application/x-ndjson" if stream else "application/json; charset=utf-8"

    def whole(self, data: bytes) -> bytes:
        """Raises Trouble 502 for what is no answer."""
        try:
            piece = self._piece(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise unreadable("llama-server", data) from None
        if piece.error or piece.end is None:
            raise unreadable("llama-server", data)
        self._calls.add(piece.calls)
        calls, rest = self._calls.told()
        self._end, self._figures = piece.end, piece.figures or self._figures
        line = self._line(piece.text + rest, piece.thinking, calls)
        return _encode({**line, **self._ending(), **self._probabilities(piece)})

    def feed(self, data: bytes) -> bytes:
        """Lines of NDJSON."""
        return b"".join([self._event(line) for line in self._lines.feed(data)])

    def end(self) -> bytes:
        """The last line, where the engine did not mark its end; an error where it broke off."""
        told = b"".join([self._event(line) for line in self._lines.rest()])
        if self._closed:
            return told
        return told + (self._failed(BROKEN_OFF) if self._end is None else self._done())

    def _event(self, line: bytes) -> bytes:
        data = event_data(line)
        if data is None or self._closed:
            return b""
        if data == DONE:
            return self._failed(BROKEN_OFF) if self._end is None else self._done()
        try:
            piece = self._piece(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self._failed(unreadable("llama-server", data).message)
        if piece.error:
            return self._failed(piece.error)
        return self._told(piece)

    def _told(self, piece: Piece) -> bytes:
        told = b""
        if piece.text or piece.thinking:
            line = self._line(piece.text, piece.thinking, [])
            told = _ndjson({**line, "done": False, **self._probabilities(piece)})
        self._calls.add(piece.calls)
        self._figures = piece.figures or self._figures
        if piece.end is not None:
            self._end = piece.end
            calls, rest = self._calls.told()
            if calls or rest:
                told += _ndjson({**self._line(rest, "", calls), "done": False})
        return told

    def _done(self) -> bytes:
        self._closed = True
        return _ndjson({**self._line("", "", []), **self._ending()})

    def _failed(self, words: str) -> bytes:
        self._closed, self.failure = True, words
        return _ndjson({"error": words})

    def _line(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self._model, "created_at": now_text()}
        if self._form == "response":
            line["response"] = text
            return {**line, "thinking": thinking} if thinking else line
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {**line, "message": message}

    def _ending(self) -> dict[str, Any]:
        """Figures that the engine did not tell are left out, as Ollama does."""
        figures = self._figures
        told = {
            "prompt_eval_count": figures.prompt_tokens,
            "prompt_eval_duration": figures.prompt_ns,
            "eval_count": figures.output_tokens,
            "eval_duration": figures.output_ns,
        }
        return {
            "done": True,
            "done_reason": self._end,
            **self._watch.durations(),
            **{name: value for name, value in told.items() if value is not None},
        }

    def _probabilities(self, piece: Piece) -> dict[str, Any]:
        if self._tops is None or not piece.logprobs:
            return {}
        rows = []
        for token in piece.logprobs:
            row: dict[str, Any] = {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
            tops = (token.top_logprobs or [])[: self._tops]
            if tops:
                row["top_logprobs"] = [
                    {"token": top.token, "logprob": top.logprob, "bytes": top.bytes} for top in tops
                ]
            rows.append(row)
        return {"logprobs": rows}


def _ndjson(value: dict[str, Any]) -> bytes:
    return _encode(value) + b"\n"
