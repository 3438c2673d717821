"""Who listens on a port: real sockets of this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from narthex.host.listeners import every_listener, is_rival, listener_pid, listeners, listening, own_address


@pytest.fixture
def everywhere() -> Iterator[int]:
    """The port of a socket that listens on all IPv4 addresses."""
    with socket.socket() as bound:
        bound.bind(("0.0.0.0", 0))
        bound.listen()
        yield bound.getsockname()[1]


@pytest.fixture
def loopback() -> Iterator[int]:
    """The port of a socket that listens on 127.0.0.1 alone."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        yield bound.getsockname()[1]


def test_a_socket_on_all_addresses_is_reached_through_any(everywhere: int) -> None:
    assert [found.port for found in listening(everywhere)] == [everywhere]
    assert [found.uid for found in listening(everywhere, "192.0.2.7")] == [os.geteuid()]


def test_a_socket_on_one_address_is_reached_through_that_only(loopback: int) -> None:
    assert listener_pid(loopback) == listener_pid(loopback, "127.0.0.1") == os.getpid()
    assert listener_pid(loopback, "127.0.0.2") is None
    assert listeners(loopback, "::1") == set()


def test_whoever_else_listens_is_a_rival(loopback: int) -> None:
    assert not is_rival(loopback, [os.getpid()])
    assert is_rival(loopback, [])


def test_a_port_without_a_listener_has_no_process() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        port = bound.getsockname()[1]
        assert listener_pid(port) is None
        assert listeners(port) == set()
        assert not is_rival(port, [])


def test_only_this_machines_addresses_are_its_own() -> None:
    assert own_address("127.0.0.1", 80) == "127.0.0.1"
    assert own_address("192.0.2.7", 80) is None  # of a range that is nobody's
    assert own_address("no.such.host.invalid", 80) is None


def test_every_socket_that_listens_is_listed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {row.port for row in every_listener()}
        assert {one.getsockname()[1], other.getsockname()[1]} <= ports
