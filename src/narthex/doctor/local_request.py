"""A POST to a service on this machine, and to no other."""

from __future__ import annotations

import http.client
import ipaddress
import json
from urllib.parse import urlsplit

from narthex.doctor.finding import Request

_LONGEST = 64 * 1024  # of an answer


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own: 127.0.0.0/8, ::1 or localhost, over HTTP."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        plain = parts.scheme == "http" and not parts.username and not parts.password and parts.port != 0
        return plain and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def post(request: Request, time_s: float) -> tuple[int, str]:
    """Status and the beginning of the answer. No proxy is asked and no redirect is followed.

    Raises ValueError for an address elsewhere, OSError and HTTPException where nothing answers.
    """
    if not is_loopback(request.url):
        raise ValueError(f"{request.url} is not on this machine")
    parts = urlsplit(request.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=time_s)
    try:
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        body = json.dumps(request.body).encode()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(_LONGEST).decode("utf-8", "replace")
    finally:
        connection.close()
