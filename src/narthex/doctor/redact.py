"""What must not leave this machine: keys and passwords, what was asked of a model, whose machine it is.

Two uses. Collectors put readings through :func:`hide_secrets` and :func:`safe_environment`: no finding may
quote a key. A bundle for a bug report goes through a :class:`Redactor` as well, which also takes out
addresses, names of people and machines, and prompts. Lines stay lines, so that a line keeps its number, and
figures stay figures (``prompt=2512`` is a size, ``prompt="…"`` is somebody's text).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from narthex.doctor.private_names import SCHEME, Names, PrivateNames

HIDDEN = "<secret>"
TEXT = "<text>"


def _quoted(name: str) -> str:
    """A text in quotes, escaped as often as it may be (Docker's JSON around Ollama's own quotes). It ends at
    the same quotes, or with its line where it was cut. Groups need names of their own."""
    return rf"(?P<{name}>\\*[\"'])(?:(?!(?<!\\)(?P={name}))[^\n])*(?:(?<!\\)(?P={name})|$)"


_NAMES = (
    r"(?:[\w.-]*(?:api[_-]?key|secret|passw(?:or)?d|passphrase|passwort|credentials?|private[_-]?key"
    r"|access[_-]?key|encryption[_-]?key|jwt|signature)[\w.-]*"
    r"|[\w.-]*[_-](?:key|pwd|pass|pw|pat)"
    r"|(?:[\w.-]*[._-])?(?:access|auth|bearer|refresh|id|api|csrf|session|bot|user|hub)?token"
    r"|(?:[\w.-]*[._-])?session(?:[_-]?(?:id|key))?"
    r"|authorization|x-auth[\w-]*|pwd|sig|sid)"
)
_BARE = r"[^\s\"'\\,;&\]})|]+"
_HARMLESS = r"(?:true|false|none|null|nil|on|off|yes|no|\*+|<[\w-]+>)(?![\w.-])"  # says whether, not what
_NEXT = r"(?:ollama|cuda|hip|rocr|gpu|hsa|ggml|ld|http|https|no|webui)_\w+:"  # an empty value in Go's map[…]
_SEPARATOR = r"[\"'\\]*\s?(?:=>|[:=])[ \t]*"


class _Kind(NamedTuple):
    what: str
    pattern: re.Pattern[str]
    stand_in: str | Callable[[re.Match[str]], str]


def _same_lines(found: re.Match[str]) -> str:
    return "\n".join([HIDDEN] * (found[0].count("\n") + 1))


def _in_quotes(value: str, stand_in: str) -> str:
    """The stand-in, in the quotes that the value had."""
    opening = re.match(r"\\*[\"']", value)
    if opening is None:
        return stand_in
    closed = len(value) > len(opening[0]) and value.endswith(opening[0])
    return f"{opening[0]}{stand_in}{opening[0] if closed else ''}"


def _named(found: re.Match[str]) -> str:
    """``api_key="…"``. Of the many «token» in the log of a language model the figures stay."""
    name, value = found["name"], found["value"]
    figure = re.fullmatch(r"\\*[\"']?[-+]?[\d.,]{1,9}\\*[\"']?", value)
    if figure and name.lower().endswith("token"):
        return found[0]
    return f"{name}{found['sep']}{_in_quotes(value, HIDDEN)}"


def _asked(found: re.Match[str]) -> str:
    value = found["value"]
    return found["field"] + (TEXT if value[:1] in "[{" else _in_quotes(value, TEXT))


def _kind(what: str, pattern: str, stand_in: str | Callable[[re.Match[str]], str]) -> _Kind:
    return _Kind(what, re.compile(pattern, re.IGNORECASE | re.MULTILINE), stand_in)


_SECRETS = (
    _kind(
        "keys",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        _same_lines,
    ),
    _kind("keys", r"\b((?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\w+)\s+)[a-z0-9+/]{16,}=*", rf"\1{HIDDEN}"),
    # a line of a key whose beginning was cut; one of hexadecimal digits names a container or a blob
    _kind("keys", r"^(?![0-9a-f]+$)[a-z0-9+/]{60,}={0,2}$", HIDDEN),
    _kind("cookies", r"\b((?:set-)?cookie[\"'\\]*\s*[:=]\s*)[^\n]+", rf"\1{HIDDEN}"),
    _kind(
        "tokens",
        rf"\b(?P<field>authorization{_SEPARATOR})(?P<value>{_quoted('q')}|digest [^\n]+|[^\n\"'\\,}}]+)",
        lambda found: found["field"] + _in_quotes(found["value"], HIDDEN),
    ),
    _kind("tokens", r"\b((?:bearer|basic)\s+)(?=[\w~+/.=-]*[\d=_.-])[\w~+/.=-]{6,}", rf"\1{HIDDEN}"),
    _kind(
        "passwords in addresses",
        rf"(\b{SCHEME}:\\?/\\?/)[^/\s\"'<>@]*(?:@[^/\s\"'<>@]*)*@",
        rf"\1{HIDDEN}@",
    ),
    _kind(
        "tokens",
        r"\b(?:sk-|rk-|pk-|sk_live_|sk_test_|gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|dckr_pat_|pypi-"
        r"|npm_|nvapi-|gsk_|r8_|tvly-|tskey-|ya29\.|akia|asia|aiza)[a-z0-9_+=-][\w.+=-]{7,}",
        HIDDEN,
    ),
    _kind("tokens", r"\beyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*)?", HIDDEN),
    _kind(
        "tokens",
        r"(\b(?:hooks\.slack\.com/services|discord(?:app)?\.com/api/webhooks)/)[\w/-]+",
        rf"\1{HIDDEN}",
    ),
    _kind("secrets by their name", r"([?&]key=)[^\s&\"'\\<]+", rf"\1{HIDDEN}"),
    # on a command line: --api-key X, also as a list of words; curl -u NAME:X, which is no user's number
    _kind(
        "secrets by their name",
        rf"(?P<name>(?<![\w.-])--{_NAMES}(?![\w.-]))(?P<sep>[\"'\\]*(?:,[ \t]*|[ \t]+))"
        rf"(?!-|[\"'\\]*{_HARMLESS})(?P<value>{_quoted('q')}|{_BARE})",
        _named,
    ),
    _kind(
        "passwords on command lines",
        r"((?<![\w-])(?:-u|--(?:proxy-)?user)[ =]+[\"']?[^\s:\"'/]{1,80}:)(?!\d+(?!\w))[^\s\"']+",
        rf"\1{HIDDEN}",
    ),
    _kind("passwords on command lines", r"(\bsshpass\s+-p\s*)\S+", rf"\1{HIDDEN}"),
    # a password may be a sentence
    _kind(
        "secrets by their name",
        rf"(?P<name>(?<![\w.-])[\w.-]*(?:passw(?:or)?d|passphrase|passwort))(?P<sep>: +)"
        rf"(?!{_HARMLESS}|{_NEXT})(?P<value>[^\s\"'\\][^\n\"'\\]*)",
        _named,
    ),
    _kind(
        "secrets by their name",
        rf"(?P<name>(?<![\w.@-])(?<!//){_NAMES})(?P<sep>{_SEPARATOR})"  # behind @ or // stands a host
        rf"(?![\"'\\]*{_HARMLESS}|{_NEXT})(?P<value>{_quoted('q')}|{_BARE})",
        _named,
    ),
)

# What was asked and answered: fields of request bodies, of debug lines, of a dumped graph.
_FIELDS = (
    r"content|prompts?|inputs?|system|response|completion|texts?|query|queries|documents?|chunks?|thinking"
    r"|reasoning_content|reasoning|arguments|suffix|title"
)
_LIST = rf"\[\s*(?:{_quoted('l')}\s*,?\s*)+\]?"
_PROMPTS = tuple(
    _kind("prompts and answers", pattern, _asked)
    for pattern in (
        # JSON and Python: the name stands in quotes
        rf"(?P<field>(?P<f>(?<!\\)\\*[\"'])(?:{_FIELDS})(?P=f)\s*:\s*)(?P<value>{_quoted('q')}|{_LIST})",
        r"(?P<field>(?P<f>(?<!\\)\\*[\"'])arguments(?P=f)\s*:\s*)(?P<value>\{[^{}\n]*\}?)",
        # Ollama's own lines: a number is a count of tokens and stays
        rf"(?P<field>(?<![\w.])(?:prompt|content|messages|input|query)=)"
        rf"(?P<value>{_quoted('q')}|\[[^\n]*|\{{[^\n]*)",
        # one word needs no quotes there
        r"(?P<field>(?<![\w.])prompt=)(?P<value>(?![-\d.,]+(?!\w)|<)[^\s\"'\\\[{][^\s\"'\\]*)",
        r"(?P<field>(?:formatted (?:chat )?prompt|parsing (?:chat message|input[^:\n]*)"
        r"|user (?:prompt|message|input)|input text)\s*:\s*)(?P<value>\S[^\n]*)",
        # pictures and sounds
        r"(?P<field>)(?P<value>(?:data:[\w.+/-]+;base64,)?(?<![a-z0-9+/])(?![0-9a-f]{200,})[a-z0-9+/]{200,}={0,2})",
    )
)


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is a secret: ``WEBUI_SECRET_KEY``, ``api_key``, ``HF_TOKEN``."""
    return re.fullmatch(_NAMES, name, re.IGNORECASE) is not None


