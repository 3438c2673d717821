"""Who listens on a TCP port of this machine, as /proc shows it, and which addresses are this machine's."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator

import msgspec

from narthex.host.processes import PROC, open_files, pids, read_text

_LISTEN = "0A"


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP socket that listens: a row of /proc/net/tcp or tcp6."""

    address: str
    port: int
    uid: int
    inode: str

    @property
    def link(self) -> str:
        """Its name among the open files of a process."""
        return f"socket:[{self.inode}]"


def listening(port: int | None = None, address: str | None = None) -> list[Socket]:
    """The sockets of this network namespace that listen, on a port or on any; with ``address`` those that a
    connection to it can reach."""
    target = ipaddress.ip_address(address) if address is not None else None
    return [
        row
        for row in _sockets()
        if port in (None, row.port) and (target is None or _reaches(row.address, target))
    ]


def every_listener() -> Iterator[Socket]:
    """All sockets of this network namespace that listen."""
    return _sockets()


def listeners(port: int, address: str | None = None) -> set[int]:
    """Processes that listen on a port and may be looked at by this user."""
    return set(_holders(port, address))


def listener_pid(port: int, address: str | None = None) -> int | None:
    """Whatever process listens on that port; None where nothing does, or its sockets can't be seen."""
    return next(_holders(port, address), None)


def is_rival(port: int, pids: Iterable[int]) -> bool:
    """Whether somebody listens on a port and none of these processes does. Quick: looks only at them."""
    links = {row.link for row in listening(port)}
    return bool(links) and all(links.isdisjoint(open_files(pid)) for pid in pids)


def own_address(host: str, port: int) -> str | None:
    """The address of this machine that a name stands for; None where it is another machine's, or none's."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    found = ((row[0], str(row[4][0])) for row in rows)
    return next((address for family, address in found if _is_own(family, address)), None)


def _holders(port: int, address: str | None) -> Iterator[int]:
    links = {row.link for row in listening(port, address)}
    return (pid for pid in (pids() if links else ()) if not links.isdisjoint(open_files(pid)))


def _is_own(family: int, address: str) -> bool:
    """An address is this machine's if a socket can be bound to it."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _sockets() -> Iterator[Socket]:
    for table in ("tcp", "tcp6"):
        for row in read_text(PROC / "net" / table).splitlines()[1:]:
            fields = row.split()
            if len(fields) > 9 and fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                yield Socket(
                    address=_address(address), port=int(port, 16), uid=int(fields[7]), inode=fields[9]
                )


def _address(digits: str) -> str:
    """The kernel writes addresses as 32-bit words of the machine's byte order."""
    raw = bytes.fromhex(digits)
    words = [raw[start : start + 4][::-1] for start in range(0, len(raw), 4)]
    return str(ipaddress.ip_address(b"".join(words)))


def _reaches(bound: str, target: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    address = ipaddress.ip_address(bound)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_unspecified:
        return address.version == 6 or target.version == 4  # «::» takes IPv4 too, unless told otherwise
    return address == target
