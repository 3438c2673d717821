"""Whatever comes over the wire: no answer of 5xx, no fault in the log, and nobody inside who may not be."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_SILENCE_S = 0.1  # after that a request counts as not finished
_HOSTS = (
    "localhost",
    "127.0.0.1",
    "[::1]:80",
    "evil.example",
    "localhost.",
    "127.1",
    "2130706433",
    "localhost:80@evil.example",
    "evil.example, localhost",
    "localhost\x0bevil",
    "",
)
_OURS = frozenset(("localhost", "127.0.0.1", "[::1]:80"))
_ORIGINS = (
    "null",
    "http://localhost",
    "http://evil.example",
    "http://localhost.evil.example",
    "//localhost",
    "x",
)
_TYPES = ("application/json", "text/plain", "application/json, text/plain", "multipart/form-data", "\x00")
_TARGETS = (
    "/api/chat",
    "/comfyui/../api/chat",
    "/%2e%2e/",
    "//evil.example/x",
    "http://evil.example/api/chat",
    "http://localhost/api/chat",
    "http://[::1/",
    "*",
    "evil.example:80",
    "/\x7f",
    "/a b",
    "/ä",
    "?",
    "#",
)
_METHODS = (
    "GET",
    "POST",
    "DELETE",
    "PUT",
    "OPTIONS",
    "HEAD",
    "TRACE",
    "CONNECT",
    "PRI",
    "get",
    "P\tST",
    "ÄÖ",
    "",
)
_ENDS = ("\r\n", "\n", "\r\n ", "\r\n\t", "\r", "\r\r\n")
_CHANGING = frozenset(("POST", "PUT", "DELETE", "PATCH"))
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"

_header = st.one_of(
    st.tuples(
        st.sampled_from(("Host", "host", "HOST", "Host ", " Host", "Host\x00")), st.sampled_from(_HOSTS)
    ),
    st.tuples(st.just("Origin"), st.sampled_from(_ORIGINS)),
    st.tuples(st.just("Content-Type"), st.sampled_from(_TYPES)),
    st.tuples(st.just("Sec-Fetch-Site"), st.sampled_from(("cross-site", "none"))),
    st.tuples(st.just("X-Forwarded-Host"), st.just("localhost")),
    st.tuples(st.just("Expect"), st.sampled_from(("100-continue", "200-ok"))),
    st.tuples(st.just("Upgrade"), st.sampled_from(("h2c", "websocket", "x"))),
    st.tuples(st.just("Connection"), st.sampled_from(("close", "upgrade", "keep-alive, Host"))),
    st.tuples(
        st.just("Content-Length"), st.sampled_from(("0", "2", "-1", "1e3", "0x2", "2,2", "９", "9" * 40))
    ),
    st.tuples(
        st.just("Transfer-Encoding"), st.sampled_from(("chunked", "identity", "chunked, chunked", "gzip"))
    ),
    st.tuples(st.just("Content-Encoding"), st.sampled_from(("gzip", "identity", "x"))),
    st.tuples(st.text(max_size=8), st.text(max_size=20)),
    st.tuples(st.just("X-Long"), st.integers(0, 70_000).map(lambda count: "a" * count)),
)
_likely_header = st.one_of(
    st.tuples(st.just("Host"), st.sampled_from(sorted(_OURS))),
    st.tuples(st.just("Host"), st.sampled_from(_HOSTS)),
    st.just(("Origin", "http://localhost")),
    st.just(("Content-Type", "application/json")),
    st.tuples(st.just("Origin"), st.sampled_from(_ORIGINS)),
    st.tuples(st.just("Sec-Fetch-Site"), st.sampled_from(("cross-site", "none"))),
    st.just(("X-Forwarded-Host", "localhost")),
)


def _written(method: str, target: str, version: str, rows: list[tuple[tuple[str, str], str]]) -> str:
    lines = "".join(f"{name}: {value}{end}" for (name, value), end in rows)
    return f"{method} {target} {version}\r\n{lines}"


def _with_host(rows: list[tuple[tuple[str, str], str]]) -> list[tuple[tuple[str, str], str]]:
    """Where none of them is a host: most requests have one."""
    return rows if any(name == "Host" for (name, _), _ in rows) else [(("Host", "localhost"), "\r\n"), *rows]


_head = st.one_of(
    st.builds(
        _written,
        st.sampled_from(_METHODS),
        st.sampled_from(_TARGETS),
        st.sampled_from(("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "http/1.1", "", "HTTP/1.1 x")),
        st.lists(st.tuples(_header, st.sampled_from(_ENDS)), max_size=6),
    ),
    st.builds(
        _written,
        st.sampled_from(("GET", "POST", "DELETE", "OPTIONS")),
        st.sampled_from(_TARGETS[:6]),
        st.just("HTTP/1.1"),
        st.lists(st.tuples(_likely_header, st.just("\r\n")), max_size=2).map(_with_host),
    ),
)


class _Errors(logging.Handler):
    """Every record of an error, whoever wrote it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


class _Standing:
    """A porch that stands for a whole test."""

    def __init__(self, made: Any, errors: _Errors) -> None:
        self.made, self.errors = made, errors

    def sends(self, data: bytes) -> bytes:
        """One connection, and all that came back."""
        found = b""
        with socket.create_connection(("127.0.0.1", self.made.port), timeout=_SILENCE_S) as line:
            try:
                line.sendall(data)
                while piece := line.recv(65536):
                    found += piece
            except OSError:
                pass
        return found

    def holds(self, answer: bytes) -> None:
        """What is true after any request."""
        for part in answer.split(b"HTTP/1.")[1:]:
            assert part[2:3] != b"5", part
        assert b"Traceback" not in answer
        assert not self.made.faults
        assert not self.errors.records


