"""Requests and answers as Ollama reads and writes them, and its error texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from narthex.testing.ollama.gowords import FOREVER_NS, NS, GoError, dumps, json_words, parse_duration

JSON = "application/json; charset=utf-8"
LINES = "application/x-ndjson"
_KINDS = {bool: "bool", str: "string", int: "number", float: "number", list: "array", dict: "object"}


class Refused(Exception):
    """An answer other than 200, with Ollama's words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def answer(value: Any, status: int = 200, content_type: str = JSON) -> web.Response:
    """One JSON object."""
    return web.Response(body=dumps(value).encode(), status=status, headers={"Content-Type": content_type})


def refusal(refused: Refused) -> web.Response:
    """``{"error": …}``."""
    return answer({"error": refused.text}, refused.status)


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body of a request. Raises Refused(400) with Go's words."""
    data = await request.read()
    if not data:
        raise Refused(400, "missing request body")
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Refused(400, json_words(data.decode("utf-8", "replace"), error)) from None
    if not isinstance(body, dict):
        kind = _KINDS.get(type(body), "null")
        raise Refused(400, f"json: cannot unmarshal {kind} into Go value of type api.GenerateRequest")
    return body


def check_types(body: Mapping[str, Any], struct: str, types: Mapping[str, type]) -> None:
    """Raises Refused(400) where a field has the wrong JSON type."""
    for name, kind in types.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            told = {str: "string", bool: "bool", int: "int", dict: "map[string]interface {}"}.get(
                kind, "slice"
            )
            given = _KINDS.get(type(value), "null")
            words = f"json: cannot unmarshal {given} into Go struct field {struct}.{name} of type {told}"
            raise Refused(400, words)


def read_keep_alive(body: Mapping[str, Any]) -> int | None:
    """``keep_alive`` in nanoseconds, FOREVER_NS for a negative one, None where it is not given."""
    value = body.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Refused(400, f"Unsupported type: '{'bool' if isinstance(value, bool) else 'map'}'")
    if isinstance(value, str):
        try:
            ns = parse_duration(value)
        except GoError as error:
            raise Refused(400, str(error)) from None
    else:
        ns = round(value * NS) if math.isfinite(value) else FOREVER_NS
    return FOREVER_NS if ns < 0 else min(ns, FOREVER_NS)
