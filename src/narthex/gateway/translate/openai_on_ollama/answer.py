"""``Answer``: what Ollama says on ``/api``, in OpenAI's shape: chats and plain completions."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import unreadable
from narthex.gateway.translate.lines import Lines
from narthex.gateway.translate.openai_on_ollama import probabilities
from narthex.gateway.translate.openai_on_ollama.said import Call, Said, decode
from narthex.gateway.translate.upstream_words import words_in

_encode = msgspec.json.encode
_DONE = b"data: [DONE]\n\n"


class Answer:
    """A :class:`~narthex.gateway.translate._base.Translation`. ``usage``: the client wants the figures at the
    end of a stream."""

    def __init__(self, ask: Ask, path: str, body: bytes, *, chat: bool, usage: bool) -> None:
        self.path, self.body, self.failure = path, body, ""
        self._chat, self._usage = chat, usage
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "text_completion" if not chat else "chat.completion",
            "created": int(time.time()),
            "model": ask.model,
            "system_fingerprint": "fp_ollama",
        }
        self._chunk_head = {**self._head, "object": "chat.completion.chunk"} if chat else self._head
        self._lines, self._letters, self._calls = Lines(), 0, 0
        self._begun = self._closed = False

    def content_type(self, stream: bool) -> str:
        """As Ollama's own ``/v1`` has it."""
        return "text/event-stream" if stream else "application/json"

    def whole(self, data: bytes) -> bytes:
        """Raises Trouble 502 for what is no answer."""
        try:
            said = decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise unreadable("Ollama", data) from None
        if said.error is not None:
            raise unreadable("Ollama", data)
        words: dict[str, Any] = {"text": said.text}
        if self._chat:
            message: dict[str, Any] = {"role": "assistant", "content": said.text}
            if said.thought:
                message["reasoning"] = said.thought
            if said.calls:
                message["tool_calls"] = self._told_calls(said.calls)
            words = {"message": message}
        choice = {"index": 0, **words, **self._probabilities(said), "finish_reason": self._reason(said)}
        return _encode({**self._head, "choices": [choice], "usage": said.usage})

    def feed(self, data: bytes) -> bytes:
        """Events."""
        return b"".join([self._event(line) for line in self._lines.feed(data)])

    def end(self) -> bytes:
        """Where Ollama stopped without a last line: it does so, without a word, where one token comes again
        and again. The answer is told as cut off, since it is."""
        told = b"".join([self._event(line) for line in self._lines.rest()])
        return told if self._closed else told + self._done(Said(done=True, done_reason="length"))

    def _event(self, line: bytes) -> bytes:
        if self._closed:
            return b""
        try:
            said = decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self._failed(unreadable("Ollama", line).message)
        if said.error is not None:
            return self._failed(words_in({"error": said.error}) or "Ollama failed without a word.")
        told = self._words(said)
        return told + self._done(said) if said.done else told

    def _words(self, said: Said) -> bytes:
        if not self._chat:
            if not said.text and not said.logprobs:
                return b""
            return self._chunk({"text": said.text, **self._probabilities(said)}, None)
        delta: dict[str, Any] = {}
        if said.text:
            delta["content"] = said.text
        if said.thought:
            delta["reasoning"] = said.thought
        if said.calls:
            delta["tool_calls"] = self._told_calls(said.calls)
        if self._begun and not delta and not said.logprobs:
            return b""
        head = {} if self._begun else {"role": "assistant", "content": ""}
        self._begun = True
        return self._chunk({"delta": {**head, **delta}, **self._probabilities(said)}, None)

    def _done(self, said: Said) -> bytes:
        self._closed = True
        told = self._chunk({"delta": {}} if self._chat else {"text": ""}, self._reason(said))
        if self._usage:
            told += _sse({**self._chunk_head, "choices": [], "usage": said.usage})
        return told + _DONE

    def _failed(self, words: str) -> bytes:
        self._closed, self.failure = True, words
        return _sse({"error": {"message": words, "type": "api_error", "param": None, "code": None}})

    def _chunk(self, words: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": 0, **words, "finish_reason": reason}
        return _sse({**self._chunk_head, "choices": [choice]})

    def _told_calls(self, calls: list[Call]) -> list[dict[str, Any]]:
        """Arguments as text; their places go on over a stream's lines."""
        rows = []
        for call in calls:
            text = _encode(call.function.arguments or {}).decode()
            row = {"id": call.id or f"call_{secrets.token_hex(6)}", "index": self._calls, "type": "function"}
            rows.append({**row, "function": {"name": call.function.name, "arguments": text}})
            self._calls += 1
        return rows

    def _reason(self, said: Said) -> str:
        if self._calls:
            return "tool_calls"
        return "length" if said.done_reason == "length" or not said.done else "stop"

    def _probabilities(self, said: Said) -> dict[str, Any]:
        begin = self._letters
        self._letters += len(said.text)
        if not said.logprobs:
            return {}
        if self._chat:
            return {"logprobs": probabilities.of_chat(said.logprobs)}
        return {"logprobs": probabilities.of_completion(said.logprobs, begin)}


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
