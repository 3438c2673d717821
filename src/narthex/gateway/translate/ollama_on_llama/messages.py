"""Ollama's messages as OpenAI's: parts for pictures, tool calls with ids and with text for arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from narthex.gateway.ask import Ask
from narthex.gateway.translate.fields import bad, encode, read
from narthex.gateway.translate.pictures import part_of

THINK_LEVELS = ("low", "medium", "high", "max")


class _Function(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    role: str = ""
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[_Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: str | None = None


def messages(ask: Ask) -> list[dict[str, Any]]:
    """The conversation for ``/v1/chat/completions``. Raises Trouble 400."""
    given: list[_Message] | None = read(
        ask, "messages", list[_Message], "a list of messages with texts as «content»"
    )
    writer = _Writer()
    return [writer.message(each) for each in given or ()]


def one_message(prompt: str, system: str, images: Sequence[str]) -> list[dict[str, Any]]:
    """What ``/api/generate`` puts into a template: the system's words, then one message of a user."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": _content(prompt, images)}]


def template_words(ask: Ask) -> dict[str, Any]:
    """``think`` as variables of the chat template; {} leaves it to the template. Raises Trouble 400."""
    think = read(ask, "think", Any, "true, false, or a level")
    if think is None or think == "":
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    if think in THINK_LEVELS:
        return {"enable_thinking": True, "reasoning_effort": think}
    levels = ", ".join(f'"{level}"' for level in THINK_LEVELS)
    raise bad("«think» has no meaning that is known.", f"It can be true, false, {levels}.")


class _Writer:
    """Gives ids to calls without, and to each answer of a tool the id of its call."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []  # id and name of calls that no tool answered yet
        self._count = 0

    def message(self, given: _Message) -> dict[str, Any]:
        written: dict[str, Any] = {
            "role": given.role,
            "content": _content(given.content or "", given.images or ()),
        }
        if given.thinking:
            written["reasoning_content"] = given.thinking
        if given.tool_calls:
            written["tool_calls"] = list(self._calls(given.tool_calls))
        if given.role == "tool":
            written |= self._answered(given)
        return written

    def _calls(self, calls: Iterable[_Call]) -> Iterable[dict[str, Any]]:
        for call in calls:
            self._count += 1
            known = call.id or f"call_{self._count}"
            self._open.append((known, call.function.name))
            text = encode(call.function.arguments or {}).decode()
            function = {"name": call.function.name, "arguments": text}
            yield {"id": known, "type": "function", "function": function}

    def _answered(self, given: _Message) -> dict[str, str]:
        """By its id, else the oldest open call of that name, else the oldest."""
        for test in (
            lambda row: row[0] == given.tool_call_id,
            lambda row: row[1] == given.tool_name,
            lambda row: not given.tool_call_id and not given.tool_name,
        ):
            found = next((row for row in self._open if test(row)), None)
            if found is not None:
                self._open.remove(found)
                return {"tool_call_id": given.tool_call_id or found[0], "name": given.tool_name or found[1]}
        self._count += 1
        name = {"name": given.tool_name} if given.tool_name else {}
        return {"tool_call_id": given.tool_call_id or f"call_{self._count}", **name}


def _content(text: str, images: Sequence[str]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    return [*([{"type": "text", "text": text}] if text else []), *(part_of(image) for image in images)]
