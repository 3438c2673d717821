"""Logs of the services outside containers: since the last start of who answers, else the newest lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from narthex.doctor.collect import ollama_servers
from narthex.doctor.collect.asking import all_within
from narthex.doctor.collect.big_file import BigFile
from narthex.doctor.collect.collected import Collected, together
from narthex.doctor.collect.log_places import service_logs
from narthex.doctor.collect.places import LogPlace, journal_options
from narthex.doctor.collect.scope import Scope
from narthex.doctor.finding import Skipped
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.text import Text
from narthex.engines.ollama.logs import HEAD_S, START

NAME = "logs"
TIME_S = 12.0
MOST_BYTES = 20 << 20
LINES = 40_000
_ONE_S = 4.0  # for one log
_HEAD_BYTES = 1 << 20
_COUNTED_BYTES = 512 << 20  # lines before an excerpt are counted only so far, it takes time
_SEARCHED_BYTES = 2 << 30  # so far back from its end the last start is looked for
_DOWN_S = 86_400.0  # of a service that does not run the last day is read
_SAMPLE = 1 << 16
_START = START.encode()


def collect(scope: Scope) -> Collected:
    """Ollama's, llama-server's, OpenWebUI's and ComfyUI's; containers' logs are another collector's."""
    if not scope.is_this_machine:
        return Collected()
    places = service_logs(scope)
    answering = {server.log for server in ollama_servers.find(scope).servers if server.log}
    works = [_reader(scope, place, place.where in answering) for place in places]
    found = all_within(_ONE_S, works)
    return together(part or _late(place) for part, place in zip(found, places, strict=True))


def _late(place: LogPlace) -> Collected:
    why = f"can't tell, because reading {place.name} took longer than {_ONE_S:g} s"
    return Collected(skipped=(Skipped(what=place.name, why=why),))


def _reader(scope: Scope, place: LogPlace, answers: bool) -> Callable[[], Collected]:
    return lambda: (_file if place.means == "file" else _journal)(scope, place, answers)


def _file(scope: Scope, place: LogPlace, answers: bool) -> Collected:
    path = Path(place.target)
    try:
        if path.stat().st_mtime < (scope.since or 0.0):
            return Collected()
        text = excerpt(place.kind, path, since=scope.since, last_start=answers)
    except OSError as error:
        why = f"can't tell, because {path} can't be read: {error.strerror or error}"
        return Collected(skipped=(Skipped(what=place.name, why=why),))
    return Collected(texts=(text,) if text is not None else ())


def excerpt(kind: str, path: Path, *, since: float | None, last_start: bool) -> Text | None:
    """The part of a log file that matters: from a moment on, or from the last start of its server on; of a
    long one the first minute's lines and the newest 20 MiB. None of an empty one. Raises OSError."""
    with path.open("rb") as file:
        whole = BigFile(file)
        size = whole.size
        if not size:
            return None
        first = 0
        if since is not None:
            first = _from_moment(whole, since)
        elif last_start:
            first = _last_start(whole)
        if first == 0 and size <= MOST_BYTES:
            return Text(kind=kind, name=str(path), path=path)
        return Text(kind=kind, name=_name(path, whole, first), data=_part(whole, first))


def _last_start(whole: BigFile) -> int:
    """Where the line of the last start begins; 0 where none is found."""
    at = whole.rfind(_START, max(0, whole.size - _SEARCHED_BYTES), whole.size)
    return whole.rfind(b"\n", 0, at) + 1 if at > 0 else 0


def _part(whole: BigFile, first: int) -> bytes:
    if whole.size - first <= MOST_BYTES:
        return whole.part(first, whole.size)
    head = whole.part(first, first + _HEAD_BYTES).rpartition(b"\n")[0] + b"\n"
    tail = whole.part(whole.size - MOST_BYTES, whole.size).partition(b"\n")[2]
    return head + tail if _START in head else tail


def _name(path: Path, whole: BigFile, first: int) -> str:
    """Line numbers of an excerpt count from its own first line; its name tells where that stands."""
    if first > _COUNTED_BYTES or whole.size - first > MOST_BYTES:
        return f"{path} (its newest lines)"
    return f"{path} from line {whole.lines_before(first) + 1}"


def _from_moment(whole: BigFile, since: float) -> int:
    """Where the first line begins that is not older, found by halving: times rise in a log."""
    clock = Clock()
    clock.learn(whole.part(0, _SAMPLE).decode(errors="replace"))
    low, high = 0, whole.size  # lines that begin before ``low`` are older, those from ``high`` on are not
    while low < high:
        middle = (low + high) // 2
        start = whole.rfind(b"\n", 0, middle) + 1
        at, behind = _next_time(whole, start, high, clock)
        if at is not None and at < since:
            low = behind
        else:
            high = start
    return low


def _next_time(whole: BigFile, start: int, end: int, clock: Clock) -> tuple[float | None, int]:
    """The first time that a line tells between two places, and where that line ends."""
    while start < end:
        stop = whole.find(b"\n", start, whole.size)
        behind = whole.size if stop < 0 else stop + 1
        at = clock.at(whole.part(start, min(behind, start + 400)).decode(errors="replace"), "")
        if at is not None:
            return at, behind
        start = behind
    return None, end


def _journal(scope: Scope, place: LogPlace, answers: bool) -> Collected:
    options = ["--quiet", "--no-pager", "--output=short-iso", f"--lines={LINES}"]
    since = scope.since
    if since is None and not answers:
        since = time.time() - _DOWN_S
    if since is not None:
        options.append(f"--since=@{int(since)}")
    argv = ["journalctl", *journal_options(place), *options]
    ran = scope.children.run(argv, seconds=_ONE_S - 1, most_bytes=MOST_BYTES)
    if ran.missing:
        return Collected()
    if not ran.out:
        why = ran.err or "it shows nothing of that to this user; the group systemd-journal may see all of it"
        gap = Skipped(what=place.name, why=f"can't tell, because {' '.join(why.split())}")
        return Collected(skipped=(gap,) if ran.err or answers else ())
    data = ran.out
    if answers and scope.since is None:
        cut = data.rfind(_START)
        data = data[data.rfind(b"\n", 0, cut) + 1 :] if cut >= 0 else _head(scope, place) + data
    return Collected(texts=(Text(kind=place.kind, name=place.name, data=data),))


def _head(scope: Scope, place: LogPlace) -> bytes:
    """What followed the last start, where the newest lines do not reach back to it."""
    ask = ["journalctl", *journal_options(place), "--quiet", "--no-pager"]
    ran = scope.children.run([*ask, f"--grep={START}", "--lines=1", "--output=short-unix"], seconds=1.0)
    stamp = ran.out.decode(errors="replace").partition(" ")[0].partition(".")[0]
    if not stamp.isdecimal():
        return b""
    window = [f"--since=@{stamp}", f"--until=@{int(stamp) + HEAD_S}", "--output=short-iso"]
    return scope.children.run([*ask, *window], seconds=1.0, most_bytes=_HEAD_BYTES).out
