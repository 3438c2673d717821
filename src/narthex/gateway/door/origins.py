"""``Origins``: whether a request comes from where requests may come from.

Loopback can be reached from every web page that this machine's browser shows. A page's own name that suddenly
points here is told by its Host; a page that asks across by its Origin, or where the browser sends none by
Sec-Fetch-Site. A program sends neither, and passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from narthex.errors import UsageError
from narthex.gateway.door.authority import Authority, address_of, authority_of, origin_of
from narthex.gateway.trouble import Trouble

_MOST = 256  # verdicts kept; a flood of invented hosts costs no more than a parse each
_EVERYWHERE = frozenset(("0.0.0.0", "::"))  # noqa: S104  compared with, not bound to
_DEFAULT_PORTS = (80, 443)


class Verdict(NamedTuple):
    """Why not; ``status`` 0 where nothing is against it."""

    status: int
    cause: str
    message: str
    remedy: str = ""

    def raise_it(self) -> None:
        """As a Trouble."""
        raise Trouble(self.status, self.cause, self.message, remedy=self.remedy)


_FINE = Verdict(0, "", "")


class Origins:
    """One gateway's lists. ``bound``: the address it listens at."""

    def __init__(self, *, bound: str, hosts: Iterable[str], origins: Iterable[str]) -> None:
        """Raises UsageError for a host or an origin that is none."""
        self.everywhere = bound in _EVERYWHERE
        self._hosts = {_host(text) for text in hosts}
        if (own := authority_of(f"[{bound}]" if ":" in bound else bound)) and not self.everywhere:
            self._hosts.add(own.host)
        self._origins = {_origin(text) for text in origins}
        self._verdicts: dict[tuple[str, str | None, str | None, str], Verdict] = {}

    def verdict(self, host: str, origin: str | None, site: str | None, local: str = "") -> Verdict:
        """``site``: Sec-Fetch-Site. ``local``: the address that the connection came to, where the gateway
        listens at all of them."""
        key = (host, origin, site, local)
        found = self._verdicts.get(key)
        if found is None:
            if len(self._verdicts) >= _MOST:
                self._verdicts.clear()
            found = self._verdicts[key] = self._judge(host, origin, site, local)
        return found

    def is_listed(self, origin: str | None) -> bool:
        """Whether the policy names this origin."""
        return origin is not None and origin_of(origin) in self._origins

    def _judge(self, host: str, origin: str | None, site: str | None, local: str) -> Verdict:
        authority = authority_of(host)
        if authority is None:
            return Verdict(400, "bad_host", f"«{_shown(host)}» is no host that a request may be for.")
        if not self._is_ours(authority, local):
            return Verdict(
                403,
                "host_not_allowed",
                f"«{_shown(host)}» is not a name of this gateway.",
                f'If it is one, add it: hosts = ["{authority.host}"] in [gateway] of narthex.toml.',
            )
        if origin is not None:
            return self._judge_origin(origin, authority)
        if site is not None and site.strip().lower() == "cross-site":
            return Verdict(403, "origin_not_allowed", "A web page of another site may not ask here.")
        return _FINE

    def _judge_origin(self, origin: str, host: Authority) -> Verdict:
        found = origin_of(origin)
        if found is not None:
            scheme, page = found
            if found in self._origins:
                return _FINE
            same_port = page.port == host.port or (host.port is None and page.port in _DEFAULT_PORTS)
            if page.host == host.host and same_port:
                return _FINE
            remedy = (
                f'If it may, add it: origins = ["{scheme}://{_spoken(page)}"] in [gateway] of narthex.toml.'
            )
        else:
            remedy = ""
        words = f"A web page of «{_shown(origin)}» may not ask here."
        return Verdict(403, "origin_not_allowed", words, remedy)

    def _is_ours(self, authority: Authority, local: str) -> bool:
        if authority.is_loopback or authority.host in self._hosts:
            return True
        return self.everywhere and bool(local) and authority.host == local


def _host(text: str) -> str:
    found = authority_of(text if ":" not in text or text.startswith("[") else _maybe_six(text))
    if found is None:
        raise UsageError(
            f"«{text}» in hosts of [gateway] is no host.", hint="Write names or addresses, as in box.lan."
        )
    return found.host


def _origin(text: str) -> tuple[str, Authority]:
    found = origin_of(text.rstrip("/"))
    if found is None:
        raise UsageError(
            f"«{text}» in origins of [gateway] is no origin of a web page.",
            hint="Write it with its scheme and port, as in http://localhost:3000; «*» is not possible.",
        )
    return found


def _maybe_six(text: str) -> str:
    return f"[{text}]" if address_of(text) is not None else text


def _spoken(page: Authority) -> str:
    host = f"[{page.host}]" if ":" in page.host else page.host
    return f"{host}:{page.port}"


def _shown(text: str) -> str:
    """Of what somebody sent, as much as a sentence bears."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])