@contextmanager
def _standing(porch: Callable[..., Any]) -> Iterator[_Standing]:
    ready, stop = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def serve() -> None:
        async with porch(idle_s=0.5) as made:
            found.extend([asyncio.get_running_loop(), made])
            ready.set()
            await stop.wait()

    errors = _Errors()
    logging.getLogger().addHandler(errors)
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield _Standing(found[1], errors)
    finally:
        found[0].call_soon_threadsafe(stop.set)
        thread.join(20)
        logging.getLogger().removeHandler(errors)


@pytest.fixture(scope="module")
def standing(porch: Callable[..., Any]) -> Iterator[_Standing]:
    with _standing(porch) as made:
        yield made


_quick = settings(max_examples=200, deadline=None, derandomize=True)
_text = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b""))


def _may_come_in(method: str, path: str, rows: list[tuple[bytes, bytes]]) -> bool:
    """The rules once more, in other words."""
    named = [(name.lower(), value.strip().decode("latin-1")) for name, value in rows]
    hosts = [value for name, value in named if name == b"host"]
    origins = [value for name, value in named if name == b"origin"]
    types = [value for name, value in named if name == b"content-type"]
    sites = [value for name, value in named if name == b"sec-fetch-site"]
    lengths = {name for name, _ in named} & {b"content-length", b"transfer-encoding"}
    return (
        len(hosts) == 1
        and hosts[0] in _OURS
        and (not origins or (origins[0], hosts[0]) == ("http://localhost", "localhost"))
        and (bool(origins) or sites[:1] != ["cross-site"])
        and (method not in _CHANGING or types[:1] == ["application/json"] or path.startswith("/comfyui/"))
        and len(lengths) < 2
    )


def test_no_head_of_any_form_breaks_the_door_or_gets_past_it(standing: _Standing) -> None:
    made = standing.made

    @settings(_quick, max_examples=800)
    @given(head=_head, body=st.sampled_from((b"", b"", b"", b"{}", _SMUGGLED)))
    def tried(head: str, body: bytes) -> None:
        before = len(made.came)
        data = head.encode("utf-8", "surrogatepass") + b"Connection: close\r\n\r\n" + body
        standing.holds(standing.sends(data))
        for (_, method, path, _), rows in zip(made.came[before:], made.heads[before:], strict=True):
            assert _may_come_in(method, path, rows)

    tried()
    assert len(made.came) >= 20, "nearly nothing came as far as the door"


@_quick
@given(
    good=st.booleans(),
    more=st.lists(
        st.sampled_from(
            (
                "Content-Length: 0",
                "Content-Length: 1",
                "content-length : 0",
                "Content-Length: 0x0",
                "Content-Length:\r\n 0",
                "Content-Length: +0",
                "Content-Length\x0b: 0",
                "Transfer-Encoding: chunked",
                "Transfer-Encoding: identity",
                "Transfer-Encoding:\x0bchunked",
                "Transfer-Encoding: \r\n chunked",
                "Transfer-Encoding : chunked",
                "X: y\r\n\tTransfer-Encoding: chunked",
                "Connection: Content-Length",
                "Connection: upgrade\r\nUpgrade: x",
                "Expect: 100-continue",
            )
        ),
        max_size=3,
    ),
)
def test_nothing_in_a_body_is_taken_for_a_request(standing: _Standing, good: bool, more: list[str]) -> None:
    rows = "".join(f"{row}\r\n" for row in more)
    if good:
        body, framing = _SMUGGLED, f"Content-Length: {len(_SMUGGLED)}\r\n"
    else:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(_SMUGGLED), _SMUGGLED)
        framing = "Transfer-Encoding: chunked\r\n"
    head = f"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}{rows}\r\n"
    standing.holds(standing.sends(head.encode("latin-1") + body))
    assert "/smuggled" not in [row[2] for row in standing.made.came]


@_quick
@given(
    pieces=st.lists(
        st.one_of(_text, st.sampled_from((b"\r\n", b"\n", b"GET / HTTP/1.1", b"Host: localhost")))
    )
)
def test_noise_is_answered_or_not_but_breaks_nothing(standing: _Standing, pieces: list[bytes]) -> None:
    standing.holds(standing.sends(b"".join(pieces) + b"\r\n\r\n"))


@pytest.mark.parametrize("size", [8_000, 20_000, 200_000])
@pytest.mark.parametrize("where", ["target", "value", "name", "many"])
def test_a_head_of_any_size_breaks_nothing(standing: _Standing, size: int, where: str) -> None:
    target = "/" + "a" * size if where == "target" else "/x"
    rows = {
        "value": f"X: {'a' * size}\r\n",
        "name": f"{'a' * size}: x\r\n",
        "many": "".join(f"X{number}: y\r\n" for number in range(size // 10)),
    }.get(where, "")
    answer = standing.sends(
        f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{rows}Connection: close\r\n\r\n".encode()
    )
    standing.holds(answer)
    assert not answer or answer.split()[1] in (b"200", b"400", b"414", b"431")


def test_the_door_still_opens_after_all_that(standing: _Standing) -> None:
    answer = standing.sends(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.split()[1] == b"200"
