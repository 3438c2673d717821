"""ComfyUI behind the gateway: everything passes as it came, and nobody stops another's work."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from narthex.testing.comfyui.executor import png
from narthex.testing.fake_comfyui import FakeComfyUI, portrait

from .fronts import Front, front, image, long_portrait, until

REAL_COMFYUI = os.environ.get("NARTHEX_TEST_COMFYUI", "").rstrip("/")  # the tests don't see it


@pytest.fixture
def comfyui() -> Iterator[FakeComfyUI]:
    with FakeComfyUI(work_s=0.1, previews=True) as fake:
        yield fake


def test_an_image_is_made_in_openwebuis_way(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            assert (await image(here, portrait()))[:4] == b"\x89PNG"

    asyncio.run(story())


@pytest.mark.skipif(not REAL_COMFYUI, reason="NARTHEX_TEST_COMFYUI names no ComfyUI")
def test_a_real_comfyui_makes_an_image_through_a_lease() -> None:
    async def story() -> None:
        async with front(REAL_COMFYUI, lease=True) as here:
            status, stats = await here.ask("GET", "/api/system_stats")
            assert status == 200
            assert stats["system"]["comfyui_version"]
            assert (await image(here, portrait(seed=None)))[:4] == b"\x89PNG"
            await until(lambda: here.card.events == ["+comfyui", "-comfyui"])
            status, answer = await here.ask("POST", "/prompt", {"prompt": {"1": {"class_type": "Nonsense"}}})
            assert status == 400
            assert answer["error"]["type"] in ("missing_node_type", "invalid_prompt")
            assert here.card.holders == []
            assert (await here.ask("POST", "/interrupt"))[0] == 200

    asyncio.run(story())


def test_each_route_is_there_plain_and_below_api(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            for path in ("/queue", "/api/queue", "/api/history", "/system_stats"):
                assert (await here.ask("GET", path))[0] == 200
            assert (await here.ask("GET", "/nowhere"))[0] == 404

    asyncio.run(story())


def test_the_prefix_without_its_slash_leads_to_the_page(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here, here.session.get(here.url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (308, "/comfyui/")

    asyncio.run(story())


def test_a_path_and_its_query_stay_as_they_are_written(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            await here.ask("GET", "/view?filename=a%2Fb%20c.png&type=temp")

    asyncio.run(story())
    assert ("GET", "/view?filename=a%2Fb%20c.png&type=temp", None) in comfyui.requests


def test_a_page_of_the_gateways_own_origin_is_not_foreign_to_comfyui(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            origin = {"Origin": here.url.removesuffix("/comfyui")}
            assert (await here.ask("GET", "/queue", headers=origin))[0] == 200
            async with here.session.ws_connect(f"{here.url}/ws", headers=origin) as socket:
                assert (await socket.receive_json())["type"] == "status"

    asyncio.run(story())


def test_an_upload_passes_in_pieces(comfyui: FakeComfyUI) -> None:
    async def story() -> int:
        async with front(comfyui.url) as here:
            form = aiohttp.FormData()
            form.add_field("image", bytes(3 << 20), filename="upload.png")
            async with here.session.post(f"{here.url}/api/upload/image", data=form, expect100=True) as answer:
                assert (await answer.json())["name"] == "upload.png"
                return int(answer.request_info.headers["Content-Length"])

    sent = asyncio.run(story())
    assert ("POST", "/upload/image", sent) in comfyui.requests


def test_a_validation_error_is_comfyuis_own(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            status, answer = await here.ask("POST", "/prompt", {"prompt": {"1": {"class_type": "Nonsense"}}})
            assert (status, answer["error"]["type"]) == (400, "missing_node_type")

    asyncio.run(story())


def test_a_comfyui_that_is_not_there_is_named_in_its_own_error_shape(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            comfyui.vanish()
            for method, path in (("GET", "/queue"), ("POST", "/prompt"), ("POST", "/interrupt")):
                status, answer = await here.ask(method, path, {} if method == "POST" else None)
                assert (status, answer["error"]["type"]) == (502, "comfyui_unreachable")
                assert answer["node_errors"] == {}
                assert comfyui.url in answer["error"]["message"]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await here.session.ws_connect(f"{here.url}/ws")
            assert refusal.value.status == 502

    asyncio.run(story())


# its WebSocket


def test_text_and_binary_frames_go_both_ways_with_the_clients_id(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            async with here.session.ws_connect(f"{here.url}/ws?clientId=me") as socket:
                assert (await socket.receive_json())["data"]["sid"] == "me"
                await socket.send_str('{"type":"feature_flags","data":{}}')
                await here.ask("POST", "/prompt", {"prompt": portrait(), "client_id": "me"})
                while (message := await socket.receive(30)).type is not aiohttp.WSMsgType.BINARY:
                    pass
                assert message.data == b"\0\0\0\1\0\0\0\1" + png()
                await until(lambda: bool(comfyui.sockets.heard))
            assert comfyui.sockets.heard == [("me", '{"type":"feature_flags","data":{}}')]

    asyncio.run(story())


def test_the_client_ends_it_and_comfyui_hears_the_code(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            socket = await here.session.ws_connect(f"{here.url}/ws?clientId=me")
            await socket.receive_json()
            await socket.close(code=4001, message=b"enough")
            await until(lambda: comfyui.sockets.ended == [("me", 4001)])
            assert comfyui.sockets.clients() == set()

    asyncio.run(story())


def test_comfyui_ends_it_and_the_client_hears_the_code(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with (
            front(comfyui.url) as here,
            here.session.ws_connect(f"{here.url}/ws?clientId=me") as socket,
        ):
            await socket.receive_json()
            comfyui.sockets.end("me", 4002, "over")
            last = await socket.receive(30)
            assert (last.type, last.data, last.extra) == (aiohttp.WSMsgType.CLOSE, 4002, "over")

    asyncio.run(story())


def test_a_client_whose_comfyui_vanishes_is_told(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with (
            front(comfyui.url) as here,
            here.session.ws_connect(f"{here.url}/ws?clientId=me") as socket,
        ):
            await socket.receive_json()
            comfyui.sockets.drop()
            last = await socket.receive(30)
            assert (last.type, last.data) == (aiohttp.WSMsgType.CLOSE, 1011)

    asyncio.run(story())


def test_a_client_that_is_gone_leaves_no_socket_behind(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            async with aiohttp.ClientSession() as other:
                socket = await other.ws_connect(f"{here.url}/ws?clientId=me")
                await socket.receive_json()
                assert comfyui.sockets.clients() == {"me"}
            await until(lambda: comfyui.sockets.clients() == set())

    asyncio.run(story())


# an interrupt


async def running_prompt(here: Front, comfyui: FakeComfyUI, **more: Any) -> str:
    answer = (await here.ask("POST", "/prompt", {"prompt": long_portrait(), **more}))[1]
    await until(lambda: comfyui.executor.running is not None)
    return str(answer["prompt_id"])


def interrupts(comfyui: FakeComfyUI) -> list[Any]:
    return [body for method, path, body in comfyui.requests if path == "/interrupt"]


def test_an_empty_interrupt_stops_only_the_prompt_of_who_asks() -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=20) as comfyui:
            async with front(comfyui.url) as here:
                prompt_id = await running_prompt(here, comfyui)
                other = {"User-Agent": "another program"}
                status, answer = await here.ask("POST", "/api/interrupt", headers=other)
                assert (status, answer["error"]["type"]) == (400, "interrupt_without_prompt")
                assert interrupts(comfyui) == []
                assert (await here.ask("POST", "/api/interrupt"))[0] == 200
                assert interrupts(comfyui) == [{"prompt_id": prompt_id}]
                await until(lambda: prompt_id in comfyui.executor.history)

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/interrupt", "/%69nterrupt", "/api//interrupt", "/api/./interrupt"])
def test_what_runs_for_another_is_not_stopped_by_any_spelling(path: str) -> None:
    async def story() -> None:
        with FakeComfyUI(work_s=20) as comfyui:
            comfyui.executor.put(str(uuid.uuid4()), long_portrait(), {}, front=False)
            await until(lambda: comfyui.executor.running is not None)
            async with front(comfyui.url) as here:
                assert (await here.ask("POST", path, {}))[0] == 400
                assert interrupts(comfyui) == []

    asyncio.run(story())


def test_an_interrupt_that_names_its_prompt_passes_as_it_is(comfyui: FakeComfyUI) -> None:
    async def story() -> None:
        async with front(comfyui.url) as here:
            assert (await here.ask("POST", "/interrupt", {"prompt_id": "x"}))[0] == 200
            assert (await here.ask("POST", "/interrupt"))[0] == 200  # nothing runs

    asyncio.run(story())
    assert interrupts(comfyui) == [{"prompt_id": "x"}]
