"""The API over real sockets: what Ollama answers, and what comes where Ollama should be."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from narthex.engines.ollama.api import Api, to_error
from narthex.engines.ollama.records import ApiError
from narthex.errors import EngineError, NarthexError, UsageError

JSON = "application/json; charset=utf-8"
Serve = Callable[..., "Answers"]


def reply(body: str | bytes, status: str = "200 OK", kind: str = JSON, more: str = "") -> bytes:
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{more}\r\n"
    return head.encode() + content


def chunked(*lines: str, end: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [f"{len(line.encode()) + 1:x}\r\n{line}\n\r\n".encode() for line in lines]
    return head + b"".join(chunks) + (b"0\r\n\r\n" if end else b"")


class Answers:
    """A server that gives its answers one request after the other. It closes each connection then; a
    ``silent`` one holds it without a word until the test is over."""

    def __init__(self, *answers: bytes, silent: bool = False) -> None:
        self._answers = list(answers)
        self._silent = silent
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.asked: list[tuple[str, Any]] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(_request(connection))
                connection.sendall(answer)
                if self._silent:
                    self._over.wait(20)

    def close(self) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def _request(connection: socket.socket) -> tuple[str, Any]:
    with connection.makefile("rb") as file:
        first = file.readline().decode("latin-1").rsplit(" ", 1)[0]
        length = 0
        while (line := file.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = file.read(length)
    return first, json.loads(body) if body else None


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Answers] = []

    def start(*answers: bytes, silent: bool = False) -> Answers:
        started.append(Answers(*answers, silent=silent))
        return started[-1]

    yield start
    for server in started:
        server.close()


def refused(action: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        action()
    return caught.value


def test_the_version_is_asked_below_a_path(serve: Serve) -> None:
    server = serve(reply('{"version":"0.33.0-rc2"}'))
    api = Api(server.url + "/behind/a/proxy/")
    assert api.version() == "0.33.0-rc2"
    assert api.url == server.url + "/behind/a/proxy"
    assert server.asked == [("GET /behind/a/proxy/api/version", None)]


def test_lists_may_be_null_and_unknown_fields_do_not_matter(serve: Serve) -> None:
    tag = {"name": "a:latest", "size": 5, "new": [1], "details": {"family": "llama", "families": None}}
    server = serve(reply('{"models":null}'), reply(json.dumps({"models": [tag]})))
    api = Api(server.url)
    assert api.ps() == ()
    (found,) = api.tags()
    assert (found.name, found.size, found.details.family, found.details.families) == (
        "a:latest",
        5,
        "llama",
        None,
    )


def test_show_keeps_null_arrays_of_the_metadata(serve: Serve) -> None:
    server = serve(
        reply('{"model_info":{"llama.block_count":32,"tokenizer.ggml.tokens":null},"license":null}')
    )
    shown = Api(server.url).show("a")
    assert shown.model_info == {"llama.block_count": 32, "tokenizer.ggml.tokens": None}
    assert server.asked == [("POST /api/show", {"model": "a", "name": "a", "verbose": False})]


def test_a_preload_sends_only_what_was_given(serve: Serve) -> None:
    done = reply('{"model":"a","done":true,"done_reason":"load"}')
    server = serve(done, done)
    api = Api(server.url)
    api.preload("a", timeout_s=5)
    api.preload("a", {"num_ctx": 2048}, keep_alive=-1, timeout_s=5)
    assert server.asked == [
        ("POST /api/generate", {"model": "a", "stream": False}),
        (
            "POST /api/generate",
            {"model": "a", "stream": False, "options": {"num_ctx": 2048}, "keep_alive": -1},
        ),
    ]


def test_unload_and_delete(serve: Serve) -> None:
    server = serve(reply('{"done":true,"done_reason":"unload"}'), reply(""))
    api = Api(server.url)
    api.unload("a")
    api.delete("a")
    assert server.asked[0] == ("POST /api/generate", {"model": "a", "keep_alive": 0, "stream": False})
    assert server.asked[1] == ("DELETE /api/delete", {"model": "a", "name": "a"})


def test_a_stream_comes_line_by_line(serve: Serve) -> None:
    server = serve(chunked('{"response":"a"}', '{"response":"b","done":true}'))
    with Api(server.url).stream("/api/generate", {"model": "a"}, timeout_s=5) as answers:
        assert list(answers) == [{"response": "a"}, {"response": "b", "done": True}]


def test_an_error_line_of_a_stream_has_status_200(serve: Serve) -> None:
    server = serve(chunked('{"response":"a"}', '{"error":"an error was encountered: unexpected EOF"}'))
    seen: list[dict[str, Any]] = []

    def read() -> None:
        with Api(server.url).stream("/api/generate", {"model": "a"}, timeout_s=5) as answers:
            seen.extend(answers)

    error = refused(read)
    assert seen == [{"response": "a"}]
    assert (error.status, error.lost, error.text) == (
        200,
        False,
        "an error was encountered: unexpected EOF",
    )


@pytest.mark.parametrize("answer", [chunked('{"response":"a"}', end=False), reply("x" * 50)[:-20]])
def test_a_stream_that_breaks_off_is_lost(serve: Serve, answer: bytes) -> None:
    server = serve(answer)

    def read() -> None:
        with Api(server.url).stream("/api/generate", {"model": "a"}, timeout_s=5) as answers:
            list(answers)

    assert refused(read).lost


def test_silence_in_a_stream_is_a_timeout(serve: Serve) -> None:
    server = serve(chunked('{"response":"a"}', end=False), silent=True)
    seen: list[dict[str, Any]] = []
    with (
        pytest.raises(TimeoutError),
        Api(server.url).stream("/api/generate", {"model": "a"}, timeout_s=0.3) as answers,
    ):
        seen.extend(answers)
    assert seen == [{"response": "a"}]
    with (
        pytest.raises(TimeoutError),
        Api(serve(b"", silent=True).url).stream("/api/generate", {}, timeout_s=0.3) as answers,
    ):
        pass


def test_a_late_answer_is_not_a_lost_one(serve: Serve) -> None:
    server = serve(b"", silent=True)
    error = refused(lambda: Api(server.url).preload("a", timeout_s=0.3))
    assert (error.status, error.lost) == (None, False)
    assert "no answer within 0.3 s" in str(to_error(error, server.url, "load a"))


def test_create_is_done_when_it_says_success(serve: Serve) -> None:
    version, tags = reply('{"version":"0.33.0"}'), reply('{"models":[{"name":"llama3:latest"}]}')
    server = serve(version, tags, chunked('{"status":"writing manifest"}', '{"status":"success"}'))
    assert Api(server.url).create("mine", "llama3", {"num_ctx": 4096}) == ("writing manifest", "success")
    assert server.asked[2] == (
        "POST /api/create",
        {"model": "mine", "from": "llama3", "parameters": {"num_ctx": 4096}},
    )


def test_create_without_success_is_none(serve: Serve) -> None:
    version, tags = reply('{"version":"0.33.0"}'), reply('{"models":[{"name":"llama3:latest"}]}')
    server = serve(version, tags, chunked('{"status":"writing manifest"}'))
    assert "writing manifest" in refused(lambda: Api(server.url).create("mine", "llama3", {})).text


def test_create_from_a_model_that_is_not_here_asks_no_registry(serve: Serve) -> None:
    server = serve(reply('{"version":"0.33.0"}'), reply('{"models":[]}'))
    error = refused(lambda: Api(server.url).create("mine", "nosuch", {}))
    assert error.status == 404
    assert isinstance(to_error(error, server.url, "create mine"), UsageError)
    assert [path for path, _ in server.asked] == ["GET /api/version", "GET /api/tags"]


def test_an_ollama_of_2024_is_told_apart(serve: Serve) -> None:
    server = serve(reply('{"version":"0.1.45"}'))
    error = to_error(refused(lambda: Api(server.url).create("b", "a", {})), server.url, "create b")
    assert "0.1.45" in error.message
    assert "0.5.5" in error.message
    assert "ollama create" in error.hint


HTML = "<!DOCTYPE html>\n<html><body>Sign in</body></html>"
INNER = json.dumps(
    {"error": json.dumps({"error": {"code": 400, "message": "request (624 tokens) exceeds the size"}})}
)


@pytest.mark.parametrize(
    ("answer", "status", "said", "kind"),
    [
        (reply(HTML, kind="text/html"), 200, "something answers that is not Ollama", EngineError),
        (reply(HTML, "502 Bad Gateway", "text/html"), 502, "not Ollama", EngineError),
        (reply("", "403 Forbidden"), 403, "refuses requests for this host name", EngineError),
        (reply('{"models":[{"name":'), 200, "not Ollama", EngineError),
        (reply('{"models":[{"size":"much","name":"a"}]}'), 200, "not Ollama", EngineError),
        (reply('{"models":5}'), 200, "not Ollama", EngineError),
        (reply("[]"), 200, "not Ollama", EngineError),
        (reply(b"\xff\xfe"), 200, "not Ollama", EngineError),
        (
            reply("", "302 Found", more="Location: https://login.example/\r\n"),
            302,
            "https://login.example/",
            EngineError,
        ),
        (reply("404 page not found", "404 Not Found", "text/plain"), 404, "404 page not found", EngineError),
        (reply("""{"error":"model 'x' not found"}""", "404 Not Found"), 404, "model 'x'", UsageError),
        (
            reply('{"error":"server busy, please try again."}', "503 Service Unavailable"),
            503,
            "too busy",
            EngineError,
        ),
        (reply(INNER, "400 Bad Request"), 400, "request (624 tokens) exceeds the size", EngineError),
        (reply("", "500 Internal Server Error"), 500, "HTTP 500", EngineError),
        (reply('{"error":"late words"}'), 200, "late words", EngineError),
    ],
)
def test_what_is_no_list_of_models_is_named(
    serve: Serve, answer: bytes, status: int, said: str, kind: type[NarthexError]
) -> None:
    server = serve(answer)
    error = refused(Api(server.url).tags)
    assert (error.status, error.lost) == (status, False)
    told = to_error(error, server.url, "list its models")
    assert type(told) is kind
    assert said in told.message
    assert server.url in told.message
    assert told.hint.endswith(".")


def test_what_is_no_http_at_all(serve: Serve) -> None:
    server = serve(b"SSH-2.0-OpenSSH_9.6\r\n")
    error = refused(Api(server.url).version)
    assert "not Ollama" in str(to_error(error, server.url, "tell its version"))


def test_a_server_that_hangs_up_is_lost(serve: Serve) -> None:
    assert refused(Api(serve(b"").url).version).lost
    assert refused(Api(serve(reply('{"version":"0.33.0"}')[:-5]).url).version).lost


def test_nobody_there_and_no_such_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = refused(Api(url).version)
    assert error.lost
    assert "refused" in error.text
    assert "ollama serve" in to_error(error, url, "answer").hint
    error = refused(Api("http://no-such-host.invalid:11434").version)
    assert error.lost
    assert "no-such-host.invalid" in error.text


def test_no_secure_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak_plainly() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65_536)

        thread = threading.Thread(target=speak_plainly)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        error = refused(Api(url).version)
        thread.join()
    assert error.lost
    assert "no secure connection" in error.text


@pytest.mark.parametrize("url", ["", "http://", "http://:11434", "ftp://host", "http://host:port", "host:0"])
def test_an_impossible_address(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Api(url)
    assert "http://127.0.0.1:11434" in caught.value.hint


def test_an_address_without_scheme_is_read_as_ollama_does() -> None:
    assert Api("example").url == "http://example:11434"
    assert Api("example:80/").url == "http://example:80"
    assert Api("http://example").url == "http://example"
