"""OpenAI's messages as Ollama's: one text each, pictures as bare base64, arguments as objects."""

from __future__ import annotations

from typing import Any

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, not_mappable, read
from narthex.gateway.translate.pictures import base64_of

_ROLES = {"developer": "system", "function": "tool"}  # Ollama's templates know four roles


class _Url(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | str | None = None


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


def messages(ask: Ask) -> list[dict[str, Any]]:
    """The conversation for ``/api/chat``. Raises Trouble 400."""
    given: list[_Message] | None = read(ask, "messages", list[_Message], "a list of messages")
    if not given:
        raise bad("«messages» is empty.", "Send at least one message.")
    names: dict[str, str] = {}  # of the functions, by the id of their call
    return [_written(each, names) for each in given]


def _written(given: _Message, names: dict[str, str]) -> dict[str, Any]:
    text, images = _content(given.content)
    written: dict[str, Any] = {"role": _ROLES.get(given.role, given.role), "content": text}
    if images:
        written["images"] = images
    if thinking := given.reasoning or given.reasoning_content:
        written["thinking"] = thinking
    if given.tool_calls:
        names.update((call.id, call.function.name) for call in given.tool_calls)
        written["tool_calls"] = [_call(call) for call in given.tool_calls]
    if written["role"] == "tool":
        if given.tool_call_id:
            written["tool_call_id"] = given.tool_call_id
        if name := given.name or names.get(given.tool_call_id or ""):
            written["tool_name"] = name
    return written


def _content(content: str | list[_Part] | None) -> tuple[str, list[str]]:
    if content is None or isinstance(content, str):
        return content or "", []
    texts: list[str] = []
    images: list[str] = []
    for part in content:
        if part.type == "text":
            texts.append(part.text or "")
        elif part.type == "refusal":
            texts.append(part.refusal or "")
        elif part.type == "image_url" and part.image_url is not None:
            images.append(
                base64_of(part.image_url if isinstance(part.image_url, str) else part.image_url.url)
            )
        else:
            raise not_mappable(
                f"A message has a part of the type «{part.type[:40]}», which Ollama does not take.",
                "Send text and image_url parts.",
            )
    return "\n".join(texts), images


def _call(call: _Call) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise bad(
            f"The arguments of a call of «{call.function.name[:40]}» are no JSON object.",
            "Pass on what the model said, or leave the call out.",
        ) from None
    function = {"name": call.function.name, "arguments": arguments}
    return {**({"id": call.id} if call.id else {}), "function": function}
