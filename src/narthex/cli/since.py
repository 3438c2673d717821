"""``--since``: a moment as people write it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from narthex.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(
    r"(\d+(?:\.\d+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)(?:\s+ago)?", re.IGNORECASE
)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")


def parse_since(text: str, now: datetime | None = None) -> float:
    """Seconds since 1970 of ``2h``, ``10 min ago``, ``2026-11-20``, ``2026-11-20 14:30``, ``14:30``,
    ``today`` or ``yesterday``, in local time unless it says otherwise. Raises UsageError."""
    moment = (now or datetime.now()).astimezone()
    found = _moment(text.strip(), moment)
    if found is None:
        raise UsageError(
            f"«{text}» is no time.",
            hint='Write 2h, "10 min ago", yesterday, 14:30, 2026-11-20 or "2026-11-20 14:30".',
        )
    if found > moment:
        raise UsageError(f"«{text}» is still to come.", hint="Give a time before now, as in 2h.")
    return max(0.0, found.timestamp())  # nothing is older, and no program takes less


def _moment(text: str, now: datetime) -> datetime | None:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text.lower() in ("today", "yesterday"):
        return midnight - timedelta(days=text.lower() == "yesterday")
    if ago := _AGO.fullmatch(text):
        try:
            return now - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2][0].lower()])
        except OverflowError:
            return None
    try:
        if clock := _CLOCK.fullmatch(text):
            return midnight.replace(hour=int(clock[1]), minute=int(clock[2]), second=int(clock[3] or 0))
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
