"""What the scheduler refuses with: the sentence, the figures, the way out."""

from __future__ import annotations

from collections.abc import Sequence

from narthex.gateway.schedule.records import Room
from narthex.gateway.trouble import Trouble
from narthex.units import format_duration, format_size

_SOON_S = 5.0
_OTHERS_S = 10.0  # a program that is not ours rarely lets go at once
_PINNED_S = 30.0


def does_not_fit(need: int, room: Room) -> Trouble:
    """It needs more than there is for one model: for ever, or as long as other programs hold what they
    hold. ``need`` in bytes; the room's total is known."""
    assert room.total is not None
    figures = {
        "need_bytes": need,
        "total_bytes": room.total,
        "reserve_bytes": room.reserve,
        "others_bytes": room.others,
    }
    words = (
        f"It needs {format_size(need)}; the card has {format_size(room.total)}, of which "
        f"{format_size(room.reserve)} stay free and {format_size(room.others)} are held by other programs."
    )
    if need <= room.total - room.reserve:
        return Trouble(
            503,
            "vram_held_by_others",
            words,
            remedy="`narthex host` shows who holds it; it is loaded once they let go.",
            retry_after_s=_OTHERS_S,
            figures=figures,
        )
    return Trouble(
        507,
        "vram_does_not_fit",
        words,
        remedy="`narthex plan MODEL` shows a setting that fits: less context, fewer GPU layers, a smaller KV "
        "type.",
        figures=figures,
    )


def pinned(names: Sequence[str]) -> Trouble:
    """These may not go for it."""
    return Trouble(
        503,
        "vram_pinned",
        f"There is no room beside {_listed(names)}, pinned with a keep_alive of -1.",
        remedy="Ask for the pinned model with another keep_alive, or unload it.",
        retry_after_s=_PINNED_S,
        figures={"pinned": list(names)},
    )


def unknown(key: str) -> Trouble:
    """Nobody made this key known."""
    return Trouble(
        404, "model_not_found", f"«{key}» is not known.", remedy="GET /api/tags lists what there is."
    )


def queue_full(waiting: int, limit: int) -> Trouble:
    """No more may wait."""
    return Trouble(
        503,
        "queue_full",
        f"{waiting} requests are waiting already, and no more than {limit} may ([gateway] queue).",
        remedy="Try again in a moment.",
        retry_after_s=_SOON_S,
        figures={"waiting": waiting, "limit": limit},
    )


def too_late(
    name: str, waited_s: float, busy: Sequence[str], *, waiting: int, ahead: int, retry_s: float
) -> Trouble:
    """Its time is over. ``busy``: who was in the way; ``ahead``: those of the ``waiting`` ones who would have
    gone first."""
    way = f"{_listed(busy)} was in the way" if busy else "the card was being made free"
    return Trouble(
        503,
        "waited_too_long",
        f"It waited {format_duration(waited_s)} for «{name}»: {way}, and {ahead} of {waiting} "
        "in the queue went first.",
        remedy="Try again later, or ask for what is loaded (GET /api/ps).",
        retry_after_s=retry_s,
        figures={"waited_s": waited_s, "waiting": waiting, "ahead": ahead, "in_the_way": list(busy)},
    )


def instead_of(name: str, trouble: Trouble, *, tried: bool) -> str:
    """Why another one than this answers, in a clause. ``tried``: its load failed; else it was not begun."""
    what = "could not be loaded" if tried else "can't be had now"
    return f"«{name}» {what}: {trouble.message.strip().removesuffix('.')}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"«{name}»" for name in names)
