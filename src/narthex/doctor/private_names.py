"""Whose machine it is: names of people and hosts, addresses, serial numbers, and stand-ins for them."""

from __future__ import annotations

import contextlib
import getpass
import pwd
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

_FIRST_PERSON = 1000  # the first UID that distributions give to people
# Accounts and hosts of these names are on many machines: they tell of nobody, and rules need them.
_ACCOUNTS = frozenset(
    {"root", "ollama", "nobody", "docker", "user", "users", "admin", "ubuntu", "debian", "fedora", "comfyui"}
    | {"open-webui", "openwebui", "runner", "app", "node", "service", "systemd", "jovyan", "public", "shared"}
    | {"guest", "linuxbrew", "default", "llama", "llama-server", "test", "default user", "all users"}
)
_HOSTS = frozenset(
    {"localhost", "ollama", "open-webui", "openwebui", "comfyui", "docker", "server", "host", "gpu", "kernel"}
    | {"linux", "localhost.localdomain"}
)
# Everybody talks to these hosts; which of them did not answer is what a rule wants to know.
_KNOWN = (
    r"(?:ollama\.(?:ai|com)|docker\.(?:internal|io|com)|cloudflarestorage\.com|huggingface\.co|hf\.co|ghcr\.io"
    r"|github\.com|githubusercontent\.com|nvidia\.com|amd\.com|pypi\.org|pythonhosted\.org|openwebui\.com"
    r"|openai\.com|anthropic\.com|cluster\.local)"
)
SCHEME = r"[a-z][a-z0-9+.-]{0,20}"  # of a URL; bounded, so that a long word is looked through once only
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Loopback, «any», Docker's first bridge and Tailscale's name server are the same on every machine.
_COMMON = r"127\.|0\.0\.0\.0(?![\d.])|172\.17\.0\.1(?![\d.])|100\.100\.100\.100(?![\d.])"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_GROUPS = r"[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6}"


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


# In each: what stays is group 1, the name is group 2.
_PATH = _compile(
    r"(?<![\w.])((?:[a-z]:)?[\\/]{1,4}(?:home|users|documents and settings)[\\/]{1,4})"
    r"([^\\/\s:'\"<>|,;)\]]+(?: [^\\/\s:'\"<>|,;]+)*(?=\\)|[^\\/\s:'\"<>|,;)\]]+)"
)
_ACCOUNT = _compile(
    r"(\b(?:user|logname|username|ruser)=|\b[ug]id=\d+\(|\bsudo(?:\[\d+\])?: +|\bfor user )"
    r"([a-z_][\w.-]*)(?=[\s)(,;\"']|$)"
)
_SYSLOG = _compile(
    r"^((?:\S+ +\d+ [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-][\d:]+)?) )"
    r"([\w.-]+)(?= (?:[\w@./-]+\[\d+\]|kernel|sudo|systemd|dockerd): )"
)
_URL_HOST = _compile(
    rf"(\b{SCHEME}://(?:<secret>@)?)(?![\w.-]*\b{_KNOWN}(?![\w.-]))((?:[\w-]+\.)+[a-z][\w-]*)(?![\w.-])"
)
_SHELL = _compile(r"(?<![\w.@/+-])([a-z_][\w.-]*)@([\w.-]+)(?=[: ][^\n$#%]{0,120}[$#%]( |$))")
_MAIL = _compile(
    r"()((?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*"
    r"\.(?!(?:service|socket|slice|scope|timer|target|mount|device)\b)[a-z]{2,})(?![\w-])"
)
_INSIDE = _compile(
    r"()((?<![\w.-])(?!(?:[\w-]+\.)*cluster\.local)[\w-]+(?:\.[\w-]+)*"
    r"\.(?:local|lan|home|localdomain|intranet|corp|fritz\.box|ts\.net|home\.arpa))(?![\w-])"
)
_CARD = _compile(rf"\b((?:GPU|MIG)-)({_UUID})")
_BARE_UUID = _compile(rf"()((?<![\w-]){_UUID})(?![\w-])")
_SERIAL = _compile(r"(\bserial(?: ?number)?\s*[:=]\s*)(?!N/A)([\w-]{6,})")
_MAC = _compile(r"()((?<![\w:-])[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}(?:(?::[0-9a-f]{2}){8})?)(?![\w:-])")
_IPV4 = _compile(rf"()((?<![\w.])(?!{_COMMON}){_BYTE}(?:\.{_BYTE}){{3}})(?!\w|\.\d)")
_IPV6 = _compile(
    rf"()((?<![\w:.])(?:(?:[0-9a-f]{{1,4}}:){{7}}[0-9a-f]{{1,4}}|(?:{_GROUPS})?::(?:{_GROUPS})?)(?:%\w+)?)(?![\w:])"
)


