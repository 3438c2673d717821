"""Keys, and where the gateway listens only with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from narthex.errors import UsageError
from narthex.gateway.door.door import Door
from narthex.gateway.door.keys import Keys, read_keys
from narthex.policy.records import GatewayPolicy

_ONE, _TWO = "k" * 24, "m" * 24


def _file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def keyed(tmp_path: Path) -> GatewayPolicy:
    return GatewayPolicy(keys=str(_file(tmp_path, f"# who\n\nlaptop {_ONE}\nwebui {_TWO}\n")))


def test_a_client_is_known_by_its_key(porch: Any, keyed: GatewayPolicy) -> None:
    async def main() -> None:
        async with porch(keyed) as made:
            assert (await made.ask(headers={"Authorization": f"Bearer {_ONE}"}))[0] == 200
            assert (await made.ask(headers={"authorization": f"bearer  {_TWO} "}))[0] == 200
            assert (await made.ask(headers={"X-Api-Key": _TWO}))[0] == 200
            assert [row[0] for row in made.came] == ["laptop", "webui", "webui"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {_ONE}"},
        {"Authorization": f"Bearer {_ONE}x"},
        {"Authorization": f"Bearer {_ONE[:-1]}"},
        {"Authorization": f"Bearer {_ONE.upper()}"},
        {"Authorization": "Bearer laptop"},
        {"Authorization": "Bearer \xfc\xff"},
        {"X-Api-Key": "x" * 4000},
    ],
)
def test_without_a_right_key_nobody_comes_in(
    porch: Any, keyed: GatewayPolicy, headers: dict[str, str]
) -> None:
    async def main() -> None:
        async with porch(keyed) as made:
            status, answer, told = await made.ask(headers=headers)
            assert status == 401
            assert answer["www-authenticate"] == "Bearer"
            assert told["narthex"]["cause"] in ("no_key", "wrong_key")
            assert not made.came
            assert not made.faults

    asyncio.run(main())


def test_a_health_check_needs_no_key_and_nothing_else_does_without(porch: Any, keyed: GatewayPolicy) -> None:
    async def main() -> None:
        async with porch(keyed) as made:
            json = {"Content-Type": "application/json"}
            assert (await made.ask("GET", "/healthz"))[0] == 200
            assert (await made.ask("HEAD", "/healthz"))[0] == 200
            assert (await made.ask("POST", "/healthz", json))[0] == 401
            assert (await made.ask("GET", "/healthz/../api/tags"))[0] == 401
            assert (await made.ask("GET", "/readyz"))[0] == 401

    asyncio.run(main())


def test_the_host_is_judged_before_the_key(porch: Any, keyed: GatewayPolicy) -> None:
    async def main() -> None:
        async with porch(keyed) as made:
            sent = {"Authorization": f"Bearer {_ONE}"}
            assert (await made.ask(headers=sent, host="evil.example"))[0] == 403

    asyncio.run(main())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o602])
def test_a_file_of_keys_that_others_can_use_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    path = _file(tmp_path, f"a {_ONE}\n", mode)
    with pytest.raises(UsageError) as caught:
        read_keys(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_tight_file_is_taken(tmp_path: Path, mode: int) -> None:
    assert read_keys(_file(tmp_path, f"a {_ONE}\n", mode)).name_of(_ONE) == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only words\n",
        "alone\n",
        f"a {_ONE} more\n",
        "a short\n",
        f"a {_ONE}\na {_TWO}\n",
        f"a {_ONE}\nb {_ONE}\n",
    ],
)
def test_a_file_that_is_no_list_of_keys_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        read_keys(_file(tmp_path, text))


@pytest.mark.parametrize("name", ["/none", "/tmp", "a\0b", "~nobody-of-this-name/keys"])
def test_a_file_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_keys(Path(name))


def test_no_key_stands_in_what_keys_keep() -> None:
    assert _ONE not in repr(vars(Keys({"a": _ONE})))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.lan", "8.8.8.8", "2130706433"])
def test_outside_loopback_the_gateway_wants_keys(host: str, keyed: GatewayPolicy) -> None:
    with pytest.raises(UsageError, match="keys"):
        Door(GatewayPolicy(), host=host, port=11435)
    Door(keyed, host=host, port=11435)
    Door(GatewayPolicy(), host=host, port=11435, container=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_on_loopback_it_does_not(host: str) -> None:
    Door(GatewayPolicy(), host=host, port=11435)
