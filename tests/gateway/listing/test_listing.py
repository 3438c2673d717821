"""What the listing answers, through a real server, in front of a real HTTP Ollama of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
import ollama
import openai
import pytest
from aiohttp import web

from narthex.gateway.listing.listing import SPOKEN, Listing
from narthex.gateway.listing.ollama import OllamaView
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Holding, Room, Snapshot
from narthex.gateway.trouble import Trouble

BIG_TAG = (
    b'{"name":"big:32b","model":"big:32b","modified_at":"2026-11-01T10:00:00.123456789Z","size":19851337640,'
    b'"digest":"d1","details":{"family":"qwen2","families":null},"new_field":1e3}'
)
SMALL_TAG = BIG_TAG.replace(b"big:32b", b"me/small:latest").replace(b'"d1"', b'"d2"')
BIG_PS = (
    b'{"name":"big:32b","model":"big:32b","size":6442450944,"digest":"d1","details":{},'
    b'"expires_at":"2318-03-04T10:05:00.123456789Z","size_vram":6442450944,"context_length":8192}'
)
BIG = Offer(key="o:big", backend="ollama", name="big:32b", model="big:32b", twin="d1", digest="d1")
TUNED = Offer(
    key="o:tuned", backend="ollama", name="tuned", model="big:32b", twin="d1", digest="d1", profile="tuned"
)
GGUF = Offer(
    key="l:file", backend="llama-server", name="file.gguf", model="/m/file.gguf", twin="f", num_ctx=4096
)


class FakeOllama:
    """Answers lists and shows; can hang or be gone."""

    def __init__(self) -> None:
        self.ps: list[bytes] = []
        self.version = b"0.33.0-rc2"
        self.asked: list[str] = []
        self.shows: list[bytes] = []
        self.page = b""  # of another program that answers there
        self.well = asyncio.Event()
        self.well.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        await self.well.wait()
        if request.path == "/api/show":
            self.shows.append(await request.read())
            if self.page:
                return web.Response(body=self.page)
            known = b"big:32b" in self.shows[-1]
            return web.Response(
                body=b'{"model_info":{},"tensors":[]}' if known else b'{"error":"model not found"}',
                status=200 if known else 404,
            )
        if request.path == "/api/version":
            return web.Response(body=b'{"version":"' + self.version + b'"}')
        return web.Response(body=b'{"models":[' + b",".join(self.ps) + b"]}")


class Shelf:
    """A catalogue that is there already."""

    def __init__(self, tags: Sequence[bytes], offers: Sequence[Offer]) -> None:
        self._tags, self._offers = [msgspec.Raw(tag) for tag in tags], tuple(offers)
        self.problem: Trouble | None = None
        self.refreshed = 0
        self.further: dict[str, Offer] = {}

    async def refresh(self) -> None:
        self.refreshed += 1

    def offers(self) -> tuple[Offer, ...]:
        return self._offers

    def names(self) -> tuple[str, ...]:
        return (*(offer.name for offer in self._offers), *self.further)

    def named(self, name: str) -> Offer | None:
        known = {offer.name: offer for offer in self._offers}
        return known.get(name) or self.further.get(name)

    def tags(self) -> Sequence[msgspec.Raw]:
        return self._tags


class Roles:
    def __init__(self, roles: Mapping[str, Offer | None]) -> None:
        self._roles = roles

    def roles(self) -> Mapping[str, Offer | None]:
        return self._roles


class Card:
    def __init__(self, *holdings: Holding) -> None:
        self.holdings = holdings

    def snapshot(self) -> Snapshot:
        return Snapshot(room=Room(), holdings=self.holdings, waiting=(), remembered=())


class Described:
    def tag_of(self, offer: Offer) -> dict[str, Any]:
        return {
            "modified_at": "2026-01-01T00:00:00Z",
            "size": 7,
            "digest": "f",
            "details": {"format": "gguf"},
        }

    def show_of(self, offer: Offer, *, verbose: bool) -> dict[str, Any]:
        return {"model_info": {"general.name": offer.name}, "verbose": verbose}


def ready(key: str, held: int | None = 5) -> Holding:
    return Holding(key=key, state="ready", held=held, running=0, since=0.0, idle_since=None)


class Ask:
    """A client of the listing."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self._session = url, session

    async def __call__(self, path: str, body: Any = None) -> tuple[int, Any]:
        how = {} if body is None else {"json": body}
        method = "GET" if body is None else "POST"
        async with self._session.request(method, self.url + path, **how) as response:
            return response.status, await response.json(content_type=None)


