"""Answers in one piece, and refusals."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from narthex.gateway.relay.relay import Relay
from narthex.gateway.relay.timeouts import Timeouts

_CHAT = (
    b'{"model":"m","message":{"role":"assistant","content":"Hi \\"eval_count\\":99"},"done":true,'
    b'"prompt_eval_count":4,"eval_count":3,"eval_duration":1000000000}'
)


def _whole(body: bytes, **how: Any) -> Any:
    async def script(line: Any) -> None:
        await line.whole(body, **how)

    return script


def test_an_answer_in_one_piece_has_its_length_and_its_figures(rig: Any, run: Any) -> None:
    async def main() -> None:
        async with rig(_whole(_CHAT)) as made, made.ask(stream=False) as answer:
            assert await answer.read() == _CHAT
            assert answer.headers["Content-Length"] == str(len(_CHAT))
            assert "Transfer-Encoding" not in answer.headers
            assert answer.content_type == "application/json"
            await made.over.wait()
            assert made.tapped[0].complete
            assert made.tapped[0].output_tokens == 3
            assert made.tapped[0].decode_tps == pytest.approx(2.0)

    run(main())


def test_a_large_answer_goes_through_in_pieces(rig: Any, run: Any) -> None:
    body = b'{"embeddings":[[' + b"0.123," * 800_000 + b'0]],"prompt_eval_count":12}'

    async def main() -> None:
        async with rig(_whole(body)) as made, made.ask("/api/embed", stream=False) as answer:
            assert await answer.read() == body
            assert answer.headers["Content-Length"] == str(len(body))
            assert made.tapped[0].complete
            assert made.tapped[0].prompt_tokens == 12

    run(main())


def test_a_large_answer_that_breaks_off_is_not_taken_for_whole(rig: Any, run: Any) -> None:
    import aiohttp

    async def script(line: Any) -> None:
        await line.begin("application/json")
        for _ in range(40):
            await line.chunk(b"1," * 32768)
        line.reset()

    async def main() -> None:
        async with rig(script) as made:
            with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):
                await made.answer("/api/embed", stream=False)

    run(main())


def test_a_large_request_arrives_whole(rig: Any, run: Any) -> None:
    async def main() -> None:
        async with rig(_whole(b"{}")) as made:
            picture = {"model": "m", "stream": False, "images": ["A" * 3_000_000]}
            async with made.client.post(made.url + "/api/chat", json=picture) as answer:
                assert answer.status == 200
            assert json.loads(made.seen[0].body) == picture

    run(main())


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422])
def test_the_clients_own_mistake_is_told_in_the_engines_words(rig: Any, run: Any, status: int) -> None:
    said = b'{"error":"\\"m\\" does not support tools"}'

    async def main() -> None:
        async with rig(_whole(said, status=status)) as made:
            assert await made.answer() == (status, said)
            assert not made.explained

    run(main())


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_failure_of_the_engine_is_explained(rig: Any, run: Any, status: int) -> None:
    async def main() -> None:
        async with rig(_whole(b'{"error":"llama-server terminated"}', status=status)) as made:
            _, body = await made.answer()
            assert made.explained == [('{"error":"llama-server terminated"}', status)]
            assert "explained" in json.loads(body)["error"]

    run(main())


def test_a_prompt_that_is_too_long_is_explained_so_that_a_larger_profile_may_take_it(
    rig: Any, run: Any
) -> None:
    said = (
        b'{"error":{"code":400,"message":"request (8004 tokens) exceeds the available context size '
        b'(512 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":8004,'
        b'"n_ctx":512}}'
    )

    async def main() -> None:
        async with rig(_whole(said, status=400)) as made:
            await made.answer("/v1/chat/completions")
            ((words, status),) = made.explained
            assert '"n_prompt_tokens":8004' in words
            assert status == 400

    run(main())


def test_a_redirect_is_not_followed(rig: Any, run: Any) -> None:
    more = "Location: http://169.254.169.254/latest\r\n"

    async def main() -> None:
        async with rig(_whole(b"", status=302, more=more)) as made:
            status, body = await made.answer()
            assert status == 502
            assert "redirect" in json.loads(body)["error"]
            assert len(made.seen) == 1

    run(main())


def test_headers_of_one_connection_and_keys_stay_where_they_are(rig: Any, run: Any) -> None:
    more = (
        "Server: engine\r\nDate: then\r\nX-Engine: yes\r\nX-Secret: no\r\n"
        "Connection: keep-alive, X-Secret\r\nAccess-Control-Allow-Origin: *\r\nSet-Cookie: a=b\r\n"
    )

    async def main() -> None:
        async with rig(_whole(b"{}", more=more)) as made:
            sent = {
                "Authorization": "Bearer secret",
                "X-Api-Key": "secret",
                "Cookie": "a=b",
                "Origin": "http://here",
                "TE": "trailers",
                "X-Mine": "1",
                "X-Private": "2",
                "Connection": "keep-alive, X-Private",
                "Accept-Encoding": "gzip",
                "User-Agent": "curl/8",
            }
            async with made.ask(stream=False, **sent) as answer:
                back = {name.lower(): value for name, value in answer.headers.items()}
            there = made.seen[0].headers()
            assert there["x-mine"] == "1"
            assert there["user-agent"] == "curl/8"
            assert there["content-type"] == "application/json"
            assert there["host"] not in made.url
            gone = ("authorization", "x-api-key", "cookie", "origin", "te", "x-private", "accept-encoding")
            assert not [name for name in gone if name in there]
            assert "secret" not in made.seen[0].head
            assert back["x-engine"] == "yes"
            assert back["server"] != "engine"
            assert back["date"] != "then"
            foreign = ("x-secret", "access-control-allow-origin", "set-cookie")
            assert not [name for name in foreign if name in back]

    run(main())


def test_an_engine_that_is_not_there_is_told_before_anything_is_sent(rig: Any, run: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def main() -> None:
        async with rig(_whole(b"{}"), engine_url=f"http://127.0.0.1:{port}") as made:
            status, _ = await made.answer()
            assert status == 502
            assert made.explained[0][1] is None

    run(main())


def test_an_engine_that_hangs_up_without_a_word_is_asked_once(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        line.reset()

    async def main() -> None:
        async with rig(script) as made:
            status, _ = await made.answer(stream=False)
            assert status == 502
            assert len(made.seen) == 1

    run(main())


class _Shout:
    """Translates by writing everything in capitals."""

    path = "/v1/chat/completions"
    body = b"{}"
    failure = ""

    def whole(self, data: bytes) -> bytes:
        return data.upper()

    def feed(self, data: bytes) -> bytes:
        return data.upper()

    def end(self) -> bytes:
        return b"END\n"

    def content_type(self, stream: bool) -> str:
        return "application/x-ndjson" if stream else "application/json"


def test_a_translated_answer_has_the_clients_type_and_the_engines_figures(rig: Any, run: Any) -> None:
    event = b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":5}}\n\n'

    async def script(line: Any) -> None:
        await line.begin("text/event-stream")
        await line.chunk(event)
        await line.chunk(b"data: [DONE]\n\n")
        await line.chunk(b"")

    async def main() -> None:
        async with rig(script, translation=_Shout) as made, made.ask() as answer:
            assert await answer.read() == (event + b"data: [DONE]\n\n").upper() + b"END\n"
            assert answer.content_type == "application/x-ndjson"
            assert "X-Accel-Buffering" not in answer.headers
            assert made.seen[0].head.startswith("POST /v1/chat/completions ")
            await made.over.wait()
            assert made.tapped[0].output_tokens == 5
            assert made.tapped[0].complete

    run(main())


def test_a_translated_stream_that_fails_ends_in_the_clients_dialect(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.begin("text/event-stream")
        await line.chunk(b'data: {"choices":[]}\n\n')
        await asyncio.sleep(0.01)
        await line.chunk(b'data: {"error":{"message":"boom"}}\n\n')
        await line.chunk(b"")

    async def main() -> None:
        async with rig(script, translation=_Shout) as made:
            _, body = await made.answer()
            first, _, rest = body.partition(b"\n\n")
            assert first == b'DATA: {"CHOICES":[]}'
            shown, last = [json.loads(line) for line in rest.splitlines()]
            assert "boom" in shown["message"]["content"]
            assert last["done"] is True

    run(main())


def test_a_failure_that_the_translation_finds_ends_the_stream(rig: Any, run: Any) -> None:
    class Finds(_Shout):
        def feed(self, data: bytes) -> bytes:
            self.failure = "no memory" if b"strange" in data else ""
            return data.upper()

    async def script(line: Any) -> None:
        await line.begin("text/event-stream")
        await line.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.01)
        await line.chunk(b"data: strange\n\n")
        await line.peer_left()

    async def main() -> None:
        async with rig(script, translation=Finds) as made:
            _, body = await made.answer()
            assert made.explained == [("no memory", None)]
            assert json.loads(body.splitlines()[-1])["done_reason"] == "error"

    run(main())


def test_after_a_fault_in_the_middle_no_second_answer_follows(rig: Any, run: Any) -> None:
    import aiohttp

    class Breaks(_Shout):
        def feed(self, data: bytes) -> bytes:
            if b"strange" in data:
                raise KeyError("strange")
            return data.upper()

    async def script(line: Any) -> None:
        await line.begin("text/event-stream")
        await line.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.01)
        await line.chunk(b"data: strange\n\n")
        await line.peer_left()

    async def main() -> None:
        async with rig(script, translation=Breaks) as made:
            with pytest.raises(aiohttp.ClientPayloadError):
                await made.answer()

    run(main())


def test_a_refusal_is_told_in_the_clients_dialect_where_it_is_not_the_engines(rig: Any, run: Any) -> None:
    said = b'{"error":{"code":400,"message":"bad tools","type":"invalid_request_error"}}'

    async def main() -> None:
        async with rig(_whole(said, status=400), translation=_Shout) as made:
            status, body = await made.answer()
            assert status == 400
            assert "bad tools" in json.loads(body)["error"]

    run(main())


def test_a_relay_can_be_closed_before_it_was_started() -> None:
    asyncio.run(Relay(Timeouts()).close())
