"""A client that leaves ends the engine's work, wherever it was."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

_LINE = b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'
_PATIENCE_S = 10.0


async def _until_left(line: Any, left: asyncio.Event) -> None:
    await line.peer_left()
    left.set()


def test_leaving_in_the_middle_of_a_stream_closes_the_engines_connection(rig: Any, run: Any) -> None:
    left = asyncio.Event()

    async def script(line: Any) -> None:
        await line.begin("application/x-ndjson")
        await line.chunk(_LINE)
        await _until_left(line, left)

    async def main() -> None:
        async with rig(script) as made:
            async with made.ask() as answer:
                assert await answer.content.readline() == _LINE
                answer.close()
            await asyncio.wait_for(left.wait(), _PATIENCE_S)
            await asyncio.wait_for(made.over.wait(), _PATIENCE_S)
            assert made.left
            assert not made.tapped

    run(main())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_leaving_while_nothing_was_written_yet_closes_it(
    rig: Any, run: Any, stream: bool, head: bool
) -> None:
    left, asked = asyncio.Event(), asyncio.Event()

    async def script(line: Any) -> None:
        asked.set()
        if head:
            await line.begin("application/x-ndjson" if stream else "application/json")
        await _until_left(line, left)

    async def main() -> None:
        async with rig(script) as made:
            task = asyncio.create_task(made.answer(stream=stream))
            await asyncio.wait_for(asked.wait(), _PATIENCE_S)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.wait_for(left.wait(), _PATIENCE_S)
            assert made.left

    run(main())


def test_a_client_that_takes_nothing_is_dropped_and_the_engine_freed(rig: Any, run: Any) -> None:
    from narthex.gateway.relay.timeouts import Timeouts

    left = asyncio.Event()
    line_of_64k = b'{"message":{"content":"' + b"a" * 65000 + b'"},"done":false}\n'

    async def script(line: Any) -> None:
        await line.begin("application/x-ndjson")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                await line.chunk(line_of_64k)
        await _until_left(line, left)

    async def main() -> None:
        async with rig(script, Timeouts(between_s=0.2)) as made:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(made.url.rpartition(":")[2]), limit=1024
            )
            body = b'{"stream":true}'
            head = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await asyncio.wait_for(left.wait(), _PATIENCE_S)
            await asyncio.wait_for(made.over.wait(), _PATIENCE_S)
            assert made.left
            assert reader is not None
            writer.close()

    run(main())


def test_the_connection_of_a_whole_answer_is_used_again(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.whole(b'{"done":true}')

    async def main() -> None:
        async with rig(script) as made:
            for _ in range(3):
                assert await made.answer(stream=False) == (200, b'{"done":true}')
            assert len({id(line) for line in made.seen}) == 1

    run(main())


def test_the_connection_of_a_stream_that_ended_is_used_again(rig: Any, run: Any) -> None:
    async def script(line: Any) -> None:
        await line.begin("application/x-ndjson")
        await line.chunk(_LINE)
        await line.chunk(b'{"done":true}\n')
        await line.chunk(b"")

    async def main() -> None:
        async with rig(script) as made:
            for _ in range(3):
                assert await made.answer() == (200, _LINE + b'{"done":true}\n')
            assert len({id(line) for line in made.seen}) == 1

    run(main())


def test_leaving_is_noticed_while_another_request_is_piped_behind(rig: Any, run: Any) -> None:
    """Some clients send the next request before the answer to the first is there."""
    left = asyncio.Event()

    async def script(line: Any) -> None:
        await _until_left(line, left)

    async def main() -> None:
        async with rig(script) as made:
            _, writer = await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))
            body = b'{"stream":true}'
            head = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write((head + body) * 2)
            while not made.seen:
                await asyncio.sleep(0)
            writer.close()
            await asyncio.wait_for(left.wait(), _PATIENCE_S)

    run(main())


def test_a_client_that_leaves_is_no_error_of_the_engine(rig: Any, run: Any) -> None:
    asked = asyncio.Event()

    async def script(line: Any) -> None:
        asked.set()
        await line.peer_left()

    async def main() -> None:
        async with rig(script) as made:
            with contextlib.suppress(asyncio.TimeoutError, aiohttp.ClientError):
                task = asyncio.create_task(made.answer())
                await asked.wait()
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await asyncio.wait_for(made.over.wait(), _PATIENCE_S)
            assert not made.explained
            assert not made.troubles

    run(main())
