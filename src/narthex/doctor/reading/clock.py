"""What time a line tells, in any of the ways in which programs and journals write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo

_ZONED = re.compile(
    r"(?P<own>time=\"?)?(?P<stamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d))"
)
_DATED = re.compile(r"\b(20\d\d)[-/](\d\d)[-/](\d\d)[T -]")
_BODY = (  # at the beginning of what a program itself wrote
    re.compile(r"time=\"?(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)"),
    re.compile(r"\[GIN\] (?P<slash>\d{4}/\d\d/\d\d - \d\d:\d\d:\d\d)"),
    re.compile(r"\[?(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)"),
    re.compile(r"(?P<slash>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)"),
)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,6})\d*)? ?(Z|[+-]\d\d:?\d\d)?(?:\s|\]|$)"
)
_SHORT = re.compile(r"(\S+?)\.? *[\s月월] *(\d{1,2})[日일.]? (\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")
_LONG = re.compile(r"\[?\S+ (\S+?)\.? +(\d{1,2}) (\d\d):(\d\d):(\d\d)()(?:\.\d+)? (\d{4})\]?")
_UNIX = re.compile(r"(\d{10})(?:\.(\d+))?")
# Short names as journald and dmesg write them in the languages of glibc; lower case, without full stop.
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan janv ene gen jän січ янв sty led oca ιαν january tammi",
            "feb févr fev лют фев lut úno şub φεβ february helmi fév",
            "mar mars mär märz mrt бер мар mrz bře μάρ μαρ march maalis",
            "apr avr abr квіт кві апр kwi dub nis απρ april avril huhti",
            "may mai mag mei maj трав тра мая май kvě μάι μαΐ touko maio",
            "jun juin giu черв чер июн cze čen haz ιούν ιουν june juni kesä",
            "jul juil lug лип июл lip čec tem ιούλ ιουλ july juli heinä",
            "aug août ago серп сер авг sie srp ağu αύγ αυγ august elo aoû",
            "sep sept set вер сен wrz zář eyl σεπ september syys",
            "oct okt ott out жовт жов окт paź říj eki οκτ october loka",
            "nov лист лис ноя lis kas νοέ νοε november marras",
            "dec déc dez dic des груд гру дек gru pro ara δεκ december joulu",
        ),
        start=1,
    )
    for name in names.split()
}


class Clock:
    """Reads times of one source. What a line leaves out, the year or the zone, is taken from other lines of
    the source; where none tells the zone, UTC is taken, and where none tells the year, the last year in which
    that day is past."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._zone: tzinfo = UTC
        self._day: datetime | None = None

    def learn(self, sample: str) -> None:
        """From the beginning of the source: its zone and about which day it was written."""
        stamps = list(_ZONED.finditer(sample))
        told = next((one for one in stamps if one["own"]), stamps[0] if stamps else None)
        moment = _iso(told["stamp"], UTC) if told else None
        if moment is not None and moment.tzinfo is not None:
            self._zone = moment.tzinfo
            self._day = moment
        elif (dated := _DATED.search(sample)) is not None:
            self._day = _safe(lambda: datetime(int(dated[1]), int(dated[2]), int(dated[3]), tzinfo=UTC))

    def at(self, body: str, stamp: str) -> float | None:
        """Seconds since 1970 of a line: what the program wrote before what the carrier did, a full time
        before one without zone or year."""
        own = self._own(body)
        if own is not None and own[1]:
            return own[0]
        carried = self._carried(stamp) if stamp else None
        if carried is not None and (carried[1] or own is None):
            return carried[0]
        return own[0] if own is not None else None

    def _own(self, body: str) -> tuple[float, bool] | None:
        if body[:1] not in "t[2":
            return None
        for pattern in _BODY:
            if (found := pattern.match(body)) is not None:
                text = found.groupdict().get("iso") or found["slash"].replace("/", "-").replace(" - ", " ")
                return self._full(text)
        return None

    def _full(self, text: str) -> tuple[float, bool] | None:
        moment = _iso(text, self._zone)
        zoned = text.endswith("Z") or text[-6:-5] in "+-" or text[-5:-4] in "+-"
        return None if moment is None else (moment.timestamp(), zoned)

    def _carried(self, stamp: str) -> tuple[float, bool] | None:
        if stamp[:4].isdigit() and stamp[4:5] == "-":
            return self._full(stamp)
        if (found := _UNIX.match(stamp)) is not None:
            return float(found[0]), True
        if (found := _LONG.match(stamp)) is not None:
            return self._named(found, int(found[7]))
        if (found := _SHORT.match(stamp)) is not None:
            return self._named(found, None)
        return None

    def _named(self, found: re.Match[str], year: int | None) -> tuple[float, bool] | None:
        name = found[1].lower()
        month = int(name) if name.isascii() and name.isdigit() else _MONTHS.get(name, 0)
        part = int((found[6] or "0").ljust(6, "0"))
        near = self._day or self._now()
        years = (year,) if year else (near.year, near.year - 1, near.year + 1)
        moments = [
            moment
            for one in years
            if (
                moment := _safe(
                    lambda one=one: datetime(  # type: ignore[misc]
                        one,
                        month,
                        int(found[2]),
                        int(found[3]),
                        int(found[4]),
                        int(found[5]),
                        part,
                        self._zone,
                    )
                )
            )
            is not None
        ]
        if self._day is None and year is None:
            moments = [one for one in moments if one <= near + timedelta(days=1)]
        best = min(moments, key=lambda one: abs(one - near), default=None)
        return None if best is None else (best.timestamp(), False)


def _iso(text: str, zone: tzinfo) -> datetime | None:
    found = _ISO.match(text)
    if found is None:
        return None
    part = int((found[4] or "0").ljust(6, "0"))
    moment = _safe(lambda: datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3] or ':00'}"))
    if moment is None:
        return None
    if found[5] == "Z":
        zone = UTC
    elif found[5]:
        sign = -1 if found[5][0] == "-" else 1
        hours, minutes = int(found[5][1:3]), int(found[5][-2:])
        if hours > 23 or minutes > 59:
            return None
        zone = timezone(sign * timedelta(hours=hours, minutes=minutes))
    return moment.replace(microsecond=part, tzinfo=zone)


def _safe(make: Callable[[], datetime]) -> datetime | None:
    """None where the figures are no date."""
    try:
        return make()
    except (ValueError, OverflowError):
        return None
