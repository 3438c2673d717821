"""What a client gets of a stream: the engine's bytes, and where they break off the reason."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from narthex.gateway.relay.timeouts import Timeouts
from narthex.gateway.trouble import Trouble

_NDJSON, _SSE = "application/x-ndjson", "text/event-stream"
_FIRST = b'{"model":"m","created_at":"t","message":{"role":"assistant","content":"He"},"done":false}\n'
_SECOND = b'{"model":"m","created_at":"t","message":{"role":"assistant","content":"llo"},"done":false}\n'
_LAST = (
    b'{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":true,'
    b'"done_reason":"stop","total_duration":9,"prompt_eval_count":7,"prompt_eval_duration":1,'
    b'"eval_count":21,"eval_duration":2000000000}\n'
)
_EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
_USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8},'
    b'"timings":{"prompt_n":5,"prompt_per_second":100.5,"predicted_n":3,"predicted_per_second":40.25}}\n\n'
)
_DONE = b"data: [DONE]\n\n"


def _stream(kind: str, *pieces: bytes, end: bool = True) -> Any:
    async def script(line: Any) -> None:
        await line.begin(kind)
        for piece in pieces:
            await line.chunk(piece)
            await asyncio.sleep(0)
        if end:
            await line.chunk(b"")
        else:
            line.reset()

    return script


def _lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines() if line.strip()]


@pytest.mark.parametrize("cut", [1, 9, 40, 90, 200])
def test_an_ollama_stream_arrives_byte_for_byte_wherever_it_is_cut(rig: Any, run: Any, cut: int) -> None:
    whole = _FIRST + _SECOND + _LAST
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]

    async def main() -> None:
        async with rig(_stream(_NDJSON, *pieces)) as made, made.ask() as answer:
            assert await answer.read() == whole
            assert answer.content_type == _NDJSON
            assert answer.headers["X-Narthex-Model"] == "m"
            await made.over.wait()
            (tapped,) = made.tapped
            assert tapped.complete
            assert tapped.bytes_out == len(whole)
            assert (tapped.prompt_tokens, tapped.output_tokens) == (7, 21)
            assert tapped.decode_tps == pytest.approx(10.0)
            assert tapped.prompt_tps is None
            assert tapped.first_byte_s is not None

    run(main())


@pytest.mark.parametrize("cut", [1, 13, 70, 500])
def test_an_openai_stream_arrives_byte_for_byte_and_is_not_buffered_by_proxies(
    rig: Any, run: Any, cut: int
) -> None:
    whole = _EVENT * 3 + _USAGE + _DONE
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]

    async def main() -> None:
        async with rig(_stream(_SSE, *pieces)) as made, made.ask("/v1/chat/completions") as answer:
            assert await answer.read() == whole
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert answer.headers["Content-Type"] == _SSE
            await made.over.wait()
            (tapped,) = made.tapped
            assert tapped.complete
            assert (tapped.prompt_tokens, tapped.output_tokens) == (5, 3)
            assert (tapped.prompt_tps, tapped.decode_tps) == (100.5, 40.25)

    run(main())


def test_a_line_arrives_while_the_next_is_still_awaited(rig: Any, run: Any) -> None:
    go_on = asyncio.Event()

    async def script(line: Any) -> None:
        await line.begin(_NDJSON)
        await line.chunk(_FIRST)
        await go_on.wait()
        await line.chunk(_LAST)
        await line.chunk(b"")

    async def main() -> None:
        async with rig(script) as made, made.ask() as answer:
            assert await answer.content.readline() == _FIRST
            go_on.set()
            assert await answer.read() == _LAST

    run(main())


@pytest.mark.parametrize("cut", [1, 5, 50, 1000])
def test_an_error_line_of_ollama_becomes_content_that_people_see(rig: Any, run: Any, cut: int) -> None:
    error = b'{"error":"an error was encountered while running the model: CUDA error"}\n'
    whole = _FIRST + error + b"{}\n"
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]

    async def main() -> None:
        async with rig(_stream(_NDJSON, *pieces)) as made:
            status, body = await made.answer()
            assert status == 200
            assert body.startswith(_FIRST)
            first, shown, last = _lines(body)
            assert first["done"] is False
            assert "explained" in shown["message"]["content"]
            assert "error" not in shown
            assert last["done"] is True
            assert last["done_reason"] == "error"
            assert "explained" in last["error"]
            (tapped,) = made.tapped
            assert not tapped.complete
            assert tapped.trouble is not None
            ((words, status_said),) = made.explained
            assert "CUDA error" in words
            assert status_said is None

    run(main())


def test_an_error_line_as_the_first_of_all_is_a_failure_with_its_own_status(rig: Any, run: Any) -> None:
    async def main() -> None:
        async with rig(_stream(_NDJSON, b'{"error":"no memory"}\n')) as made:
            status, body = await made.answer()
            assert status == 502
            assert "no memory" in json.loads(body)["error"]

    run(main())


@pytest.mark.parametrize("tail", [b"", b'{"model":"m","mess', b'{"err'])
def test_a_connection_that_breaks_ends_the_stream_with_the_reason(rig: Any, run: Any, tail: bytes) -> None:
    pieces = [_FIRST, tail] if tail else [_FIRST]

    async def main() -> None:
        async with rig(_stream(_NDJSON, *pieces, end=False)) as made:
            status, body = await made.answer()
            assert status == 200
            _, shown, last = _lines(body)
            assert shown["message"]["content"].startswith("\n\n")
            assert last["done_reason"] == "error"

    run(main())


def test_a_stream_without_its_end_mark_is_told_as_broken_off(rig: Any, run: Any) -> None:
    async def main() -> None:
        async with rig(_stream(_NDJSON, _FIRST)) as made:
            _, body = await made.answer()
            assert _lines(body)[-1]["done_reason"] == "error"
            assert made.explained == [("the answer ended without its end mark", None)]

    run(main())


def test_an_openai_stream_without_its_end_mark_ends_with_an_error_event(rig: Any, run: Any) -> None:
    async def main() -> None:
        async with rig(_stream(_SSE, _EVENT)) as made:
            _, body = await made.answer("/v1/chat/completions")
            events = [event for event in body.decode().split("\n\n") if event.strip()]
            assert events[0] + "\n\n" == _EVENT.decode()
            assert json.loads(events[1].strip().removeprefix("data: "))["error"]["code"] == "engine_failed"
            assert events[2] == "data: [DONE]"

    run(main())


def test_an_error_event_of_the_engine_is_passed_on_as_it_is(rig: Any, run: Any) -> None:
    error = b'data: {"error":{"code":500,"message":"boom","type":"server_error"}}\n\n'

    async def main() -> None:
        async with rig(_stream(_SSE, _EVENT, error)) as made:
            _, body = await made.answer("/v1/chat/completions")
            assert body == _EVENT + b"\n" + error
            (tapped,) = made.tapped
            assert not tapped.complete
            assert "boom" in tapped.trouble.message

    run(main())


def test_a_finish_reason_is_an_end_even_without_done(rig: Any, run: Any) -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'

    async def main() -> None:
        async with rig(_stream(_SSE, _EVENT, last)) as made:
            assert (await made.answer("/v1/chat/completions"))[1] == _EVENT + last
            assert made.tapped[0].complete

    run(main())


def test_the_last_line_of_generate_may_be_longer_than_what_is_kept_of_it(rig: Any, run: Any) -> None:
    context = b",".join(b"%d" % number for number in range(40000))
    last = (
        b'{"model":"m","response":"","done":true,"context":[' + context + b'],"total_duration":9,'
        b'"prompt_eval_count":4,"eval_count":2,"eval_duration":1000}\n'
    )

    async def main() -> None:
        async with rig(_stream(_NDJSON, last[:70000], last[70000:150000], last[150000:])) as made:
            assert (await made.answer("/api/generate"))[1] == last
            assert made.tapped[0].complete
            assert made.tapped[0].output_tokens == 2

    run(main())


def test_silence_in_the_middle_is_told_as_such(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.begin(_NDJSON)
        await line.chunk(_FIRST)
        await line.peer_left()

    unknown = Trouble(502, "connection_lost", "nothing is known")

    async def main() -> None:
        async with rig(script, Timeouts(between_s=0.1), explained=unknown) as made:
            _, body = await made.answer()
            assert "stopped in the middle" in _lines(body)[-1]["error"]
            assert made.tapped[0].trouble.cause == "answer_stalled"

    run(main())


def test_silence_before_the_first_byte_has_its_own_status(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.begin(_NDJSON)
        await line.peer_left()

    unknown = Trouble(502, "connection_lost", "nothing is known")

    async def main() -> None:
        async with rig(script, Timeouts(first_byte_s=0.1), explained=unknown) as made:
            status, body = await made.answer()
            assert status == 504
            assert "no_first_token" in json.loads(body)["error"]

    run(main())


def test_what_the_diagnosis_knows_goes_before_a_mere_timeout(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.peer_left()

    wedged = Trouble(503, "runner_died", "the runner died")

    async def main() -> None:
        async with rig(script, Timeouts(first_byte_s=0.1), explained=wedged) as made:
            status, _ = await made.answer()
            assert status == 503
            assert made.troubles == [wedged]

    run(main())


def test_an_answer_that_never_ends_is_cut_at_the_total(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.begin(_NDJSON)
        for _ in range(1000):
            await line.chunk(_FIRST)
            await asyncio.sleep(0.01)

    unknown = Trouble(502, "connection_lost", "nothing is known")

    async def main() -> None:
        async with rig(script, Timeouts(total_s=0.2), explained=unknown) as made:
            _, body = await made.answer()
            assert made.tapped[0].trouble.cause == "answer_too_long"
            assert _lines(body)[-1]["done_reason"] == "error"

    run(main())
