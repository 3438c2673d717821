"""``/v1/chat/completions`` on ``/api/chat``: everything but the sampling."""

from __future__ import annotations

from typing import Any

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, not_mappable, read
from narthex.gateway.translate.openai_on_ollama.messages import messages

_EFFORTS = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max"}


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Named(msgspec.Struct):
    name: str = ""


class _Choice(msgspec.Struct):
    function: _Named | None = None
    type: str = "function"


class _Schema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


def chat_fields(ask: Ask) -> dict[str, Any]:
    """Raises Trouble 400."""
    if "audio" in (read(ask, "modalities", list[str], "a list of texts") or ()):
        raise not_mappable("Ollama does not speak: «modalities» asks for audio.", "Ask for text.")
    found: dict[str, Any] = {"messages": messages(ask), **format_of(ask), **_think(ask)}
    if tools := _tools(ask):
        found["tools"] = tools
    if read(ask, "logprobs", bool, "true or false"):
        found |= {"logprobs": True, "top_logprobs": read(ask, "top_logprobs", int, "a whole number") or 0}
    return found


def wants_usage(ask: Ask) -> bool:
    """Whether a stream ends with the figures. Raises Trouble 400."""
    asked: _StreamOptions | None = read(ask, "stream_options", _StreamOptions, "an object")
    return bool(asked and asked.include_usage)


def format_of(ask: Ask) -> dict[str, Any]:
    """``response_format`` as ``format``; {} for free text. Raises Trouble 400."""
    form: _Format | None = read(ask, "response_format", _Format, "an object with a «type»")
    if form is None or form.type == "text":
        return {}
    if form.type == "json_object":
        return {"format": "json"}
    if form.type == "json_schema" and form.json_schema is not None and form.json_schema.schema:
        return {"format": form.json_schema.schema}
    raise bad(
        f"«response_format» of the type «{form.type[:40]}» can't be followed.",
        "It can be text, json_object, or json_schema with a schema.",
    )


def _tools(ask: Ask) -> list[dict[str, Any]]:
    """Those that may be called. Ollama can be kept from calling, not made to: as its own ``/v1`` does, a
    demand is taken for an offer, and of a named function nothing else is offered."""
    given = read(ask, "tools", list[dict[str, Any]], "a list of tools")
    tools: list[dict[str, Any]] = given or []
    choice: str | _Choice | None = read(ask, "tool_choice", str | _Choice, "a text or a function")
    if choice == "none":
        return []
    if isinstance(choice, _Choice) and choice.function is not None:
        name = choice.function.name
        found = [tool for tool in tools if _name(tool) == name]
        if not found:
            raise bad(f"«tool_choice» names «{name[:40]}», which is not among the tools.", "Add it to them.")
        return found
    return tools


def _name(tool: dict[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _think(ask: Ask) -> dict[str, Any]:
    effort = read(ask, "reasoning_effort", str, "a text")
    if effort is None:
        return {}
    if effort not in _EFFORTS:
        raise bad(f"«reasoning_effort» is «{effort[:40]}».", f"It can be {', '.join(_EFFORTS)}.")
    return {"think": _EFFORTS[effort]}
