"""A command that measures gets the card from a gateway that runs here, and notices no other."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from narthex.cli.card_lease import card_lease, find_gateway, must_be_no_gateway
from narthex.cli.target import find_target
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.discovery import look
from narthex.errors import EngineError, UsageError
from narthex.gateway.lease import StudyLease
from narthex.testing.comfyui.card import OneAtATime
from narthex.testing.fake_comfyui import FakeComfyUI
from narthex.testing.gateway_loop import GatewayLoop, Handler


class Gateway:
    """A gateway's door, as far as a study sees it."""

    def __init__(self, **more: Any) -> None:
        self.card = OneAtATime()
        self.said: list[str] = []
        self._more = more
        self.loop = GatewayLoop(self._routes)

    def _routes(self) -> dict[tuple[str, str], Handler]:
        async def version(request: web.BaseRequest, client: str, number: str) -> web.Response:
            return web.json_response({"version": "0.33.0", "narthex": "0.1.0"})

        lease = StudyLease(self.card, busy=lambda: ["qwen3:30b"], ollama="http://there:11434", **self._more)
        return {**lease.routes(), ("GET", "/api/version"): version}

    def lease(self, **more: Any) -> Any:
        return card_lease("narthex tune", say=self.said.append, left=lambda: 60.0, **more)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    found = Gateway(beat_s=0.05)
    with found.loop:
        monkeypatch.setenv("NARTHEX_GATEWAY", found.loop.url)
        yield found


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_card_is_the_commands_until_its_end(gateway: Gateway) -> None:
    with gateway.lease():
        assert gateway.card.events == ["+study"]
    assert gateway.card.events == ["+study", "-study"]
    assert len(gateway.said) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_the_card_is_free_again_however_the_command_ends(
    gateway: Gateway, error: type[BaseException]
) -> None:
    with pytest.raises(error), gateway.lease():
        raise error
    assert gateway.card.events == ["+study", "-study"]


def test_the_wait_is_told_with_what_has_to_end_first(gateway: Gateway) -> None:
    async def chat() -> None:
        place = await gateway.card.acquire(["llm"], wait_s=30)

        async def end() -> None:
            while not gateway.said:
                await asyncio.sleep(0.01)
            gateway.card.release(place)

        gateway.ending = asyncio.create_task(end())  # type: ignore[attr-defined]

    gateway.loop.run(chat)
    with gateway.lease():
        assert gateway.card.events == ["+llm", "-llm", "+study"]
    assert "waiting until the gateway" in gateway.said[0]
    assert "qwen3:30b" in gateway.said[0]


def test_a_gateway_that_does_not_give_the_card_is_an_error(gateway: Gateway) -> None:
    async def chat() -> None:
        await gateway.card.acquire(["llm"], wait_s=30)

    gateway.loop.run(chat)
    refused = pytest.raises(EngineError, match="does not give the card: The card was busy")
    with refused as error, gateway.lease(wait_s=0.05):
        pass
    assert "NARTHEX_GATEWAY=off" in error.value.hint


def test_without_a_gateway_there_is_no_word_and_no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_GATEWAY", f"127.0.0.1:{closed_port()}")
    said: list[str] = []
    with card_lease("narthex tune", say=said.append, left=lambda: None):
        assert said == []


def test_another_server_at_that_address_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeComfyUI() as other:
        monkeypatch.setenv("NARTHEX_GATEWAY", other.url)
        assert find_gateway() is None
        assert not [row for row in other.requests if row[0] == "POST"]


def test_a_gateway_can_be_left_out(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_GATEWAY", "off")
    with gateway.lease():
        assert gateway.loop.requests == []


def test_the_address_is_where_narthex_toml_has_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.delenv("NARTHEX_GATEWAY")
    policy = tmp_path / "narthex.toml"
    policy.write_text(f'[gateway]\nlisten = "0.0.0.0:{gateway.loop.url.rpartition(":")[2]}"\n')
    monkeypatch.setenv("NARTHEX_CONFIG", str(policy))
    found = find_gateway()
    assert found is not None
    assert found.url == gateway.loop.url


def test_a_gateway_with_keys_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def closed(request: web.BaseRequest, client: str, number: str) -> web.Response:
        known = request.headers.get("Authorization") == "Bearer secret"
        return web.json_response(
            {"narthex": "0.1.0"}, status=200 if known else 401, headers={"X-Narthex-Request-Id": "1"}
        )

    with GatewayLoop(lambda: {("GET", "/narthex/lease"): closed}) as loop:
        monkeypatch.setenv("NARTHEX_GATEWAY", loop.url)
        with pytest.raises(UsageError, match="asks for a key") as error:
            find_gateway()
        assert "NARTHEX_GATEWAY_KEY" in error.value.hint
        monkeypatch.setenv("NARTHEX_GATEWAY_KEY", "secret")
        assert find_gateway() is not None
        monkeypatch.delenv("NARTHEX_GATEWAY_KEY")
        (tmp_path / "keys").write_text("# whose\nstudies secret\n")
        (tmp_path / "narthex.toml").write_text(f'[gateway]\nkeys = "{tmp_path / "keys"}"\n')
        monkeypatch.setenv("NARTHEX_CONFIG", str(tmp_path / "narthex.toml"))
        assert find_gateway() is not None


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("ftp://there", "http://there:port"):
        monkeypatch.setenv("NARTHEX_GATEWAY", words)
        with pytest.raises(UsageError, match="no address of a gateway"):
            find_gateway()


def test_a_gateway_that_ends_while_the_command_waits_is_no_obstacle(gateway: Gateway) -> None:
    async def chat() -> None:
        await gateway.card.acquire(["llm"], wait_s=30)

    gateway.loop.run(chat)

    def say(words: str) -> None:
        gateway.said.append(words)
        gateway.loop.end()

    with card_lease("narthex tune", say=say, left=lambda: None):
        assert len(gateway.said) == 1


def test_a_study_at_the_gateway_itself_is_refused_with_ollamas_address(gateway: Gateway) -> None:
    server = look(parse_host(gateway.loop.url), "flag")
    assert server.gateway
    with pytest.raises(UsageError, match="is narthex' own gateway") as error:
        must_be_no_gateway(server)
    assert "--ollama http://there:11434" in error.value.hint
    with pytest.raises(UsageError, match="is narthex' own gateway"):
        find_target("quality", ollama=gateway.loop.url)


def test_a_lease_that_the_gateway_forgot_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(ttl_s=0.02)
    with gateway.loop:
        monkeypatch.setenv("NARTHEX_GATEWAY", gateway.loop.url)
        with gateway.lease(renew_s=0.1):
            until = time.monotonic() + 30
            while gateway.card.events.count("+study") < 2 and time.monotonic() < until:
                time.sleep(0.01)
        assert gateway.card.events.count("+study") >= 2
        assert "the gateway forgot" in gateway.said[1]
