"""Model names of Ollama: ``[host/][namespace/]model[:tag]``, whole and short, and the times it writes."""

from __future__ import annotations

import re
from datetime import datetime

from narthex.engines.ollama.records import Tag
from narthex.errors import UsageError

HOST = "registry.ollama.ai"
NAMESPACE = "library"
TAG = "latest"

# Each part begins with a letter, a digit or «_»; only a namespace may hold no dot, only a host a port.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

# RFC 3339; Go writes up to nine digits behind the point, Python keeps six.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|z|[+-]\d\d:\d\d)")


def canonical(name: str) -> str:
    """``registry.ollama.ai/library/llama3.2:latest`` for ``llama3.2``. The case is kept as given.

    Raises UsageError for a name that no model can have.
    """
    host, namespace, model, tag = _split(name)
    return f"{host}/{namespace}/{model}:{tag}"


def short(name: str) -> str:
    """As Ollama's own list shows it: without what is the default, always with the tag: ``llama3.2:latest``.

    Raises UsageError for a name that no model can have.
    """
    host, namespace, model, tag = _split(name)
    if host != HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == NAMESPACE else f"{namespace}/{model}:{tag}"


def same(a: str, b: str) -> bool:
    """Whether Ollama takes both for the same model; it ignores case. An impossible name is only itself."""
    try:
        return canonical(a).casefold() == canonical(b).casefold()
    except UsageError:
        return a == b


def is_cloud(tag: Tag) -> bool:
    """Whether it is a stub of a model that runs at ollama.com: nothing of it is on this machine."""
    source = tag.name.rpartition(":")[2]
    return bool(tag.remote_host or tag.remote_model) or source == "cloud" or source.endswith("-cloud")


def parse_time(text: str) -> datetime | None:
    """A time as Ollama writes it, to the microsecond, with its zone; None where it can't be read.

    A model that stays for ever «expires» some 290 years ahead.
    """
    found = _TIME.fullmatch(text.strip())
    if not found:
        return None
    fraction = (found[2] or "0")[:6].ljust(6, "0")
    zone = "+00:00" if found[3] in "Zz" else found[3]
    try:
        return datetime.fromisoformat(f"{found[1]}.{fraction}{zone}")
    except ValueError:
        return None


def _split(name: str) -> tuple[str, str, str, str]:
    """Host, namespace, model, tag; defaults filled in. Raises UsageError."""
    text = name.strip()
    rest, _, last = text.rpartition("/")
    model, colon, tag = last.partition(":")
    host, _, namespace = rest.rpartition("/")
    if (
        not _PART.fullmatch(model)
        or (colon and not _PART.fullmatch(tag))
        or ("/" in text and not _NAMESPACE.fullmatch(namespace))
        or (rest != namespace and not _HOST.fullmatch(host))
    ):
        raise UsageError(
            f"«{name}» can't be the name of an Ollama model.",
            hint="A name is model:tag or namespace/model:tag, of letters, digits, «.», «-» and «_»; "
            "`narthex models` lists those that are here.",
        )
    return host or HOST, namespace or NAMESPACE, model, tag or TAG
