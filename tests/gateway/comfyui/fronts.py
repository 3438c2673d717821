"""A proxy before a fake ComfyUI, as the gateway has it: an aiohttp low-level server on loopback."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from narthex.gateway.comfyui.arbiter import Arbiter
from narthex.gateway.comfyui.client import ComfyClient
from narthex.gateway.comfyui.proxy import ComfyProxy
from narthex.testing.comfyui.card import OneAtATime, Place
from narthex.testing.fake_comfyui import portrait

PATIENCE_S = 30.0
PREFIX = "/comfyui"


class Front:
    """What a test needs: the addresses, the card, the arbiter, and a session of a client."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = f"{url}{PREFIX}"
        self.session = session
        self.card = OneAtATime()
        self.arbiter: Arbiter[Place] | None = None

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=headers, **more) as answer:
            raw = await answer.read()
        return answer.status, json.loads(raw) if raw.startswith((b"{", b"[")) else raw


@asynccontextmanager
async def front(target: str, *, lease: bool = False, key: str = "", **timing: float) -> AsyncIterator[Front]:
    """``lease``: prompts wait for the card, with an arbiter that looks twenty times a second."""
    async with AsyncExitStack() as stack:
        comfyui = ComfyClient(target)
        stack.push_async_callback(comfyui.close)
        proxy = ComfyProxy(comfyui)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await proxy.handle(request, request.rel_url.raw_path_qs.removeprefix(PREFIX), key)

        runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        found = Front(f"http://127.0.0.1:{port}", session)
        if lease:
            usual = {"wait_s": PATIENCE_S, "linger_s": 0.0, "look_s": 0.05, "gap_s": 0.05}
            proxy.arbiter = found.arbiter = Arbiter(found.card, comfyui, **{**usual, **timing})
            found.arbiter.start()
            stack.push_async_callback(found.arbiter.close)
        yield found


def long_portrait() -> dict[str, Any]:
    """Many short steps: it lasts, and ends soon when it is stopped."""
    graph = portrait()
    graph["4"]["inputs"]["steps"] = 100
    return graph


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.01)


async def image(front: Front, graph: dict[str, Any]) -> bytes:
    """As OpenWebUI gets one: a socket, the prompt, the wait for its end, the history, the file."""
    client = str(uuid.uuid4())
    async with front.session.ws_connect(f"{front.url}/ws?clientId={client}") as socket:
        status, answer = await front.ask("POST", "/prompt", {"prompt": graph, "client_id": client})
        assert status == 200, answer
        prompt_id = answer["prompt_id"]
        while True:
            message = await socket.receive(PATIENCE_S)
            if message.type is aiohttp.WSMsgType.BINARY:
                continue
            event = json.loads(message.data)
            end = {"node": None, "prompt_id": prompt_id}
            if event["type"] == "executing" and end.items() <= event["data"].items():
                break
        entry = (await front.ask("GET", f"/history/{prompt_id}"))[1][prompt_id]
    picture = next(found for output in entry["outputs"].values() for found in output["images"])
    query = f"filename={picture['filename']}&subfolder={picture['subfolder']}&type={picture['type']}"
    status, content = await front.ask("GET", f"/view?{query}")
    assert status == 200
    return bytes(content)