class PrivateNames(msgspec.Struct, frozen=True, kw_only=True):
    """Names to look for besides those that a text shows by itself."""

    people: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def of_this_machine(spared: Iterable[str] = ()) -> PrivateNames:
    """Its accounts and its host name. ``spared``: words of the programs' own lines, which have to stay; such
    a name is still taken out where it stands as a name, in a path or before a process."""
    words = {word.lower() for word in spared}
    rows = [row for row in pwd.getpwall() if row.pw_uid >= _FIRST_PERSON and row.pw_name != "nobody"]
    people = {name for row in rows for name in (row.pw_name, row.pw_gecos.split(",")[0])}
    with contextlib.suppress(KeyError, OSError):  # an account without a name, as in some containers
        people.add(getpass.getuser())
    host = socket.gethostname()
    hosts = {host, host.split(".")[0]}
    return PrivateNames(people=_telling(people, _ACCOUNTS | words), hosts=_telling(hosts, _HOSTS | words))


def _telling(names: set[str], ordinary: set[str] | frozenset[str]) -> tuple[str, ...]:
    """Those that can be replaced wherever they stand, the longest first."""
    good = (name for name in names if len(name) >= 3 and name.lower() not in ordinary and not name.isdigit())
    return tuple(sorted(good, key=lambda name: (-len(name), name)))


class Names:
    """Stand-ins for names and addresses: the first of a kind is ``<ip>``, the others ``<ip-2>`` and so on.

    ``counts`` is added to: what was taken out, and how often.
    """

    def __init__(self, names: PrivateNames, counts: Counter[str]) -> None:
        self._counts = counts
        self._seen: dict[str, dict[str, str]] = {}
        self._steps: list[tuple[re.Pattern[str], Callable[[str], str]]] = [
            (_PATH, self._person),
            (_ACCOUNT, self._person),
            (_SYSLOG, self._host),
            (_URL_HOST, self._dotted),
            (_MAIL, lambda name: self._stand_in("e-mail", name, "e-mail addresses")),
            (_INSIDE, self._dotted),
            (_CARD, self._serial),
            (_BARE_UUID, self._serial),
            (_SERIAL, self._serial),
            (_MAC, lambda name: self._stand_in("mac", name, "network addresses")),
            (_IPV4, lambda name: self._stand_in("ip", name, "network addresses")),
            (_IPV6, self._ipv6),
            *((_word(name), self._person) for name in names.people),
            *((_word(name), self._host) for name in names.hosts),
        ]

    def hide(self, text: str) -> str:
        """The text with stand-ins."""
        text = _SHELL.sub(lambda found: f"{self._person(found[1])}@{self._host(found[2])}", text)
        for pattern, stand_in in self._steps:
            text = pattern.sub(lambda found, put=stand_in: found[1] + put(found[2]), text)  # type: ignore[misc]
        return text

    def _person(self, name: str) -> str:
        return name if name.lower() in _ACCOUNTS else self._stand_in("user", name, "names of people")

    def _host(self, name: str) -> str:
        kept = name.lower() in _HOSTS or re.fullmatch(r"[\d.]+", name)
        return name if kept else self._stand_in("host", name, "names of hosts")

    def _dotted(self, name: str) -> str:
        """Its last part stays: whether it is a name of this network or of the internet is no secret."""
        host = self._host(name)
        return host if host == name else f"{host}.{name.rpartition('.')[2]}"

    def _serial(self, name: str) -> str:
        return self._stand_in("uuid", name, "serial numbers")

    def _ipv6(self, name: str) -> str:
        if name in ("::", "::1") or not re.search(r"\d|(?<!:):(?!:)", name):
            return name  # «any», loopback; «abc::def» is a name in C++
        return self._stand_in("ip", name, "network addresses")

    def _stand_in(self, kind: str, name: str, what: str) -> str:
        seen = self._seen.setdefault(kind, {})
        self._counts[what] += 1
        number = len(seen) + 1
        return seen.setdefault(name.lower(), f"<{kind}>" if number == 1 else f"<{kind}-{number}>")


def _word(name: str) -> re.Pattern[str]:
    return _compile(rf"()((?<![\w<-]){re.escape(name)})(?![\w>-])")
