"""A :class:`Trouble` in the client's dialect: before the first byte as an answer, after it in the stream.

In a stream of ``/api`` the trouble is told twice. OpenWebUI shows nothing of a line with «error» (0.12.4), so
the text first comes as content. The official clients raise where a line has «error», so the last line has it
too: a script does not take half an answer for a whole one. That line is also ``done``, since a stream without
one never ends for some clients.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec

from narthex.gateway.ask import Api, Ask
from narthex.gateway.trouble import Trouble

_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_OTHER_TYPE = "api_error"
_DONE = b"data: [DONE]\n\n"


def refusal(trouble: Trouble, api: Api, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer that tells it."""
    more = {"cause": trouble.cause, "remedy": trouble.remedy, "figures": trouble.figures}
    told: dict[str, Any] = {"narthex": {**more, "request_id": request_id}}
    if api == "openai":
        told = {"error": {**_openai_error(trouble), **told}}
    else:
        told = {"error": trouble.text, **told}
    headers = {"Content-Type": "application/json", "X-Narthex-Request-Id": request_id}
    if trouble.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(trouble.retry_after_s)))
    if trouble.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return trouble.status, headers, _json(told)


def broken_off(trouble: Trouble, ask: Ask, model: str) -> bytes:
    """The end of a stream that has begun. ``model``: as its lines before have it."""
    if ask.api == "ollama":
        return _ollama_end(trouble, ask, model)
    if ask.kind == "responses":
        return _responses_end(trouble)
    return b"data: " + _json({"error": _openai_error(trouble)}) + b"\n\n" + _DONE


def _ollama_end(trouble: Trouble, ask: Ask, model: str) -> bytes:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    head = {"model": model, "created_at": now}
    shown = {**head, **_content(ask, f"\n\n{trouble.text}"), "done": False}
    last = {**head, **_content(ask, ""), "done": True, "done_reason": "error", "error": trouble.text}
    return _json(shown) + b"\n" + _json(last) + b"\n"


def _content(ask: Ask, text: str) -> dict[str, Any]:
    return (
        {"response": text} if ask.kind == "generate" else {"message": {"role": "assistant", "content": text}}
    )


def _responses_end(trouble: Trouble) -> bytes:
    """Its streams have named events and no [DONE]. The official client raises where one has «error»."""
    error = _openai_error(trouble)
    event = {"type": "error", "code": error["code"], "message": error["message"], "param": None}
    return b"event: error\ndata: " + _json({**event, "error": error}) + b"\n\n"


def _openai_error(trouble: Trouble) -> dict[str, Any]:
    kind = _TYPES.get(trouble.status, _OTHER_TYPE)
    return {"message": trouble.text, "type": kind, "param": None, "code": trouble.cause}


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)
