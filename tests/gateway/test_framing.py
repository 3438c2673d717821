"""A failure in each dialect, read by the official clients."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ollama
import openai
import pytest
from aiohttp import web

from narthex.gateway.ask import Ask
from narthex.gateway.framing import broken_off, refusal
from narthex.gateway.trouble import Trouble

_TROUBLE = Trouble(
    503,
    "vram_oom_on_load",
    "It needs 24 GiB and 9 GiB are free.",
    remedy="Take less context.",
    retry_after_s=1.2,
    figures={"need_bytes": 24 << 30},
)
_HI: Any = [{"role": "user", "content": "Hi"}]
_TEXT = "It needs 24 GiB and 9 GiB are free. Take less context. [narthex: vram_oom_on_load]"


def _ask(api: Any, kind: Any, path: str) -> Ask:
    return Ask(id="r", api=api, kind=kind, path=path, model="m", stream=True, body=b"", fields={})


@contextmanager
def _serving(answer: Callable[[web.BaseRequest], Any]) -> Iterator[str]:
    """A real server in a thread of its own, for clients that block."""
    ready, stop, found = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.extend([asyncio.get_running_loop(), runner.addresses[0][1]])
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        found[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def _openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)


def _refusing(api: Any, trouble: Trouble = _TROUBLE) -> Callable[[web.BaseRequest], Any]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        status, headers, body = refusal(trouble, api, "r1")
        return web.Response(status=status, headers=headers, body=body)

    return answer


def _breaking(kind: str, first: bytes, ask: Ask) -> Callable[[web.BaseRequest], Any]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        await response.write(first)
        await response.write_eof(broken_off(_TROUBLE, ask, "m"))
        return response

    return answer


def test_a_refusal_of_the_ollama_api_has_the_sentence_the_cause_and_the_figures() -> None:
    status, headers, body = refusal(_TROUBLE, "ollama", "r1")
    assert status == 503
    assert headers["Retry-After"] == "2"
    told = json.loads(body)
    assert told["error"] == _TEXT
    assert told["narthex"] == {
        "cause": "vram_oom_on_load",
        "remedy": "Take less context.",
        "figures": {"need_bytes": 24 << 30},
        "request_id": "r1",
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (503, "api_error"), (413, "api_error")],
)
def test_a_refusal_of_the_openai_api_has_its_type_and_the_cause_as_its_code(status: int, kind: str) -> None:
    error = json.loads(refusal(Trouble(status, "some_cause", "Why."), "openai", "r1")[2])["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, "some_cause", None)
    assert error["message"] == "Why. [narthex: some_cause]"
    assert error["narthex"]["request_id"] == "r1"


def test_who_shows_no_key_is_told_which_kind_is_asked_for() -> None:
    assert refusal(Trouble(401, "no_key", "A key."), "ollama", "r")[1]["WWW-Authenticate"] == "Bearer"


def test_figures_of_any_kind_can_be_told() -> None:
    trouble = Trouble(500, "x", "Why.", figures={"path": object, "many": {1, 2}})
    assert json.loads(refusal(trouble, "ollama", "r")[2])["narthex"]["figures"]["many"] == [1, 2]


def test_the_official_ollama_client_reads_the_reason_of_a_refusal() -> None:
    with _serving(_refusing("ollama")) as url, pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(host=url).chat(model="m", messages=_HI)
    assert caught.value.error == _TEXT
    assert caught.value.status_code == 503


def test_the_official_openai_client_reads_the_reason_of_a_refusal() -> None:
    with _serving(_refusing("openai")) as url, pytest.raises(openai.InternalServerError) as caught:
        _openai(url).chat.completions.create(model="m", messages=_HI)
    assert caught.value.code == "vram_oom_on_load"
    assert _TEXT in str(caught.value)


def _until_it_raises(parts: Iterator[Any]) -> tuple[list[Any], Exception]:
    seen: list[Any] = []
    try:
        for part in parts:
            seen.append(part)
    except (ollama.ResponseError, openai.APIError) as error:
        return seen, error
    raise AssertionError("nothing was raised")


def test_the_official_ollama_client_gets_the_text_of_a_chat_and_then_raises() -> None:
    first = b'{"model":"m","created_at":"t","message":{"role":"assistant","content":"Half"},"done":false}\n'
    answer = _breaking("application/x-ndjson", first, _ask("ollama", "chat", "/api/chat"))
    with _serving(answer) as url:
        parts = ollama.Client(host=url).chat(model="m", messages=_HI, stream=True)
        seen, error = _until_it_raises(parts)
    assert "".join(part.message.content for part in seen) == f"Half\n\n{_TEXT}"
    assert isinstance(error, ollama.ResponseError)
    assert error.error == _TEXT


def test_the_official_ollama_client_gets_the_text_of_a_completion_and_then_raises() -> None:
    first = b'{"model":"m","created_at":"t","response":"Half","done":false}\n'
    answer = _breaking("application/x-ndjson", first, _ask("ollama", "generate", "/api/generate"))
    with _serving(answer) as url:
        seen, error = _until_it_raises(ollama.Client(host=url).generate(model="m", prompt="Hi", stream=True))
    assert "".join(part.response for part in seen) == f"Half\n\n{_TEXT}"
    assert isinstance(error, ollama.ResponseError)


def test_a_broken_chat_ends_with_a_done_line_as_each_of_its_streams() -> None:
    shown, last = broken_off(_TROUBLE, _ask("ollama", "chat", "/api/chat"), "m").splitlines()
    assert "error" not in json.loads(shown)
    assert json.loads(last)["done"] is True
    assert json.loads(last)["done_reason"] == "error"


def test_the_official_openai_client_raises_where_a_stream_breaks_off() -> None:
    first = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
    answer = _breaking("text/event-stream", first, _ask("openai", "chat", "/v1/chat/completions"))
    with _serving(answer) as url:
        parts = _openai(url).chat.completions.create(model="m", messages=_HI, stream=True)
        seen, error = _until_it_raises(iter(parts))
    assert len(seen) == 1
    assert isinstance(error, openai.APIError)
    assert error.message == _TEXT


def test_the_official_openai_client_raises_where_a_response_breaks_off() -> None:
    answer = _breaking("text/event-stream", b"", _ask("openai", "responses", "/v1/responses"))
    with _serving(answer) as url:
        parts = _openai(url).responses.create(model="m", input="Hi", stream=True)
        _, error = _until_it_raises(iter(parts))
    assert _TEXT in str(error)