def safe_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment without the values of secrets; its names show that they are set."""
    return {name: _under(name, value) for name, value in variables.items()}


def _under(name: str, value: str) -> str:
    harmless = not value or re.fullmatch(_HARMLESS, value, re.IGNORECASE)
    return HIDDEN if is_secret_name(name) and not harmless else hide_secrets(value)


def hide_secrets(text: str) -> str:
    """The text without keys, tokens, passwords and cookies. Addresses, names and folders stay."""
    return _hide(text, _SECRETS, Counter())


class Redactor:
    """Takes out of texts what is nobody's business. One of them for a whole bundle: the same address gets
    the same stand-in everywhere. ``counts`` tells what was taken out, and how often."""

    def __init__(self, names: PrivateNames | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._names = Names(names or PrivateNames(), self.counts)

    def text(self, text: str) -> str:
        """The text with stand-ins; as many lines as before."""
        return self._names.hide(_hide(text, (*_SECRETS, *_PROMPTS), self.counts))

    def value(self, value: Any, name: str = "") -> Any:
        """A value of JSON, all the way down; under a secret's name nothing stays."""
        if isinstance(value, str):
            hidden = _under(name, value) if name else value
            self.counts["secrets by their name"] += hidden == HIDDEN != value
            return self.text(hidden)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(each, str(key)) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each, name) for each in value]
        return value


def _hide(text: str, kinds: tuple[_Kind, ...], counts: Counter[str]) -> str:
    for what, pattern, stand_in in kinds:

        def one(found: re.Match[str], what: str = what, stand_in: Any = stand_in) -> str:
            new = str(found.expand(stand_in) if isinstance(stand_in, str) else stand_in(found))
            counts[what] += new != found[0]
            return new

        text = pattern.sub(one, text)
    return text
