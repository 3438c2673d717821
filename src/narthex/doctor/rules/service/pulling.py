"""Downloads of models: which hosts they come from, and whether one ended well."""

from __future__ import annotations

import re

from narthex.doctor.evidence import Entry, Evidence
from narthex.doctor.rules.service.places import REGISTRIES, host_of, is_local
from narthex.doctor.sign import Sign

# The log says 200 also where a pull failed (the error comes after the status), so that proves nothing.
SUCCESS = Sign(
    r"^(?:success|\{?\"?status\"?: ?\"success\"\}?|.*\bwriting manifest success\b.*)$", words=["success"]
)
DOWNLOADING = Sign(r"downloading (?P<blob>[0-9a-f]{12}) in \d+ ", words=["downloading "])
PULLED = Sign(r"\| ?200 ?\| ?(?P<took>\S+) ?\|[^|]*\| ?POST \"/api/pull\"", words=["/api/pull"])
_UPDATE = re.compile(r"update|telemetry|version check|/api/experimental|recommend", re.IGNORECASE)
_PULL = re.compile(r"pull|manifest|/v2/|blobs|download|push|registry", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s\"'\\]+")


def ended_well(evidence: Evidence, entry: Entry) -> Entry | None:
    """A later line of the same source that says «success»."""
    return next(
        (
            hit.entry
            for hit in evidence.hits(SUCCESS)
            if hit.entry.source == entry.source and hit.entry.line > entry.line
        ),
        None,
    )


def reached_later(evidence: Evidence, entry: Entry) -> Entry | None:
    """A later line of the same source that shows that the registry was reached."""
    hits = evidence.hits(SUCCESS, DOWNLOADING)
    return next(
        (hit.entry for hit in hits if hit.entry.source == entry.source and hit.entry.line > entry.line), None
    )


def is_download(name: str, line: str) -> bool:
    """Whether a line is about fetching models or images from the internet, and not about a harmless look for
    updates or about a host nearby."""
    if is_local(name) if name else False:
        return False
    if name and not REGISTRIES.search(name):
        return bool(_PULL.search(line))
    if name.endswith("ollama.com") and not name.startswith("registry"):
        return bool(_PULL.search(line) or "curl" in line) and not _UPDATE.search(line)
    return not _UPDATE.search(line)


def url_host(line: str) -> str:
    """The host of the first URL in a line; "" where there is none."""
    found = _URL.search(line)
    return host_of(found[0]) if found else ""
