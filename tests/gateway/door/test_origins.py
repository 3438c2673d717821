"""Who may ask, by Host, Origin and Sec-Fetch-Site, on a listening server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from narthex.errors import UsageError
from narthex.gateway.door.door import Door
from narthex.gateway.door.origins import Origins
from narthex.policy.records import GatewayPolicy


def _asks(
    porch: Any, rows: list[dict[str, Any]], policy: GatewayPolicy | None = None, **how: Any
) -> list[int]:
    async def main() -> list[int]:
        async with porch(policy, **how) as made:
            return [(await made.ask(**row))[0] for row in rows]

    found: list[int] = asyncio.run(main())
    return found


_OURS = [
    "127.0.0.1",
    "127.0.0.1:11435",
    "127.0.0.1:80",
    "localhost",
    "LOCALHOST:11435",
    "LocalHost",
    "narthex.localhost:1",
    "[::1]",
    "[::1]:11435",
    "[0:0:0:0:0:0:0:1]:5",
    "127.8.9.10",
]
_FOREIGN = [
    "evil.example",
    "evil.example:11435",
    "192.168.1.5",
    "0.0.0.0",
    "[::]",
    "localhost.evil.example",
    "8.8.8.8",
]
_ODD = [
    "",
    "user@127.0.0.1",
    "127.0.0.1@evil.example",
    "localhost.",
    "localhost.:80",
    "evil.example.",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "127.0.0.1.",
    "127.0.0.01",
    "1.2.3.4.5",
    "[::1%25lo]",
    "[::1%lo]:80",
    "[fe80::1%eth0]",
    "::1",
    "[127.0.0.1]",
    "[::1",
    "127.0.0.1:",
    "127.0.0.1:0",
    "127.0.0.1:99999",
    "127.0.0.1:80:80",
    "127.0.0.1:8o",
    "127.0.0.1/",
    "127.0.0.1,evil.example",
    "127.0.0.1 evil.example",
    "localhost\tx",
    "localhost#x",
    "localhost?x",
    "-localhost..",
    "..",
    "http://127.0.0.1",
    "%6cocalhost",
    "ⓛocalhost",
    "a" * 300,
]


@pytest.mark.parametrize("host", _OURS)
def test_a_name_of_loopback_is_ours(porch: Any, host: str) -> None:
    assert _asks(porch, [{"host": host}]) == [200]


@pytest.mark.parametrize("host", _FOREIGN)
def test_another_name_is_refused_though_it_leads_here(porch: Any, host: str) -> None:
    assert _asks(porch, [{"host": host}]) == [403]


@pytest.mark.parametrize("host", _ODD)
def test_an_odd_form_of_a_host_is_none(porch: Any, host: str) -> None:
    async def main() -> None:
        async with porch() as made:
            head = f"GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            answer = await made.raw(head.encode())
            assert answer.split()[1] == b"400"
            assert not made.came

    asyncio.run(main())


def test_mapped_addresses_are_not_taken_for_loopback(porch: Any) -> None:
    assert _asks(porch, [{"host": "[::ffff:127.0.0.1]"}, {"host": "[::ffff:7f00:1]:80"}]) == [403, 403]


@pytest.mark.parametrize(
    "head",
    [
        "GET /x HTTP/1.1\r\n",
        "GET /x HTTP/1.0\r\n",
        "GET /x HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        "GET /x HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET /x HTTP/1.1\r\nhost: evil.example\r\nHOST: localhost\r\n",
        "GET http://evil.example/x HTTP/1.1\r\nHost: localhost\r\n",
        "GET http://localhost@evil.example/x HTTP/1.1\r\nHost: localhost\r\n",
        "GET https://localhost/x HTTP/1.1\r\nHost: localhost\r\n",
        "GET ftp://localhost/x HTTP/1.1\r\nHost: localhost\r\n",
        "GET HTTP://evil.example HTTP/1.1\r\nHost: localhost\r\n",
        "GET evil.example:80 HTTP/1.1\r\nHost: localhost\r\n",
        "GET x HTTP/1.1\r\nHost: localhost\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n",
        "GET /x HTTP/1.1\r\nHost: localhost\r\n evil.example\r\n",
        "GET /x HTTP/1.1\r\n Host: localhost\r\n",
        "GET /x HTTP/1.1\r\nHost : localhost\r\n",
        "GET /x HTTP/1.1\r\nX: y\r\n\tHost: localhost\r\n",
    ],
)
def test_a_request_that_says_its_host_in_two_ways_or_none_is_refused(porch: Any, head: str) -> None:
    async def main() -> None:
        async with porch() as made:
            answer = await made.raw((head + "Connection: close\r\n\r\n").encode())
            assert answer.split()[1] in (b"400", b"403")
            assert not made.came
            assert not made.faults

    asyncio.run(main())


def test_a_target_with_the_same_host_as_the_header_passes(porch: Any) -> None:
    async def main() -> None:
        async with porch() as made:
            status, _, _ = await made.ask(target="http://LocalHost:5/x", host="localhost:5")
            assert status == 200
            assert made.came[0][2] == "/x"

    asyncio.run(main())


def test_a_page_that_may_not_ask_is_refused_and_told_how_it_could() -> None:
    found = Origins(bound="127.0.0.1", hosts=(), origins=()).verdict(
        "127.0.0.1:11435", "http://localhost:3000", None
    )
    assert found.status == 403
    assert 'origins = ["http://localhost:3000"]' in found.remedy


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "http://evil.example",
        "http://localhost:3000",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://127.0.0.1:11435.evil.example",
        "http://127.0.0.1:11435@evil.example",
        "http://evil.example#127.0.0.1:11435",
        "http://localhost:11435",
        "file://",
        "chrome-extension://abcdef",
        "127.0.0.1:11435",
        "http://127.0.0.1:11435/",
        "http://[::1]:11435",
        "http://2130706433:11435",
    ],
)
def test_no_other_page_may_ask(porch: Any, origin: str) -> None:
    rows = [{"host": "127.0.0.1:11435", "headers": {"Origin": origin}}]
    assert _asks(porch, rows) == [403]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:11435", "http://127.0.0.1:11435"),
        ("localhost:11435", "http://LOCALHOST:11435"),
        ("[::1]:11435", "http://[::1]:11435"),
        ("localhost", "http://localhost"),
        ("localhost", "https://localhost"),
        ("localhost:443", "https://localhost"),
    ],
)
def test_our_own_pages_may_ask(porch: Any, host: str, origin: str) -> None:
    assert _asks(porch, [{"host": host, "headers": {"Origin": origin}}]) == [200]


def test_a_page_of_the_policy_may_ask_and_gets_its_own_name_back(porch: Any) -> None:
    policy = GatewayPolicy(origins=("http://localhost:3000/",))

    async def main() -> None:
        async with porch(policy) as made:
            origin = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
            status, headers, _ = await made.ask(headers=origin)
            assert status == 200
            assert headers["access-control-allow-origin"] == "http://localhost:3000"
            assert headers["vary"] == "Origin"
            asked = {**origin, "Access-Control-Request-Method": "POST"}
            status, headers, _ = await made.ask("OPTIONS", headers=asked)
            assert status == 204
            assert headers["access-control-allow-origin"] == "http://localhost:3000"
            assert "Content-Type" in headers["access-control-allow-headers"]
            assert "access-control-allow-credentials" not in headers
            status, headers, _ = await made.ask(headers={"Origin": "http://localhost:3001"})
            assert status == 403
            assert "access-control-allow-origin" not in headers

    asyncio.run(main())


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:11435"])
def test_a_preflight_is_refused_without_a_word_of_cors(porch: Any, origin: str | None) -> None:
    async def main() -> None:
        async with porch() as made:
            sent = {"Access-Control-Request-Method": "POST", **({"Origin": origin} if origin else {})}
            status, headers, _ = await made.ask("OPTIONS", headers=sent, host="127.0.0.1:11435")
            assert status == 403
            assert not [name for name in headers if name.startswith("access-control")]

    asyncio.run(main())


def test_a_page_of_another_site_is_refused_even_without_an_origin(porch: Any) -> None:
    rows = [
        {"headers": {"Sec-Fetch-Site": site}} for site in ("cross-site", "Cross-Site", "same-origin", "none")
    ]
    assert _asks(porch, rows) == [403, 403, 200, 200]


def test_a_host_of_the_policy_is_ours(porch: Any) -> None:
    policy = GatewayPolicy(hosts=("Narthex", "box.lan:80"))
    rows = [{"host": host} for host in ("narthex:11435", "box.lan", "other")]
    assert _asks(porch, rows, policy) == [200, 200, 403]


def test_in_a_container_the_check_stays_and_its_own_address_is_ours(porch: Any) -> None:
    policy = GatewayPolicy(hosts=("gateway",))
    rows = [{"host": host} for host in ("gateway:11435", "127.0.0.1:9", "evil.example", "10.0.0.1")]
    assert _asks(porch, rows, policy, host="0.0.0.0", container=True) == [200, 200, 403, 403]


def test_the_address_that_the_connection_came_to_is_ours_where_it_listens_at_all_of_them() -> None:
    origins = Origins(bound="0.0.0.0", hosts=(), origins=())
    assert origins.verdict("192.168.1.5:1", None, None, "192.168.1.5").status == 0
    assert origins.verdict("192.168.1.5:1", None, None, "192.168.1.6").status == 403
    only = Origins(bound="192.168.1.5", hosts=(), origins=())
    assert only.verdict("192.168.1.5:1", None, None).status == 0
    assert only.verdict("192.168.1.6:1", None, None).status == 403


def test_a_flood_of_names_does_not_fill_the_memory() -> None:
    origins = Origins(bound="127.0.0.1", hosts=(), origins=())
    for number in range(2000):
        origins.verdict(f"h{number}.example", None, None)
    assert len(origins._verdicts) <= 256


@pytest.mark.parametrize(
    "policy",
    [
        GatewayPolicy(origins=("*",)),
        GatewayPolicy(origins=("null",)),
        GatewayPolicy(origins=("localhost:3000",)),
        GatewayPolicy(hosts=("http://box",)),
        GatewayPolicy(hosts=("*",)),
    ],
)
def test_a_list_that_would_open_the_door_to_all_is_refused(policy: GatewayPolicy) -> None:
    with pytest.raises(UsageError):
        Door(policy, host="127.0.0.1", port=11435)
