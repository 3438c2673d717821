"""``narthex doctor --watch``: follows logs, and tells a failure as soon as a line proves it.

What the logs held before is context: a load's start is known from there, and what was wrong then is not told
as new. A finding is told when it comes up, and again only when a line that proves it comes again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from narthex.doctor.collect.places import LogPlace
from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.finding import SURE, Finding
from narthex.doctor.followers import Follower, follower
from narthex.doctor.reading.scanner import Scanner
from narthex.doctor.rule import Rule
from narthex.doctor.sign import Sign
from narthex.units import format_count, format_duration

POLL_S = 3.0  # between two looks at the services
SAME_S = 1.5  # lines of one failure come together; later ones are the next failure
_TURN_S = 0.1
_CALM_S = 0.2  # lines that belong together are judged together
_LONGEST_S = 0.5
_CONTEXT_S = 20.0  # so long is waited for the older lines of all logs
_LEAVE_S = 2.0
HOST = "host"  # the source of readings

OnFinding = Callable[[Finding, int], None]
"""Takes a finding, and how often it has come up since the watch began."""
OnNote = Callable[[str], None]

Fresh = dict[Sign, frozenset[tuple[str, int]]]
"""Of each sign the new lines that have it: source and number."""
_NONE: frozenset[tuple[str, int]] = frozenset()


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """How a watch ended."""

    seconds: float
    sources: int
    lines: int  # that came while it watched
    findings: dict[str, int]  # how often each cause came up

    @property
    def words(self) -> str:
        """One line."""
        told = ", ".join(f"{cause} ×{count}" for cause, count in self.findings.items())
        logs, new = format_count(self.sources, "log"), format_count(self.lines, "new line")
        return f"Watched {logs} for {format_duration(self.seconds)}: {new}; {told or 'nothing new found'}."


class Known(msgspec.Struct):
    """A finding that was seen: how often, when last, and by which signs it shows itself."""

    count: int
    at: float  # of the monotonic clock
    triggers: frozenset[Sign]  # all of them stand on the line that proves it
    sure: bool
    present: bool = True


class Piece(NamedTuple):
    """New lines of one log."""

    place: LogPlace
    data: bytes
    old: bool


def watch(
    sources: Sequence[LogPlace],
    rules: Sequence[Rule],
    signs: Sequence[Sign],
    *,
    on_finding: OnFinding,
    on_note: OnNote,
    stop: threading.Event,
    probe: Callable[[], Sequence[Reading]] | None = None,
    poll_s: float = POLL_S,
) -> Watched:
    """Until ``stop`` is set or Ctrl-C. ``probe`` gives cheap readings of the machine (see
    :mod:`narthex.doctor.collect.pulse`); it is called every ``poll_s`` in a thread of its own. Both callbacks
    are called in the caller's thread.
    """
    run = _Watch(sources, rules, signs, on_finding=on_finding, on_note=on_note, stop=stop)
    threads = run.start(probe, poll_s)
    try:
        run.go()
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        for thread in threads:
            if isinstance(thread, Follower):
                thread.end()
        for thread in threads:
            thread.join(_LEAVE_S)
    return run.result()


class _Watch:
    """One run. Followers and the probe put into the queue; everything else happens in one thread."""

    def __init__(
        self,
        sources: Sequence[LogPlace],
        rules: Sequence[Rule],
        signs: Sequence[Sign],
        *,
        on_finding: OnFinding,
        on_note: OnNote,
        stop: threading.Event,
    ) -> None:
        self._sources, self._rules, self._stop = sources, rules, stop
        self._on_finding, self._on_note = on_finding, on_note
        self._signs = tuple(signs)
        self._of_rule = {rule.slug: frozenset(rule.signs) for rule in rules}
        self._scanner = Scanner(signs)
        self._queue: queue.SimpleQueue[Piece | str | tuple[Reading, ...]] = queue.SimpleQueue()
        self._followers: list[Follower] = []
        self._readings: tuple[Reading, ...] = ()
        self._known: dict[tuple[str, str], Known] = {}
        self._counts: dict[Sign, int] = {}
        self._read: dict[str, int] = {}  # lines of each source that were judged
        self._hits = 0  # of the last judgement, and the readings it was made with
        self._judged: tuple[Reading, ...] = ()
        self._lines = 0
        self._early: list[Piece] = []  # new lines of one log that came before the older ones of another
        self._told = False  # whether what is seen counts as new
        self._begun = time.monotonic()

    def start(self, probe: Callable[[], Sequence[Reading]] | None, poll_s: float) -> list[threading.Thread]:
        """Begin to follow, and to look."""
        for place in self._sources:
            self._followers.append(follower(place, self._putter(place), self._queue.put, self._stop))
        threads: list[threading.Thread] = [*self._followers]
        if probe is not None:
            threads.append(threading.Thread(target=self._look, args=(probe, poll_s), daemon=True))
        for thread in threads:
            thread.start()
        return threads

    def go(self) -> None:
        """Until it is stopped."""
        self._take_context()
        first = last = 0.0  # when the lines came that are not judged yet
        while not self._stop.is_set():
            came = self._take(_TURN_S)
            now = time.monotonic()
            if came:
                first, last = first or now, now
            if first and (now - last >= _CALM_S or now - first >= _LONGEST_S):
                if self._scanner.new_hits != self._hits or self._readings != self._judged:
                    self._judge()
                first = 0.0

    def result(self) -> Watched:
        """How it went."""
        counts: dict[str, int] = {}
        for (cause, _), known in self._known.items():
            if known.count:
                counts[cause] = counts.get(cause, 0) + known.count
        return Watched(
            seconds=time.monotonic() - self._begun,
            sources=len(self._sources),
            lines=self._lines,
            findings=counts,
        )

    def _putter(self, place: LogPlace) -> Callable[[bytes, bool], None]:
        return lambda data, old: self._queue.put(Piece(place, data, old))

    def _look(self, probe: Callable[[], Sequence[Reading]], poll_s: float) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(tuple(probe()))
            except Exception as error:  # the logs are followed on
                self._queue.put(f"The services can't be looked at: {type(error).__name__}: {error}")
            self._stop.wait(poll_s)

    def _take_context(self) -> None:
        """The older lines of all logs; what they prove is known, and not told as new."""
        until = time.monotonic() + _CONTEXT_S
        while not self._stop.is_set() and time.monotonic() < until:
            ready = all(one.ready.is_set() for one in self._followers)
            if not self._take(_TURN_S if not ready else 0.0) and ready:
                break
        self._judge()
        standing = list(dict.fromkeys(cause for cause, _ in self._known))
        self._told = True
        for piece in self._early:
            self._feed(piece)
        before = f"; already there before: {', '.join(standing)}" if standing else ""
        self._on_note(f"Watching {format_count(len(self._sources), 'log')}{before}.")
        if self._early:
            self._judge()

    def _take(self, wait_s: float) -> bool:
        """What the queue holds now; False where nothing came."""
        came = False
        until = time.monotonic() + wait_s
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return came
            came = True
            if isinstance(item, Piece):
                self._feed(item) if item.old or self._told else self._early.append(item)
            elif isinstance(item, str):
                self._on_note(item)
            else:
                self._compare(item)
                self._readings = item
            if time.monotonic() > until + _TURN_S:  # so much comes that it has no end
                return came

    def _feed(self, piece: Piece) -> None:
        self._scanner.feed(piece.place.kind, piece.place.name, piece.data)
        self._lines += 0 if piece.old else piece.data.count(b"\n")

    def _compare(self, now: Sequence[Reading]) -> None:
        """Tell of services that went away or came back since the last look."""
        before = {(row.name, row.about): row.value for row in self._readings if row.name.endswith(".answers")}
        for row in now:
            was = before.get((row.name, row.about))
            if self._told and was is not None and row.value is not None and was != row.value:
                self._on_note(row.text or f"{row.name} {row.about}: {row.value}")

    def _judge(self) -> None:
        """Ask the rules, and tell what is new."""
        self._hits, self._judged = self._scanner.new_hits, self._readings
        evidence = self._scanner.evidence(readings=self._readings, live=bool(self._readings))
        fresh = self._fresh(evidence)
        now = time.monotonic()
        found = {
            (finding.cause, finding.about): finding
            for finding in diagnose(evidence, self._rules).findings
            if finding.is_trouble
        }
        for key, known in self._known.items():
            known.present = known.present and key in found
        for finding in found.values():
            self._weigh(finding, evidence, fresh, now)

    def _fresh(self, evidence: Evidence) -> Fresh:
        """The lines that came since the last judgement, of each sign that was found on one."""
        counts = {sign: count for sign in self._signs if (count := evidence.count(sign))}
        grown = [sign for sign, count in counts.items() if count > self._counts.get(sign, 0)]
        fresh = {
            sign: frozenset(
                hit.entry.place
                for hit in evidence.hits(sign)
                if hit.entry.line > self._read.get(hit.entry.source, 0)
            )
            for sign in grown
        }
        self._counts = counts
        self._read = {source.name: source.lines for source in evidence.sources}
        return fresh

    def _weigh(self, finding: Finding, evidence: Evidence, fresh: Fresh, now: float) -> None:
        """Tell it where it is new, where it came up again, or where a suspicion became sure."""
        key = (finding.cause, finding.about)
        sure = finding.confidence >= SURE
        known = self._known.get(key)
        if known is None:
            triggers = self._triggers(finding, evidence, fresh)
            self._known[key] = known = Known(count=0, at=now - 2 * SAME_S, triggers=triggers, sure=sure)
            again = self._told
        elif known.triggers:
            again = bool(frozenset.intersection(*(fresh.get(sign, _NONE) for sign in known.triggers)))
        else:
            again = not known.present
        if again and now - known.at > SAME_S:
            known.count += 1
            self._on_finding(finding, known.count)
        elif self._told and known.count and sure and not known.sure:
            self._on_finding(finding, known.count)
        if again:
            known.at = now
        known.present, known.sure = True, sure or known.sure

    def _triggers(self, finding: Finding, evidence: Evidence, fresh: Fresh) -> frozenset[Sign]:
        """The signs by which it shows itself: those of the last line that it quotes of each log, else those
        of its rule that are new just now. None where it stands on readings alone."""
        last: dict[str, int] = {}
        for quote in finding.evidence:
            if quote.source != HOST:
                last[quote.source] = max(quote.line, last.get(quote.source, 0))
        if not last:
            return frozenset()
        found = frozenset(
            sign
            for sign in self._signs
            if any(last.get(hit.entry.source) == hit.entry.line for hit in evidence.hits(sign))
        )
        own = self._of_rule[finding.cause]
        return (found & own) or found or frozenset(sign for sign in own if sign in fresh)
