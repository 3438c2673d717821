"""How an offer is started on a llama-server: its knobs, the words beside them, and where its output lies."""

from __future__ import annotations

from pathlib import Path

from narthex.engines._base import Engine
from narthex.gateway.diagnosing import LOG_BYTES
from narthex.gateway.offer import Offer
from narthex.knobs import KnobValues

_EMBED_BATCH = 2048  # a text to embed has to fit into one micro-batch


def knobs_of(offer: Offer) -> KnobValues:
    """The offer's setting; without one the engine's own placement, with what the offer says of context and
    slots. A model that only embeds gets a micro-batch that a whole text fits into."""
    if offer.knobs is not None:
        return offer.knobs
    knobs = KnobValues(num_ctx=offer.num_ctx or KnobValues().num_ctx, parallel=offer.slots or 1)
    if _only_embeds(offer):
        size = min(_EMBED_BATCH, knobs.num_ctx)
        return knobs.with_(batch=size, ubatch=size)
    return knobs


def embedding_words(offer: Offer, engine: Engine) -> tuple[str, ...]:
    """llama-server makes embeddings only where it is told to at the start."""
    names = ("--embeddings", "--embedding")
    if not _only_embeds(offer) or set(names) & set(offer.engine_args):
        return ()
    return tuple(name for name in names if name in engine.flags)[:1]


def name_words(offer: Offer, engine: Engine) -> tuple[str, ...]:
    """What llama-server calls itself in its answers: the offer's name, and no path of this machine."""
    if {"-a", "--alias"} & set(offer.engine_args) or "--alias" not in engine.flags:
        return ()
    return ("--alias", offer.name)


def _only_embeds(offer: Offer) -> bool:
    return "embedding" in offer.capabilities and "completion" not in offer.capabilities


def tail_of(path: Path | None) -> list[tuple[str, bytes]]:
    """The end of a log file, by its name; nothing where it can't be read."""
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return [(path.name, file.read())]
    except OSError:
        return []
