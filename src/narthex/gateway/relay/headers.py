"""Which headers go through, in both directions.

The sets of names are those of RFC 9110, 7.6.1 (they belong to one connection), and what is the gateway's own:
who asks, from where and with which key is no engine's business, and what an engine allows to web pages is not
what the gateway allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_NOT_TO_ENGINE = frozenset(
    (
        "accept-encoding",  # an answer is read on its way
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "origin",  # Ollama and ComfyUI refuse origins that they do not know; the door has judged it
        "referer",
        "x-api-key",
        "x-real-ip",
    )
)
_NOT_TO_CLIENT = frozenset(
    ("content-encoding", "content-length", "date", "server", "set-cookie", "x-accel-buffering")
)
_FAMILIES_OUT = ("access-control-", "sec-", "x-forwarded-", "x-narthex-")
_FAMILIES_BACK = ("access-control-", "x-narthex-")
JSON = "application/json"


def to_engine(headers: Mapping[str, str]) -> dict[str, str]:
    """A client's headers as an engine gets them. The body is JSON always: the door has seen to it."""
    named = _named(headers)
    found = {"Content-Type": JSON}
    for name, value in headers.items():
        if _goes_out(name) and name.lower() not in named:
            found[name] = value
    return found


def to_client(headers: Mapping[str, str]) -> dict[str, str]:
    """An engine's headers as the client gets them."""
    named = _named(headers)
    return {name: value for name, value in headers.items() if _comes_back(name) and name.lower() not in named}


def _named(headers: Mapping[str, str]) -> frozenset[str]:
    """Names that Connection lists: they are of that connection, too."""
    value = headers.get("Connection")
    if value is None or value in ("keep-alive", "close"):
        return frozenset()
    return frozenset(word.strip().lower() for word in value.split(","))


@lru_cache(maxsize=512)
def _goes_out(name: str) -> bool:
    low = name.lower()
    return low not in HOP and low not in _NOT_TO_ENGINE and not low.startswith(_FAMILIES_OUT)


@lru_cache(maxsize=512)
def _comes_back(name: str) -> bool:
    low = name.lower()
    return low not in HOP and low not in _NOT_TO_CLIENT and not low.startswith(_FAMILIES_BACK)