@asynccontextmanager
async def server(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listing(
    shelf: Shelf,
    roles: Mapping[str, Offer | None] | None = None,
    card: Card | None = None,
    ollama: FakeOllama | None = None,
) -> AsyncIterator[tuple[Ask, Listing]]:
    """A listing behind a real server, and a way to ask it."""
    async with server((ollama or FakeOllama()).handle) as url, aiohttp.ClientSession() as session:
        made = Listing(
            shelf,
            Roles(roles or {}),
            card or Card(),
            Described(),
            ollama=OllamaView(url) if ollama is not None else None,
            keep_alive_of=lambda offer: 600.0,
        )
        routes = made.routes()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            path = "/v1/models/" if request.path.startswith("/v1/models/") else request.path
            try:
                return await routes[request.method, path](request, "", "r-1")
            except Trouble as trouble:
                return web.json_response({"error": trouble.text}, status=trouble.status)

        async with server(handle) as door:
            try:
                yield Ask(door, session), made
            finally:
                if ollama is not None:
                    ollama.well.set()
                await made.close()


def test_the_root_says_what_ollamas_clients_look_for() -> None:
    async def run() -> None:
        async with listing(Shelf([], [])) as (_, made):
            response = await made.routes()["HEAD", "/"](None, "", "")  # type: ignore[arg-type]
            assert isinstance(response, web.Response)
            assert response.body == b"Ollama is running"

    asyncio.run(run())


def test_tags_list_roles_then_ollamas_own_bytes_then_profiles_and_files() -> None:
    async def run() -> None:
        shelf = Shelf([BIG_TAG, SMALL_TAG], [BIG, TUNED, GGUF])
        shelf.further = {"demo": GGUF, "/m/file.gguf": GGUF}
        async with listing(shelf, {"quality": TUNED, "code": None}) as (_, made):
            rows = made.tags()
        assert list(rows) == ["quality", "big:32b", "me/small:latest", "tuned", "file.gguf", "demo"]
        assert bytes(rows["big:32b"]) == BIG_TAG
        for name, raw in rows.items():
            row = msgspec.json.decode(raw)
            assert (row["name"], row["model"]) == (name, name)
            assert row["details"]
        assert b'"new_field":1e3' in bytes(rows["quality"])  # what is not renamed stays as it came

    asyncio.run(run())


def test_tags_over_http_are_ollamas_shape() -> None:
    async def run() -> None:
        async with listing(Shelf([BIG_TAG], [BIG]), {"fast": BIG}) as (ask, _):
            status, answer = await ask("/api/tags")
        assert status == 200
        assert [row["model"] for row in answer["models"]] == ["fast", "big:32b"]

    asyncio.run(run())


def test_ps_shows_ollamas_own_element_where_there_is_one() -> None:
    async def run() -> None:
        ollama = FakeOllama()
        ollama.ps = [BIG_PS]
        shelf = Shelf([BIG_TAG], [BIG, GGUF])
        async with listing(shelf, card=Card(ready("o:big"), ready("l:file", 9)), ollama=ollama) as (ask, _):
            _, answer = await ask("/api/ps")
        big, file = answer["models"]
        assert big == msgspec.json.decode(BIG_PS)
        assert (file["model"], file["size_vram"], file["context_length"]) == ("file.gguf", 9, 4096)
        for row in answer["models"]:
            assert datetime.fromisoformat(row["expires_at"])

    asyncio.run(run())


def test_ps_shows_a_loaded_model_that_ollama_has_not_told_yet_and_none_that_loads() -> None:
    async def run() -> None:
        loading = Holding(key="l:file", state="loading", held=None, running=0, since=0.0, idle_since=None)
        shelf = Shelf([BIG_TAG], [BIG, GGUF])
        async with listing(shelf, card=Card(ready("o:big"), loading), ollama=FakeOllama()) as (ask, _):
            _, answer = await ask("/api/ps")
        (row,) = answer["models"]
        assert (row["model"], row["digest"]) == ("big:32b", "d1")

    asyncio.run(run())


def test_the_version_is_ollamas_own_with_narthexs_beside_it() -> None:
    async def run() -> None:
        async with listing(Shelf([], []), ollama=FakeOllama()) as (ask, _):
            _, answer = await ask("/api/version")
        assert answer["version"] == "0.33.0-rc2"
        assert answer["narthex"]

    asyncio.run(run())


def test_without_an_ollama_the_version_is_one_that_clients_can_read() -> None:
    async def run() -> None:
        async with listing(Shelf([], [])) as (ask, _):
            _, answer = await ask("/api/version")
        assert answer["version"] == SPOKEN
        assert [int(part) for part in SPOKEN.split(".")]

    asyncio.run(run())


def test_openais_list_and_single_models_have_the_same_names() -> None:
    async def run() -> None:
        async with listing(Shelf([BIG_TAG, SMALL_TAG], [BIG]), {"fast": BIG}) as (ask, _):
            _, answer = await ask("/v1/models")
            ids = [row["id"] for row in answer["data"]]
            assert ids == ["fast", "big:32b", "me/small:latest"]
            for name in (*ids, "me/small", "me%2Fsmall:latest"):
                status, one = await ask(f"/v1/models/{name}")
                assert (status, one["object"]) == (200, "model")
            assert answer["data"][2]["owned_by"] == "me"
            assert answer["data"][1]["created"] == 1793527200  # when it was changed
            assert (await ask("/v1/models/nowhere"))[0] == 404

    asyncio.run(run())


def test_what_is_no_description_of_a_model_is_not_kept_as_one() -> None:
    async def run() -> None:
        ollama = FakeOllama()
        ollama.page = b"<html>It works!</html>"
        async with listing(Shelf([BIG_TAG], [BIG]), {}, ollama=ollama) as (ask, _):
            assert (await ask("/api/show", {"model": "big:32b"}))[0] == 502
            ollama.page = b""
            assert (await ask("/api/show", {"model": "big:32b"}))[0] == 200

    asyncio.run(run())


def test_a_show_of_a_role_is_its_models_and_asked_for_once() -> None:
    async def run() -> None:
        ollama = FakeOllama()
        async with listing(Shelf([BIG_TAG], [BIG]), {"quality": BIG}, ollama=ollama) as (ask, _):
            assert (await ask("/api/show", {"model": "quality"}))[0] == 200
            assert (await ask("/api/show", {"name": "big:32b"}))[0] == 200
            assert len(ollama.shows) == 1
            assert (await ask("/api/show", {"name": "big:32b", "verbose": True}))[0] == 200
        assert ollama.shows == [b'{"model":"big:32b"}', b'{"model":"big:32b","verbose":true}']

    asyncio.run(run())


def test_a_show_of_a_name_that_only_ollama_could_know_is_passed_on() -> None:
    async def run() -> None:
        async with listing(Shelf([], []), ollama=FakeOllama()) as (ask, _):
            status, answer = await ask("/api/show", {"model": "new:1b"})
        assert (status, answer) == (404, {"error": "model not found"})

    asyncio.run(run())


def test_a_show_of_a_file_needs_no_ollama() -> None:
    async def run() -> None:
        async with listing(Shelf([], [GGUF])) as (ask, _):
            status, answer = await ask("/api/show", {"model": "file.gguf", "verbose": True})
            assert (status, answer["verbose"]) == (200, True)
            assert (await ask("/api/show", {"model": "nowhere"}))[0] == 404
            assert (await ask("/api/show", {"verbose": True}))[0] == 400
            assert (await ask("/api/show", ["no object"]))[0] == 400

    asyncio.run(run())


def test_a_role_without_a_model_says_so_in_show() -> None:
    async def run() -> None:
        async with listing(Shelf([], []), {"code": None}) as (ask, _):
            status, answer = await ask("/api/show", {"model": "code:latest"})
        assert status == 404
        assert "role «code»" in answer["error"]

    asyncio.run(run())


def test_after_a_change_the_next_caller_gets_what_is_there_now() -> None:
    async def run() -> None:
        ollama = FakeOllama()
        ollama.ps = [BIG_PS]
        async with listing(Shelf([BIG_TAG], [BIG]), ollama=ollama) as (ask, made):
            assert len((await ask("/api/ps"))[1]["models"]) == 1
            ollama.ps = []
            made.fresh.doubt()
            assert (await ask("/api/ps"))[1]["models"] == []

    asyncio.run(run())


def test_an_answer_that_is_no_list_of_models_counts_as_none() -> None:
    async def run() -> None:
        ollama = FakeOllama()
        ollama.ps = [b"17", b'{"no":"name"}']
        async with listing(Shelf([BIG_TAG], [BIG]), ollama=ollama) as (ask, made):
            assert (await ask("/api/ps"))[1]["models"] == []
            assert made.ollama is not None
            assert made.ollama.answers is False

    asyncio.run(run())


def test_the_official_clients_read_every_list() -> None:
    async def run() -> None:
        fake = FakeOllama()
        fake.ps = [BIG_PS]
        shelf = Shelf([BIG_TAG, SMALL_TAG], [BIG, GGUF])
        async with listing(shelf, {"quality": BIG}, Card(ready("l:file")), fake) as (ask, _):
            await asyncio.to_thread(read_all, ask.url)

    def read_all(url: str) -> None:
        client = ollama.Client(host=url, trust_env=False)
        names = ["quality", "big:32b", "me/small:latest", "file.gguf"]
        assert [model.model for model in client.list().models] == names
        assert [model.model for model in client.ps().models] == ["big:32b", "file.gguf"]
        other = openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", http_client=openai.DefaultHttpxClient(trust_env=False)
        )
        assert [model.id for model in other.models.list()] == names
        assert other.models.retrieve("quality").id == "quality"
        with pytest.raises(openai.NotFoundError):
            other.models.retrieve("nowhere")

    asyncio.run(run())


