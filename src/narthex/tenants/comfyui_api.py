"""ComfyUI's HTTP API, as far as a tenant needs it.

Only what touches our own prompts is here: nothing that stops, clears or unloads another's work. ComfyUI has
no login; requests carry no Origin, since a foreign one is refused with 403.
"""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import msgspec

from narthex.errors import TenantError

URL = "http://127.0.0.1:8188"
TIMEOUT_S = 10.0
NEWEST = 64  # finished prompts that are looked at


class ComfyError(Exception):
    """A request that was not granted. ``lost``: the connection was refused or broke off. One that only takes
    long is not lost: while ComfyUI loads a model it may be silent for seconds."""

    def __init__(self, words: str, *, lost: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.lost = lost


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """From ``/system_stats``: of the first device."""

    version: str
    device: str = ""  # "cuda", "cpu"
    torch_bytes: int | None = None  # what its torch holds of the card
    ram_free_bytes: int | None = None  # of the machine it runs on


class ComfyApi:
    """One server. Methods raise ComfyError. Raises TenantError for an address that makes no sense."""

    def __init__(self, url: str = URL, timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            self.host, self.port = (
                parts.hostname or "",
                parts.port or (443 if parts.scheme == "https" else 80),
            )
        except ValueError:
            parts, self.host, self.port = urlsplit(""), "", 0
        if parts.scheme not in ("http", "https") or not self.host:
            raise TenantError(f"«{url}» is no address of a ComfyUI.", hint=f"Write it as {URL}.")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._path = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._timeout_s = timeout_s

    def stats(self) -> Stats:
        """Version and memory; answered while a prompt runs."""
        return stats_from(self._ask("GET", "/system_stats"))

    def submit(self, graph: dict[str, Any], prompt_id: str) -> str:
        """Put a workflow into the queue; returns the prompt's id. ComfyUI checks it first."""
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": prompt_id}
        answer = self._ask("POST", "/prompt", body)
        if not isinstance(answer, dict) or not answer.get("prompt_id"):
            raise ComfyError("it took the workflow without giving it an id")
        return str(answer["prompt_id"])

    def finished(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a prompt that has ended; None while it waits or runs."""
        found = self._ask("GET", f"/history/{prompt_id}")
        entry = found.get(prompt_id) if isinstance(found, dict) else None
        return entry if isinstance(entry, dict) else None

    def newest(self) -> list[dict[str, Any]]:
        """Prompts that have ended, the newest first."""
        found = self._ask("GET", f"/history?max_items={NEWEST}")
        entries = list(found.values()) if isinstance(found, dict) else []
        return [entry for entry in reversed(entries) if isinstance(entry, dict)]

    def queue(self) -> tuple[frozenset[str], frozenset[str]]:
        """Ids of the prompts that run and of those that wait."""
        found = self._ask("GET", "/queue")
        if not isinstance(found, dict):
            raise ComfyError("what answers there is no ComfyUI")
        running, waiting = found.get("queue_running") or [], found.get("queue_pending") or []
        return frozenset(str(row[1]) for row in running), frozenset(str(row[1]) for row in waiting)

    def withdraw(self, prompt_id: str) -> None:
        """Take one waiting prompt out of the queue. One that runs is not touched."""
        self._ask("POST", "/queue", {"delete": [prompt_id]})

    def forget(self, prompt_id: str) -> None:
        """Take one entry out of the history."""
        self._ask("POST", "/history", {"delete": [prompt_id]})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            with closing(kind(self.host, self.port, timeout=self._timeout_s)) as connection:
                connection.request(method, self._path + path, content, headers)
                response = connection.getresponse()
                answer, status = response.read(), response.status
        except ConnectionRefusedError as error:
            raise ComfyError("nothing answers there", lost=True) from error
        except TimeoutError as error:
            raise ComfyError(f"no answer within {self._timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise ComfyError("the connection ended early", lost=True) from error
        if status != http.client.OK:
            raise ComfyError(_refusal(status, answer))
        try:
            return msgspec.json.decode(answer) if answer else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ComfyError("what answers there is no ComfyUI") from error


def stats_from(found: Any) -> Stats:
    """From the answer to ``/system_stats``. Raises ComfyError for one that is none of ComfyUI's."""
    system = found.get("system") if isinstance(found, dict) else None
    if not isinstance(system, dict) or "comfyui_version" not in system:
        raise ComfyError("what answers there is no ComfyUI")
    device = (found.get("devices") or [{}])[0]
    return Stats(
        version=str(system["comfyui_version"]),
        device=str(device.get("type", "")),
        torch_bytes=device.get("torch_vram_total"),
        ram_free_bytes=system.get("ram_free"),
    )


def _refusal(status: int, answer: bytes) -> str:
    """ComfyUI's own words for a prompt that it does not take: the error, then the first node's."""
    try:
        found = msgspec.json.decode(answer)
        error = found["error"]
        words = [str(error["message"] if isinstance(error, dict) else error)]
        for node, told in (found.get("node_errors") or {}).items():
            first = told["errors"][0]
            details = f": {first['details']}" if first.get("details") else ""
            words.append(f"{told.get('class_type', 'node')} (node {node}): {first['message']}{details}")
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError, AttributeError):
        return f"HTTP {status}"
    return "; ".join(words[:2])
