"""Searches texts for signs: one pass, all signs at once, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import ahocorasick_rs

from narthex.doctor.evidence import Entry, Evidence, Hit, Reading, Source
from narthex.doctor.finding import Fact, Skipped
from narthex.doctor.reading.carrier import plain
from narthex.doctor.reading.text import Text
from narthex.doctor.sign import Sign


def read_evidence(
    texts: Iterable[Text],
    signs: Sequence[Sign],
    *,
    readings: Sequence[Reading] = (),
    facts: Sequence[Fact] = (),
    skipped: Sequence[Skipped] = (),
    live: bool = False,
) -> Evidence:
    """Everything that rules look at, from texts and from what collectors found."""
    host = "\n".join(row.text or row.gap for row in readings).encode()
    if readings:
        texts = [*texts, Text(kind="host", name="host", data=host)]
    owners: dict[str, list[Sign]] = {}
    for sign in signs:
        for word in sign.words:
            owners.setdefault(word, []).append(sign)
    words = list(owners)
    search = ahocorasick_rs.BytesAhoCorasick([word.encode() for word in words])
    hits: dict[Sign, deque[Hit]] = {}
    counts: dict[Sign, int] = {}
    sources: list[Source] = []
    kept: dict[str, dict[int, Entry]] = {}
    for text in texts:
        number, size = 0, 0
        rows = kept.setdefault(text.name, {})
        for chunk in text.chunks():
            size += len(chunk)
            for raw in chunk.split(b"\n"):
                number += 1
                line = raw.decode("utf-8", "replace").rstrip("\r")
                words_plain, stream = plain(line)
                entry = Entry(
                    source=text.name, kind=text.kind, line=number, text=line, plain=words_plain, stream=stream
                )
                rows[number] = entry
                found = search.find_matches_as_indexes(raw.lower(), overlapping=True)
                for sign in {sign for index, _, _ in found for sign in owners[words[index]]}:
                    if sign.kinds and text.kind not in sign.kinds:
                        continue
                    if match := sign.pattern.search(words_plain):
                        hits.setdefault(sign, deque(maxlen=sign.last)).append(Hit(entry=entry, match=match))
                        counts[sign] = counts.get(sign, 0) + 1
        sources.append(Source(kind=text.kind, name=text.name, lines=number, bytes=size))
    return Evidence(
        hits={sign: list(rows) for sign, rows in hits.items()},
        counts=counts,
        sources=sources,
        kept=kept,
        readings=readings,
        facts=facts,
        skipped=skipped,
        live=live,
    )
