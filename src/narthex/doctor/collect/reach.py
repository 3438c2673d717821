"""Whether base URLs lead to an Ollama. It is run here, and as a program inside OpenWebUI's container.

So it imports nothing but the standard library, and reads in every Python since 3.8. It asks for the version
only, and asks no address of the public internet.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

SECONDS = 2.0
_FIRST = 4096  # characters of an answer that are looked at


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect may lead to the public internet."""

    def redirect_request(self, *parts: Any) -> None:
        """None: it is answered as it came."""


def look(url: str, proxies: dict[str, str] | None = None) -> dict[str, Any]:
    """{"version": "0.12.3"}, {"error": "…"} or {"public": true}. ``proxies``: as urllib takes them; None for
    those of the environment."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        rows = socket.getaddrinfo(parts.hostname or "", port, type=socket.SOCK_STREAM)
    except OSError as error:
        return {"error": f"{parts.hostname}: {error.strerror or error}"}
    except ValueError as error:
        return {"error": str(error)}
    addresses = {str(row[4][0]).partition("%")[0] for row in rows}
    if any(ipaddress.ip_address(address).is_global for address in addresses):
        return {"public": True}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects())
    try:
        with opener.open(url.rstrip("/") + "/api/version", timeout=SECONDS) as answer:
            return _told(answer.status, answer.read(_FIRST))
    except urllib.error.HTTPError as error:
        return _told(error.code, error.read(_FIRST))
    except Exception as error:  # whatever it is, it is why the URL can't be used
        return {"error": str(getattr(error, "reason", error)) or type(error).__name__}


def look_all(urls: list[str]) -> dict[str, dict[str, Any]]:
    """Each URL's answer, asked at once."""
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        return dict(zip(urls, pool.map(look, urls)))  # noqa: B905 (older Pythons have no strict)


def _told(status: int, body: bytes) -> dict[str, Any]:
    text = body.decode("utf-8", "replace").strip()
    try:
        return {"version": str(json.loads(text)["version"])}
    except (ValueError, KeyError, TypeError):
        kind = "a web page" if text.startswith("<") else "no answer of Ollama's"
        return {"error": f"{kind} came back (HTTP {status})"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look_all(sys.argv[1:])))
