"""What stands in front of a line because something carried it here."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SPACES = re.compile(r"\s+")
_CARRIER = re.compile(
    r"^(?:\S+ +\d+ [\d:]{8} (?:\S+ )?(?P<unit>[\w@.-]+\[\d+\]): "
    r"|\[(?P<pod>(?:pod/)?[\w./-]+/[\w./-]+)\] "
    r"|(?P<service>[\w.-]+) +\| )"
)


def plain(text: str) -> tuple[str, str]:
    """The line without carrier, colours and escapes, and who wrote it."""
    text = _COLOURS.sub("", text)
    stream = ""
    if found := _CARRIER.match(text):
        stream = found["unit"] or found["pod"] or found["service"] or ""
        text = text[found.end() :]
    return _SPACES.sub(" ", text.replace('\\"', '"').replace("\\n", " ")).strip(), stream
