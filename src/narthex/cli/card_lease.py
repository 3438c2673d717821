"""The card for a command that measures: asked of narthex' own gateway, where one runs on this machine.

Without a gateway nothing happens and nothing is said. With one, the command waits until the answers under way
have ended and its models are unloaded, and nobody gets the card before it ends.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from narthex import settings
from narthex.errors import EngineError, UsageError

if TYPE_CHECKING:
    from narthex.engines.ollama.records import Server

OFF = "off"
PATH = "/narthex/lease"
ASK_S = 2.0  # a gateway answers in milliseconds, whatever it does
RENEW_S = 5.0  # it forgets a study that says nothing for three of these
SILENT_S = 30.0  # while we wait it tells every five seconds what for
WAIT_S = 1800.0  # for long answers of others, or another study
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (read as a client does)

Say = Callable[[str], None]
Left = Callable[[], float | None]
"""Seconds that the command still takes; None where it does not know."""


class _Gone(Exception):
    """Nothing answers there, or no longer."""


class Gateway:
    """The door of a gateway by its address and a key. Raises UsageError for an address that is none."""

    def __init__(self, address: str, key: str = "") -> None:
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, host, port = urlsplit(""), "", 0
        if parts.scheme not in ("http", "https"):
            raise UsageError(
                f"«{address}» is no address of a gateway.",
                hint="Write NARTHEX_GATEWAY as http://127.0.0.1:11435, or «off».",
            )
        self._host, self._port, self._secure = _LOOPBACK.get(host, host), port, parts.scheme == "https"
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"{parts.scheme}://{shown}:{port}"

    def about(self) -> dict[str, Any] | None:
        """What it says of its lease; None where no narthex answers. Raises UsageError for want of a key."""
        try:
            with self._ask("GET", PATH) as response:
                body = response.read(1 << 16)
        except _Gone:
            return None
        if response.status in (401, 403) and response.getheader("X-Narthex-Request-Id"):
            raise UsageError(
                f"The gateway at {self.url} asks for a key, so this command can't ask it for the card.",
                hint="Give a key in NARTHEX_GATEWAY_KEY, or set NARTHEX_GATEWAY=off to measure beside it.",
            )
        found = _object(body)
        return found if response.status == 200 and found.get("narthex") else None

    def take(self, wish: dict[str, Any], waits_for: Callable[[list[str]], None]) -> str:
        """The lease, once the card is free. Raises EngineError where it is not given, _Gone where the gateway
        ends meanwhile."""
        with self._ask("POST", PATH, wish, limit_s=SILENT_S) as response:
            for line in _lines(response):
                found = _object(line)
                if found.get("state") == "waiting":
                    waits_for([str(each) for each in found.get("for") or ()])
                elif found.get("state") == "granted":
                    return str(found.get("lease"))
                elif found:
                    raise EngineError(
                        f"The gateway at {self.url} does not give the card: {_words(found)}",
                        hint="Try again later, stop the gateway, or set NARTHEX_GATEWAY=off.",
                    )
        raise _Gone

    def renew(self, lease: str, eta_s: float | None) -> bool:
        """Whether the lease still holds. Raises _Gone."""
        with self._ask("POST", f"{PATH}/renew", {"lease": lease, "eta_s": eta_s}) as response:
            response.read()
        return response.status == 200

    def release(self, lease: str) -> None:
        """Give the card back. A gateway that is gone has nothing to be given."""
        with contextlib.suppress(_Gone), self._ask("POST", f"{PATH}/release", {"lease": lease}) as response:
            response.read()

    @contextlib.contextmanager
    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, limit_s: float = ASK_S
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        with contextlib.closing(kind(self._host, self._port, timeout=limit_s)) as connection:
            try:
                content = None if body is None else msgspec.json.encode(body)
                connection.request(method, path, content, self._headers)
                yield connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise _Gone from error


class CardLease:
    """A lease that is held, renewed by a thread of its own."""

    def __init__(
        self, gateway: Gateway, who: str, say: Say, left: Left, *, wait_s: float, renew_s: float
    ) -> None:
        self._gateway, self._who, self._say, self._left = gateway, who, say, left
        self._wait_s, self._renew_s = wait_s, renew_s
        self._lease = ""
        self._heard: list[str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="card-lease", daemon=True)

    def take(self) -> bool:
        """Wait for the card; False where the gateway ended instead. Raises EngineError."""
        try:
            self._lease = self._gateway.take(self._wish(), self._waits_for)
        except _Gone:
            return False
        self._thread.start()
        return True

    def give_back(self) -> None:
        """At the end, however it came."""
        self._stop.set()
        if self._lease:
            self._gateway.release(self._lease)

    def _wish(self) -> dict[str, Any]:
        return {"who": self._who, "eta_s": self._left(), "wait_s": self._wait_s}

    def _waits_for(self, names: list[str]) -> None:
        if names != self._heard:
            self._heard = names
            what = f": at work there: {', '.join(names)}" if names else ""
            self._say(f"waiting until the gateway at {self._gateway.url} has freed the card{what}")

    def _renew(self) -> None:
        while not self._stop.wait(self._renew_s):
            with contextlib.suppress(_Gone):  # it may be started anew; the next try tells
                if not self._gateway.renew(self._lease, self._left()):
                    self._take_again()

    def _take_again(self) -> None:
        """The machine slept, or the gateway was started anew: others may have had the card meanwhile."""
        self._say("the gateway forgot that this command has the card; it is asked again")
        with contextlib.suppress(EngineError):
            self._lease = self._gateway.take(self._wish(), lambda names: None)
        if self._stop.is_set():
            self._gateway.release(self._lease)


def find_gateway() -> Gateway | None:
    """The gateway that runs where it is expected; None where none does. Raises UsageError."""
    address = settings.get("gateway")
    if address == OFF:
        return None
    gateway = Gateway(address, _key())
    return gateway if gateway.about() is not None else None


@contextlib.contextmanager
def card_lease(
    who: str, *, say: Say, left: Left, wait_s: float = WAIT_S, renew_s: float = RENEW_S
) -> Iterator[None]:
    """The card for this command alone, where a gateway gives it away; without one, no word and no delay.

    ``who`` is the command's name, for those who wait for it. Raises EngineError where the gateway does not
    give the card, UsageError where its address makes no sense or it wants a key.
    """
    gateway = find_gateway()
    if gateway is None:
        yield
        return
    lease = CardLease(gateway, who, say, left, wait_s=wait_s, renew_s=renew_s)
    try:
        if lease.take():
            say(f"the gateway at {gateway.url} has freed the card, and gives it to nobody meanwhile")
        yield
    finally:
        lease.give_back()


def ending_in(seconds: float | None) -> Left:
    """For a command that takes about so long from now on."""
    end = None if seconds is None else time.monotonic() + seconds
    return lambda: None if end is None else max(0.0, end - time.monotonic())


def must_be_no_gateway(server: Server) -> None:
    """A study measures an engine. Raises UsageError where the address is that of narthex' own gateway."""
    if not server.gateway:
        return
    about = Gateway(server.url, _key()).about() or {}
    place = about.get("ollama") or ""
    raise UsageError(
        f"{server.url} is narthex' own gateway, and a study has to measure at the engine itself.",
        hint=f"Name Ollama's own address: --ollama {place}." if place else "Name Ollama's own address.",
    )


def _key() -> str:
    """As it is set, else the first of the file that this machine's gateway reads."""
    from narthex.cli.running_gateway import first_key
    from narthex.policy import load_policy

    return str(settings.get("gateway_key")) or first_key(load_policy().gateway)


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while line := response.readline():
        yield line


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(found: dict[str, Any]) -> str:
    """Of a refusal, in any of the gateway's shapes."""
    error = found.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return str(error or "it says nothing more")
