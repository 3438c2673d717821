"""Asks a running `narthex serve` what it would do."""

from __future__ import annotations

import http.client
import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from narthex.gateway.routing.what_if import Outlook
from narthex.policy.records import GatewayPolicy

LISTEN = "127.0.0.1:11435"  # where it is, if narthex.toml does not say otherwise
_LIMIT_S = 5.0


class _Answer(msgspec.Struct, frozen=True):
    forecast: dict[str, Any]
    load_s: float | None = None


def ask_gateway(policy: GatewayPolicy, name: str, ctx: int | None) -> tuple[Outlook | None, str]:
    """What the gateway says to ``GET /narthex/what-if``; else None, and why, in a sentence."""
    listen = policy.listen or LISTEN
    host, _, port = listen.rpartition(":")
    path = f"/narthex/what-if?model={quote(name, safe='')}" + (f"&num_ctx={ctx}" if ctx else "")
    connection = http.client.HTTPConnection(
        _reachable(host.strip("[]")),
        int(port) if port.isdecimal() else None,
        timeout=_LIMIT_S,
    )
    try:
        connection.request("GET", path, headers=_key(policy))
        response = connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            return None, f"What listens at {listen} answered with {response.status}."
        found = msgspec.json.decode(content, type=_Answer)
        seen = msgspec.convert({**found.forecast, "told_by": "gateway"}, _Told)
    except (OSError, http.client.HTTPException):
        return None, f"No gateway answers at {listen}."
    except msgspec.MsgspecError:
        return None, f"What listens at {listen} is no gateway of narthex."
    finally:
        connection.close()
    return Outlook(
        told_by="gateway",
        name=seen.key,
        ready=seen.ready,
        evicts=seen.evicts,
        waits_for=seen.waits_for,
        position=seen.position,
        why=seen.why,
        trouble=seen.trouble,
        load_s=None if seen.ready else found.load_s,
        load_source="" if seen.ready or found.load_s is None else "its last load",
    ), ""


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """Its forecast, in which names stand for keys."""

    key: str | None
    ready: bool
    evicts: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    position: int = 0
    why: str = ""
    trouble: str = ""


def _reachable(host: str) -> str:
    """Who listens everywhere is reached on loopback."""
    try:
        anywhere = not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = host == "*"
    return "127.0.0.1" if anywhere else host


def first_key(policy: GatewayPolicy) -> str:
    """The first key of the file, where one is asked for; "" where it can't be read."""
    if policy.keys is None:
        return ""
    try:
        lines = Path(policy.keys).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    rows = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return rows[0][1] if rows and len(rows[0]) > 1 else ""


def _key(policy: GatewayPolicy) -> dict[str, str]:
    key = first_key(policy)
    return {"Authorization": f"Bearer {key}"} if key else {}
