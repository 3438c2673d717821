"""Which headers go through the proxy, in both directions."""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict

from narthex.gateway.relay.headers import HOP

# ComfyUI answers 403 where Origin and Host differ; the door has judged the client's Origin by then.
_OURS = frozenset(("host", "origin", "expect"))
_KEYS = frozenset(("authorization", "x-api-key"))
_SOCKET = "sec-websocket-"  # each side shakes hands by itself


def to_comfyui(headers: Mapping[str, str], *, keyed: bool) -> CIMultiDict[str]:
    """A client's headers. ``keyed``: it showed a key of the gateway, which is not ComfyUI's to know."""
    return _without(headers, _OURS | _KEYS if keyed else _OURS)


def to_client(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """ComfyUI's headers."""
    return _without(headers, frozenset())


def _without(headers: Mapping[str, str], more: frozenset[str]) -> CIMultiDict[str]:
    named = {word.strip().lower() for word in headers.get("Connection", "").split(",")}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        low = name.lower()
        if low not in HOP and low not in more and low not in named and not low.startswith(_SOCKET):
            kept.add(name, value)
    return kept
