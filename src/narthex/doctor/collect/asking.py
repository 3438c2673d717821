"""Questions to services that may hang: each has its time, however slowly the other side answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

T = TypeVar("T")
MOST_BYTES = 1 << 20


class Late(Exception):
    """A question had no answer in its time."""


class _Work(Generic[T]):
    """A piece of work in a thread that nobody has to wait for."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T | None = None
        self._error: Exception | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:  # for the one who waits
            self._error = error
        self._done.set()

    def result(self, until: float) -> T:
        if not self._done.wait(max(0.0, until - time.monotonic())):
            raise Late
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of some work; raises what it raises, and Late after so long: then it is left alone."""
    return _Work(work).result(time.monotonic() + seconds)


def all_within(seconds: float, works: Sequence[Callable[[], T]]) -> list[T | None]:
    """Results of works that are done at once, in their order; None for those that are late. Raises what one
    of them raises."""
    until = time.monotonic() + seconds
    found: list[T | None] = []
    for work in [_Work(work) for work in works]:
        try:
            found.append(work.result(until))
        except Late:
            found.append(None)
    return found


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from a GET. ``error`` says in words why nothing did."""

    url: str
    status: int | None = None
    body: bytes = b""
    seconds: float = 0.0
    error: str = ""

    @property
    def json(self) -> Any:
        """The body, where it is JSON; else None."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    @property
    def record(self) -> dict[str, Any]:
        """The body, where it is a JSON object that came with 200; else nothing."""
        found = self.json if self.status == http.client.OK else None
        return found if isinstance(found, dict) else {}


def get(url: str, seconds: float) -> Answer:
    """GET, without proxies, redirects or cookies; at most 1 MiB of the answer is read."""
    begun = time.monotonic()
    try:
        found = within(seconds, lambda: _get(url, seconds))
    except Late:
        found = Answer(url=url, error=f"no answer within {seconds:g} s")
    return msgspec.structs.replace(found, seconds=time.monotonic() - begun)


def _get(url: str, seconds: float) -> Answer:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return Answer(url=url, status=response.status, body=response.read(MOST_BYTES))
        finally:
            connection.close()
    except ConnectionRefusedError:
        return Answer(url=url, error="the connection was refused")
    except TimeoutError:
        return Answer(url=url, error=f"no answer within {seconds:g} s")
    except ValueError as error:  # a port that is none
        return Answer(url=url, error=str(error))
    except http.client.HTTPException:
        return Answer(url=url, error="what answers there speaks no HTTP")
    except OSError as error:
        return Answer(url=url, error=error.strerror or str(error))
