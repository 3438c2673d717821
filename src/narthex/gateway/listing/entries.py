"""The lists' elements, made from what the engines said. What came from Ollama stays the bytes that came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from narthex.engines.ollama.names import parse_time, same
from narthex.gateway.listing.sources import Entry
from narthex.gateway.offer import Offer
from narthex.gateway.schedule.records import Snapshot

FOR_EVER = timedelta(days=292 * 365)  # what Ollama itself adds for a model that stays: the longest Go has


class _Name(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""
    modified_at: str = ""


_names = msgspec.json.Decoder(_Name)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

Rows = dict[str, msgspec.Raw]
"""Name → element. The order is the list's."""


def tag_rows(
    tags: Sequence[msgspec.Raw],
    roles: Mapping[str, Offer | None],
    others: Iterable[tuple[str, Offer]],
    tag_of: Callable[[Offer], Entry],
) -> Rows:
    """``/api/tags``: the roles first, then Ollama's own, then the names that only the gateway has."""
    own = {_names.decode(raw).name: raw for raw in tags}
    rows: Rows = {}
    for role, offer in roles.items():
        if offer is not None:
            rows[role] = _renamed(_entry_of(offer, own, tag_of), role)
    for name, raw in own.items():
        rows.setdefault(name, raw)
    known = {name.casefold() for name in rows} | {name.removesuffix(":latest").casefold() for name in rows}
    for name, offer in others:
        if offer.backend in {"ollama", "llama-server"} and name.casefold() not in known:
            known.add(name.casefold())
            rows[name] = _renamed(_entry_of(offer, own, tag_of), name)
    return rows


def ps_rows(
    loaded: Sequence[msgspec.Raw],
    tags: Sequence[msgspec.Raw],
    *,
    snapshot: Snapshot,
    offers: Mapping[str, Offer],
    tag_of: Callable[[Offer], Entry],
    expires: Callable[[Offer, float | None], datetime],
) -> list[msgspec.Raw]:
    """``/api/ps``: Ollama's own elements, then what is ready besides them. ``expires`` takes an offer and
    since when it is idle."""
    rows = list(loaded)
    told = [_names.decode(raw) for raw in loaded]
    own = {_names.decode(raw).name: raw for raw in tags}
    for holding in snapshot.holdings:
        offer = offers.get(holding.key)
        if offer is None or holding.state != "ready" or offer.backend not in {"ollama", "llama-server"}:
            continue
        if offer.backend == "ollama" and any(_is(offer, row) for row in told):
            continue
        entry = _entry_of(offer, own, tag_of)
        held = holding.held or 0  # the API has no word for unknown
        named = offer.model if offer.backend == "ollama" else offer.name
        rows.append(
            _raw(
                {
                    "name": named,
                    "model": named,
                    "size": held,
                    "digest": entry.get("digest", ""),
                    "details": entry.get("details", {}),
                    "expires_at": expires(offer, holding.idle_since).isoformat(),
                    "size_vram": held,
                    "context_length": offer.num_ctx or 0,
                }
            )
        )
    return rows


def model_rows(tags: Rows) -> Iterable[Entry]:
    """``/v1/models``: the same names in OpenAI's shape. ``created`` as Ollama has it: when it was changed."""
    for name, raw in tags.items():
        changed = parse_time(_names.decode(raw).modified_at)
        space, slash, _ = name.rpartition("/")
        yield {
            "id": name,
            "object": "model",
            "created": int(changed.timestamp()) if changed is not None else 0,
            "owned_by": space if slash else "library",
        }


def expiry(keep_alive_s: float, idle_s: float) -> datetime:
    """When an idle model goes; negative ``keep_alive_s``: never."""
    now = datetime.now(UTC)
    return now + (FOR_EVER if keep_alive_s < 0 else timedelta(seconds=max(0.0, keep_alive_s - idle_s)))


def _is(offer: Offer, row: _Name) -> bool:
    return same(offer.model, row.name) or (bool(offer.digest) and offer.digest == row.digest)


def _entry_of(offer: Offer, own: Rows, tag_of: Callable[[Offer], Entry]) -> Entry:
    """Ollama's element for what Ollama holds, else one of the same shape."""
    if offer.backend == "ollama":
        raw = own.get(offer.model) or next(
            (raw for name, raw in own.items() if same(name, offer.model)), None
        )
        return dict(_fields.decode(raw)) if raw is not None else {"digest": offer.digest, "details": {}}
    return tag_of(offer)


def _renamed(entry: Entry, name: str) -> msgspec.Raw:
    """The same model under another name; the other fields as they were."""
    return _raw({**entry, "name": name, "model": name})


def _raw(entry: Entry) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(entry))
