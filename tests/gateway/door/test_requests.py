"""What a request must look like, and how much of it is read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from narthex.policy.records import GatewayPolicy

_JSON = {"Content-Type": "application/json"}
_HEAD = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def _status(porch: Any, *asked: Any, policy: GatewayPolicy | None = None, **how: Any) -> int:
    async def main() -> int:
        async with porch(policy) as made:
            status: int = (await made.ask(*asked, **how))[0]
            return status

    return asyncio.run(main())


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON ;charset=utf-8"]
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_json_is_taken(porch: Any, method: str, kind: str) -> None:
    assert _status(porch, method, "/x", {"Content-Type": kind}, b"{}") == 200


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "text/plain; application/json",
        "application/jsonp",
        "text/json",
        "text/plain,application/json",
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_what_a_form_of_a_web_page_could_send_is_not(porch: Any, method: str, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert _status(porch, method, "/api/chat", headers, b"{}") == 415


def test_uploads_of_files_are_taken_where_the_policy_has_admin(porch: Any) -> None:
    sent = {"Content-Type": "application/octet-stream"}
    assert _status(porch, "POST", "/api/blobs/sha256:0", sent, b"x") == 415
    admin = GatewayPolicy(admin=True)
    assert _status(porch, "POST", "/api/blobs/sha256:0", sent, b"x", policy=admin) == 200
    assert _status(porch, "POST", "/api/blobsx", sent, b"x", policy=admin) == 415
    assert _status(porch, "POST", "/api/pull", sent, b"x", policy=admin) == 415


def test_comfyuis_page_may_upload_pictures(porch: Any) -> None:
    sent = {"Content-Type": "multipart/form-data; boundary=a"}
    assert _status(porch, "POST", "/comfyui/upload/image", sent, b"x") == 200
    assert _status(porch, "POST", "/comfyui", sent, b"x") == 415


def test_a_body_within_the_limit_arrives_whole_in_whatever_pieces(porch: Any) -> None:
    async def main() -> None:
        async with porch() as made:
            head = f"POST /x HTTP/1.1\r\nHost: localhost:{made.port}\r\nContent-Type: application/json\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            writer.write(f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode())
            for piece in (b"ab", b"c" * 100, b"d"):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(b"0\r\n\r\n")
            assert (await reader.read()).split()[1] == b"200"
            assert made.came[0][3] == b"ab" + b"c" * 100 + b"d"
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("size", [4096, 4097, 1_000_000])
def test_the_limit_holds_by_length(porch: Any, size: int) -> None:
    assert _status(porch, "POST", "/x", _JSON, b" " * size) == (200 if size <= 4096 else 413)


def test_the_limit_holds_for_chunks_that_tell_no_length(porch: Any) -> None:
    async def main() -> None:
        async with porch() as made:
            chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
            answer = await made.raw(
                _HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk * 20 + b"0\r\n\r\n"
            )
            assert answer.split()[1] == b"413"
            assert not made.came

    asyncio.run(main())


def test_a_length_that_is_a_lie_is_not_believed(porch: Any) -> None:
    async def main() -> None:
        async with porch(idle_s=0.1) as made:
            head = _HEAD + b"Content-Length: 9\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            writer.write(head + b"Connection: close\r\n\r\n{}")
            assert (await reader.read()).split()[1] == b"408"
            assert not made.came
            writer.close()
            status, _, _ = await made.ask("POST", "/x", {**_JSON, "Content-Length": "9" * 30})
            assert status in (400, 413)

    asyncio.run(main())


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 2\r\nTransfer-Encoding: identity",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: +2",
        "Content-Length: 2, 2",
        "Content-Length: -1",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_body_whose_end_can_be_read_in_two_ways_is_refused(porch: Any, framing: str) -> None:
    async def main() -> None:
        async with porch() as made:
            head = f"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n"
            answer = await made.raw(head.encode() + b"Connection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
            assert answer.split()[1] == b"400"
            assert not made.came
            assert not made.faults

    asyncio.run(main())


def test_a_compressed_body_is_not_taken(porch: Any) -> None:
    for coding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
        assert _status(porch, "POST", "/x", {**_JSON, "Content-Encoding": coding}, b"{}") == status


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(porch: Any) -> None:
    async def main() -> None:
        async with porch() as made:
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            head = _HEAD + b"Content-Length: 2\r\n"
            writer.write(head + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()

    asyncio.run(main())
