"""One HTTP exchange with an Ollama: plain ``http.client``, one connection a request, no proxies.

Whatever comes instead of an answer is an :class:`ApiError`. A server that begins to stream has already said
200: its error then comes as a line of the stream.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from narthex.engines.ollama.records import ApiError
from narthex.errors import UsageError

_T = TypeVar("_T")

# How the text begins where it is not Ollama's own.
WEB_PAGE = "a web page came back, not Ollama's answer"
UNREADABLE = "an answer came back that is not Ollama's"
WRONG_HOST = "403 without a word: Ollama does not take requests for this host name"
NO_ANSWER = "no answer within"

PORT = 11434
WAITING_S = 0.25
MOST_BYTES = 64 << 20  # of one answer; what has no end is no Ollama


class Exchange:
    """Asks one server. Raises UsageError for a URL that makes no sense."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._parts = _parts(url)
        self.url = self._parts.geturl()
        self._timeout_s = timeout_s  # to connect

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout_s: float,
        waiting: Callable[[], None] | None = None,
    ) -> bytes:
        """The whole answer to a request that was granted. Raises ApiError.

        ``waiting`` is called every quarter of a second until the answer begins; what it raises ends the
        request, as Ctrl-C does.
        """
        try:
            with self.open(method, path, body, timeout_s, waiting) as response:
                content = _whole(response)
        except TimeoutError as error:
            raise ApiError(f"{NO_ANSWER} {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error) from error
        if content.lstrip()[:1] == b"<":
            raise ApiError(WEB_PAGE, status=200)
        if content.startswith(b'{"error"') and (words := _error_words(content)):
            raise ApiError(words, status=200)
        return content

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout_s: float,
        waiting: Callable[[], None] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The response to a request that was granted. Raises ApiError, and TimeoutError of a late answer."""
        with closing(self._connect()) as connection:
            connection.sock.settimeout(timeout_s)
            content = None if body is None else msgspec.json.encode(body)
            headers = {"Accept": "application/json", "Connection": "close"}
            if content is not None:
                headers["Content-Type"] = "application/json"
            try:
                connection.request(method, self._parts.path + path, content, headers)
                if waiting is not None:
                    _wait(connection.sock, timeout_s, waiting)
                response = connection.getresponse()
                refused = None if response.status == http.client.OK else _whole(response)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException) as error:
                raise _broken(error) from error
            with closing(response):
                if refused is not None:
                    raise _refusal(response, refused)
                yield response

    def _connect(self) -> http.client.HTTPConnection:
        https = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise ApiError(_connect_words(error, self._parts), lost=True) from error
        return connection


def _wait(sock: socket.socket, timeout_s: float, waiting: Callable[[], None]) -> None:
    """Until something can be read. Raises TimeoutError."""
    until = time.monotonic() + timeout_s
    while not select.select([sock], [], [], min(WAITING_S, max(0.0, until - time.monotonic())))[0]:
        if time.monotonic() >= until:
            raise TimeoutError
        waiting()


def _parts(url: str) -> SplitResult:
    """The URL, taken apart, no slash at the end. Without a scheme it is http, and Ollama's port where none is
    given, as Ollama itself reads OLLAMA_HOST."""
    bare = "://" not in url
    try:
        parts = urlsplit((f"http://{url}" if bare else url).strip().rstrip("/"))
        port = parts.port
        if bare and port is None:
            parts = parts._replace(netloc=f"{parts.netloc}:{PORT}")
    except ValueError as error:
        raise _bad_url(url) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _bad_url(url)
    return parts._replace(query="", fragment="")


def _bad_url(url: str) -> UsageError:
    return UsageError(
        f"«{url}» can't be the address of an Ollama.", hint="Write it like http://127.0.0.1:11434."
    )


def _connect_words(error: OSError, parts: SplitResult) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, TimeoutError):
        return "nothing answers there"
    if isinstance(error, ssl.SSLError):
        return f"no secure connection: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"there is no host «{parts.hostname}»"
    return error.strerror or str(error)


def _broken(error: Exception) -> ApiError:
    """An answer that did not come, or broke off."""
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return ApiError(f"{UNREADABLE} (no HTTP)")
    if isinstance(error, http.client.HTTPException | ConnectionError):
        return ApiError("the connection ended early", lost=True)
    return ApiError(str(error), lost=True)


def _refusal(response: http.client.HTTPResponse, content: bytes) -> ApiError:
    """The error that a status other than 200 stands for."""
    status = response.status
    if status == http.client.FORBIDDEN and not content.strip():
        return ApiError(WRONG_HOST, status=status)
    if content.lstrip()[:1] == b"<":
        return ApiError(f"{WEB_PAGE} (HTTP {status})", status=status)
    if target := response.headers.get("Location"):
        return ApiError(f"{UNREADABLE}: it sends us to {target}", status=status)
    words = _error_words(content) or content[:500].decode("utf-8", "replace").strip()
    return ApiError(words or f"HTTP {status} {response.reason}", status=status)


def _whole(response: http.client.HTTPResponse) -> bytes:
    """All of an answer. Raises ApiError where it has no end, and http.client's own errors."""
    content = response.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ApiError(f"{UNREADABLE}: it has no end", status=200)
    if response.length:  # with a limit http.client takes a short answer for a whole one
        raise http.client.IncompleteRead(content, response.length)
    return content


def _error_words(content: bytes | str) -> str:
    """``error`` of an answer, "" where there is none. llama-server's own refusal may be a document inside."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or str(error)
    if not error:
        return ""
    text = str(error)
    return (text.startswith("{") and _error_words(text)) or text


def decode(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises ApiError."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"{UNREADABLE}: {error}", status=200) from error
    if not isinstance(found, dict):
        raise ApiError(UNREADABLE, status=200)
    return found


def record(content: bytes, kind: type[_T]) -> _T:
    """A record from a JSON object. Raises ApiError."""
    return convert(decode(content), kind)


def convert(found: Any, kind: type[_T]) -> _T:
    """A record from decoded JSON. Go writes ``null`` for what is empty: the same as left out.

    Raises ApiError.
    """
    if isinstance(found, dict):
        found = {name: value for name, value in found.items() if value is not None}
        if isinstance(details := found.get("details"), dict):
            found["details"] = {name: value for name, value in details.items() if value is not None}
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise ApiError(f"{UNREADABLE}: {error}", status=200) from error


def objects(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream, line by line. Raises ApiError, and TimeoutError of the socket."""
    for line in _lines(response):
        if line.lstrip()[:1] == b"<":
            raise ApiError(WEB_PAGE, status=200)
        if words := _error_words(line):
            raise ApiError(words, status=200)
        yield decode(line)


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    rest = b""
    while True:
        try:
            data = response.read1(65_536)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error) from error
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from (line for line in lines if line.strip())
    if response.length:  # announced, and not come
        raise ApiError("the connection ended early", lost=True)
    if rest.strip():
        yield rest