def test_an_ollama_that_hangs_holds_up_one_caller_for_a_moment_and_nobody_after_it() -> None:
    async def run() -> None:
        ollama = FakeOllama()
        ollama.well.clear()
        async with listing(Shelf([BIG_TAG], [BIG]), ollama=ollama) as (ask, made):
            for _ in range(5):
                status, answer = await asyncio.wait_for(ask("/api/tags"), 5)
                assert (status, len(answer["models"])) == (200, 1)
            asked = list(ollama.asked)
            assert sorted(asked) == ["/api/ps", "/api/version"]  # one look for all five
            assert made.fresh.age_s is None

    asyncio.run(run())


def test_an_ollama_that_went_down_leaves_its_last_list() -> None:
    async def run() -> None:
        shelf = Shelf([BIG_TAG], [BIG])
        ollama = FakeOllama()
        ollama.ps = [BIG_PS]
        async with server(ollama.handle) as url:
            view = OllamaView(url)
            assert await view.look()
        assert not await view.look()
        assert (view.answers, len(view.ps), view.version) == (False, 1, "0.33.0-rc2")
        with pytest.raises(Trouble, match="does not answer") as caught:
            await view.show(b"{}")
        assert caught.value.status == 502
        await view.close()
        assert shelf.refreshed == 0

    asyncio.run(run())
